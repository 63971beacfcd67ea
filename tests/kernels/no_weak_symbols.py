"""Checks that object files compiled for one instruction set define no mergeable symbol.

The linker keeps one copy of each weak function, whichever file it comes from: an inline function
compiled with -mavx512f could so end up in code that an AVX2 machine runs.

usage: no_weak_symbols.py NM OBJECT...
"""

import re
import subprocess
import sys

SIMD_OBJECT = re.compile(r"_(avx2|avx512|vnni|amx)\.cc\.o$")
MERGEABLE = {"W", "V", "u"}  # weak functions, weak objects, unique globals; lower-case w: undefined


def mergeable_symbols(nm, path):
    lines = subprocess.run([nm, "--demangle", path], check=True, capture_output=True, text=True)
    for line in lines.stdout.splitlines():
        match = re.match(r"(?:[0-9a-f]+)?\s+(\S) (.*)", line)
        if match and match[1] in MERGEABLE:
            yield match[2]


def main():
    nm, *objects = sys.argv[1:]
    simd_objects = [path for path in objects if SIMD_OBJECT.search(path)]
    if len(simd_objects) < 3:
        sys.exit(f"expected the SIMD files among {len(objects)} objects, found {simd_objects}")
    found = [f"{path}: {name}" for path in simd_objects for name in mergeable_symbols(nm, path)]
    if found:
        sys.exit("mergeable symbols in SIMD files:\n" + "\n".join(found))
    print(f"{len(simd_objects)} SIMD objects define no mergeable symbol")


main()
