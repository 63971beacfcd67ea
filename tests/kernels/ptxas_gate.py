"""Checks that no kernel spills registers, by what ptxas said when it was compiled.

usage: ptxas_gate.py OBJECT...    reads OBJECT.ptxas of each CUDA object (cmake/keep_ptxas_log.sh)

Prints a table of every kernel: architecture, registers, static shared memory, stack and spills.
"""

import pathlib
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def kernels(log):
    """Yields (name, arch, registers, smem, stack, spilled bytes)."""
    name = arch = None
    stack = spilled = 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            name, arch = match.groups()
            stack = spilled = None
        elif name and (match := STACK.search(line)):
            stack, spilled = int(match[1]), int(match[2]) + int(match[3])
        elif name and (match := USED.search(line)):
            yield name, arch, int(match[1]), int(match[2] or 0), stack, spilled
            name = None


def demangle(names):
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    return run.stdout.splitlines() if run.returncode == 0 else names


def main():
    logs = [pathlib.Path(f"{path}.ptxas") for path in sys.argv[1:] if path.endswith(".cu.o")]
    missing = [str(log) for log in logs if not log.exists()]
    if not logs or missing:
        sys.exit(f"no log of ptxas for: {missing or 'any object'}")
    rows = [row for log in logs for row in kernels(log.read_text())]
    if not rows or any(row[5] is None for row in rows):
        sys.exit("the logs of ptxas name no kernels, or none of their spills")
    print("arch registers static_smem stack spilled kernel")
    for name, (_, arch, registers, smem, stack, spilled) in zip(
            demangle([row[0] for row in rows]), rows):
        print(f"{arch} {registers:9} {smem:11} {stack:5} {spilled:7} {name}")
    spilling = [row for row in rows if row[5] > 0]
    print(f"{len(rows)} kernels, {len(spilling)} spill")
    sys.exit(1 if spilling else 0)


main()
