#!/usr/bin/env python3
"""Breaks the code in ways drawn with a seed, one at a time, and counts which of them a test notices.

    scripts/mutants.py [--seed N] [--count N] [--package opt-nn|opt-quant] [--out DIR] [-- ARGUMENTS OF THE TESTS]

Needs `cargo install cargo-mutants`. Mutates the checkout that it is started in, in place: use a clone of its own.
The mutants are those of opt-nn's forward, gradients, quantized and train, and of opt-quant; --package runs those of the
sample that are in one crate. Each is tested with the tests of its own crate.
"""

import argparse
import json
import random
import re
import subprocess
import sys

FILES = re.compile(
    r"crates/(opt-nn/src/(forward|gradients|quantized|train)(\.rs|/.*)|opt-quant/src/.*)$"
)
PACKAGES = ("opt-nn", "opt-quant")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--package", choices=PACKAGES)
    parser.add_argument("--out", default="mutants.out")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()

    listing = ["cargo", "mutants", "--list", "--json"]
    for package in PACKAGES:
        listing += ["--package", package]
    found = json.loads(subprocess.run(listing, check=True, stdout=subprocess.PIPE).stdout)
    names = sorted((m["package"], m["name"]) for m in found if FILES.match(m["file"]))
    sample = random.Random(options.seed).sample(names, min(options.count, len(names)))
    print(f"{len(sample)} of {len(names)} mutants, seed {options.seed}", flush=True)

    outcome = 0
    for package in PACKAGES:
        chosen = [name for of, name in sample if of == package]
        if options.package not in (None, package) or not chosen:
            continue
        print(f"{package}: {len(chosen)}", flush=True)
        command = ["cargo", "mutants", "--package", package, "--test-package", package, "--in-place"]
        command += ["--baseline", "skip", "--timeout", "600", "--no-shuffle", "--colors", "never"]
        command += ["--output", f"{options.out}/{package}"]
        for name in chosen:
            command += ["--re", f"^{re.escape(name)}$"]
        outcome |= subprocess.run([*command, "--", "--lib", *options.tests], check=False).returncode
    # 2: some were missed, 3: some timed out; the lists are in DIR/PACKAGE/mutants.out.
    sys.exit(outcome)


if __name__ == "__main__":
    main()
