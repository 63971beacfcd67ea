#!/usr/bin/env python3
"""No include goes upwards, and the tree keeps to its own rules.

Layers, from the bottom: base, kernels, model, scheduler, server; client beside server uses proto and
base alone. The scheduler is pure: of the layers below it may include only the plain data in
model/step.h and model/executor.h, and base.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYERS = ["base", "kernels", "model", "scheduler", "server", "client"]
ALLOWED = {
    "base": {"base"},
    "kernels": {"kernels", "base"},
    "model": {"model", "kernels", "base"},
    "scheduler": {"scheduler", "base"},
    "server": {"server", "scheduler", "model", "kernels", "base", "proto"},
    "client": {"client", "base", "proto"},
}
SCHEDULER_MAY_READ = {"model/step.h", "model/executor.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
BANNED = [
    (re.compile(r"\b(throw|try)\b(?!_)"), "we never throw, and catch only around CLI11 and other throwing libraries"),
    (re.compile(r"\b(TODO|FIXME|XXX)\b"), "finish it, or write an issue"),
]
MAY_CATCH = {"client/options.cc", "server/no_throw.h"}
MAX_LINES = 600
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|R"\w*\(.*?\)\w*"|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def tracked_sources():
    names = subprocess.run(
        ["git", "ls-files", "*.h", "*.cc", "*.cu", "*.cuh"], cwd=ROOT, check=True, capture_output=True,
        text=True).stdout.split()
    return [name for name in names if name.split("/")[0] in LAYERS]


def layer_of_include(path):
    top = path.split("/")[0]
    return "proto" if top in ("proto", "tessera") or path.endswith(".pb.h") else top


def include_errors(name, text):
    layer = name.split("/")[0]
    for included in INCLUDE.findall(text):
        target = layer_of_include(included)
        if target not in LAYERS + ["proto"]:
            continue  # a package's header in quotes
        if target in ALLOWED[layer]:
            continue
        if layer == "scheduler" and included in SCHEDULER_MAY_READ:
            continue
        yield f"{name}: {layer} may not include {included}"


def rule_errors(name, text):
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield f"{name}: {lines} lines, at most {MAX_LINES}: does it have one job?"
    code = COMMENT_OR_STRING.sub("", text)
    for pattern, why in BANNED:
        where = text if "TODO" in pattern.pattern else code
        if name not in MAY_CATCH and pattern.search(where):
            yield f"{name}: '{pattern.search(where).group(0)}': {why}"


def main():
    errors = []
    for name in tracked_sources():
        text = (ROOT / name).read_text()
        errors += include_errors(name, text)
        errors += rule_errors(name, text)
    for error in errors:
        print(error)
    print(f"layers: {len(tracked_sources())} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
