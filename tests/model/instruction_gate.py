"""Fails if a decode step or a prefill costs more instructions than tests/golden/instructions.json
says, so that a slower kernel shows in CI, where no time can be trusted.

usage: instruction_gate.py STEP_INSTRUCTIONS [--write]

valgrind emulates a CPU with AVX2 and no AVX-512, so it is that path which is counted; compiled by
g++ 12, as counts are a compiler's own. --write takes the present counts over.
"""

import json
import pathlib
import re
import subprocess
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "instructions.json"
TOLERANCE = 0.02  # of the committed count, up or down: gains are to be committed too


def count(program, step):
    run = subprocess.run(
        ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null",
         program, step], capture_output=True, text=True, check=False)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or collected is None or int(collected[1]) == 0:
        sys.exit(f"{step}: valgrind ended with {run.returncode} and no count:\n{run.stderr}")
    return int(collected[1])


def main():
    counts = {step: count(sys.argv[1], step) for step in ("decode", "prefill")}
    if "--write" in sys.argv:
        GOLDEN.write_text(json.dumps(counts, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    failed = False
    for step, instructions in counts.items():
        change = instructions / expected[step] - 1
        failed |= abs(change) > TOLERANCE
        print(f"{step}: {instructions:,} instructions, {change:+.2%} of {expected[step]:,}")
    if failed:
        sys.exit(f"expected at most {TOLERANCE:.0%} of change; if it is meant: --write, and say why")


main()
