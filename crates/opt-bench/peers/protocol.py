"""What every peer script begins with: requests as lines of JSON on standard input, answers on standard output."""

import json
import os
import sys
import traceback

# Whatever a library prints must not look like an answer.
_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def memory():
    """What the process holds now and what it held at most, in KiB; None where there is no /proc."""
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}
        return {"now": kib["VmRSS"], "peak": kib["VmHWM"]}
    except OSError:
        return None


def serve(handlers):
    """Answers {"do": NAME, ARGUMENT: VALUE, ...} by calling the handler NAME, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": handlers[request.pop("do")](**request)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        _answers.write(json.dumps(answer) + "\n")
        _answers.flush()
