#!/usr/bin/env bash
# Kills the smoke profile with SIGKILL at random moments, starts the same command again each time, and checks that the end is
# that of a run which was never stopped: the same accuracy and the same bytes of models and answers for every variant, in at most the
# time of that run plus KILLS × (start + one epoch). A run that ends before the last kill is compared, and the next begun.
#
# Usage: scripts/kill-test.sh [KILLS=20] [SEED=1]     from the repository's root; leaves nothing behind.
set -euo pipefail
kills=${1:-20}
RANDOM=${2:-1}
command -v bc > /dev/null || { echo "kill-test needs bc: install it" >&2; exit 1; }
cargo xtask experiment list > /dev/null
program=${CARGO_TARGET_DIR:-target}/release/opt-rs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OPT_ROOT=$PWD

run() { # NAME: the smoke profile in a folder and with a cache of this name
    OPT_CACHE_DIR=$work/cache-$1 exec "$program" experiment all \
        --profile smoke --data synthetic --device cpu --out "$work/$1" > "$work/$1.log" 2>&1
}
now() { date +%s.%N; }
since() { echo "$(now) - $1" | bc -l; }
metrics() { # NAME: what may not depend on how often a run was stopped
    sed -E 's/.*"variant":"([^"]*)".*"seed":([0-9]*).*"top1":([0-9.]*).*"key":"([^"]*)".*/\1 seed \2: \3 % \4/' \
        "$work/$1/results.jsonl"
}

begin=$(now)
(run whole)
whole=$(since "$begin")
begin=$(now)
(run whole)
start=$(since "$begin")
epoch=$(grep -oE '"images_per_second":[0-9.]+' "$work/whole/curves.jsonl" | cut -d: -f2 | sort -g | head -1 |
    awk '{ printf "%.2f", 2000 / $1 }')
printf 'uninterrupted: %.1f s; start of a finished run: %.1f s; longest epoch: %.1f s\n' "$whole" "$start" "$epoch"

status=0
total=0
done_kills=0
runs=0
compare() { # after a run that was killed on its way has come to its end
    runs=$((runs + 1))
    if diff <(metrics whole) <(metrics stopped); then
        echo "run $runs: all $(wc -l < "$work/whole/results.jsonl") variants end as in the uninterrupted run"
    else
        echo "FAILED: the results differ" >&2
        status=1
    fi
    for part in models answers; do
        diff -rq "$work/whole/$part" "$work/stopped/$part" || status=1
    done
    for lines in curves layers; do
        [ "$(wc -l < "$work/whole/$lines.jsonl")" = "$(wc -l < "$work/stopped/$lines.jsonl")" ] ||
            { echo "FAILED: $lines.jsonl differs in length" >&2; status=1; }
    done
    rm -rf "$work/stopped" "$work/cache-stopped"
}
while [ "$done_kills" -lt "$kills" ]; do
    # Some kills come before the first epoch is done, some after two.
    delay=$(echo "0.1 + ($start + 2 * $epoch) * $RANDOM / 32768" | bc -l)
    begin=$(now)
    (run stopped) &
    process=$!
    (sleep "$delay" && kill -KILL "$process") 2> /dev/null &
    killer=$!
    code=0
    wait "$process" 2> /dev/null || code=$?
    # It must not hit another process of that number later.
    kill "$killer" 2> /dev/null || true
    if [ "$code" -eq 0 ]; then
        total=$(echo "$total + $(since "$begin")" | bc -l)
        compare
        continue
    elif [ "$code" -ne 137 ]; then
        echo "FAILED: it ended with $code, not by the kill:" >&2
        cat "$work/stopped.log" >&2
        exit 1
    fi
    total=$(echo "$total + $(since "$begin")" | bc -l)
    done_kills=$((done_kills + 1))
    printf 'kill %2d after %4.1f s: %s variants measured\n' "$done_kills" "$delay" \
        "$(cat "$work/stopped/results.jsonl" 2> /dev/null | wc -l)"
done
begin=$(now)
(run stopped)
total=$(echo "$total + $(since "$begin")" | bc -l)
compare

allowed=$(echo "$runs * $whole + $done_kills * ($start + $epoch)" | bc -l)
printf '%d kills in %d runs: %.1f s in all, allowed %.1f s\n' "$done_kills" "$runs" "$total" "$allowed"
if [ "$(echo "$total <= $allowed" | bc -l)" != 1 ]; then
    echo "FAILED: it took too long" >&2
    status=1
fi
exit $status
