#!/usr/bin/env python3
"""Time and memory of attention against length: our tiled kernel beside naive attention, which stops
where its scores no longer fit.

    bench/attention_length.py --out bench/results/NAME [--threads 2] [--max-tokens 65536]

Writes attention-length.json and, where matplotlib is there, attention-length.png.
"""

import argparse
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/release/bin/attention_length"
NUM_HEADS = 9


def free_bytes():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def measure(kind, tokens, threads):
    if kind == "naive" and NUM_HEADS * tokens * tokens * 4 > free_bytes() * 0.8:
        print(f"naive, {tokens} tokens: {NUM_HEADS * tokens * tokens * 4 >> 30} GiB do not fit")
        return None
    output = subprocess.run([PROGRAM, kind, str(tokens), str(threads)], check=True,
                            capture_output=True, text=True).stdout
    print(output.strip(), flush=True)
    return json.loads(output)


def plot(rows, path):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(10, 4))
    for kind in ("tiled", "naive"):
        mine = [row for row in rows if row["kind"] == kind]
        tokens = [row["tokens"] for row in mine]
        time_axis.loglog(tokens, [row["seconds"] for row in mine], "o-", label=kind, base=2)
        memory_axis.loglog(tokens, [row["extra_mib"] for row in mine], "o-", label=kind, base=2)
    time_axis.set(xlabel="tokens", ylabel="seconds", title="causal attention, 9/3 heads of 64")
    memory_axis.set(xlabel="tokens", ylabel="MiB beside q, k, v and out", title="peak memory")
    for axis in (time_axis, memory_axis):
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--max-tokens", type=int, default=65536)
    args = parser.parse_args()
    rows = []
    tokens = 1024
    while tokens <= args.max_tokens:
        rows += [row for kind in ("tiled", "naive") if (row := measure(kind, tokens, args.threads))]
        tokens *= 2
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "attention-length.json").write_text(
        json.dumps({"threads": args.threads, "rows": rows}, indent=1) + "\n")
    plot(rows, args.out / "attention-length.png")


if __name__ == "__main__":
    main()
