#!/usr/bin/env python3
"""Time and memory of attention against length, on the GPU if there is one, else on the CPU: our
tiled kernel beside naive attention, which stops where its scores no longer fit.

    bench/attention.py --out bench/results/NAME [--build build/release] [--device auto|cpu|cuda]

Writes attention.jsonl and, where matplotlib is there, attention.png. On a GPU PyTorch, if it is
there, runs the naive attention (bench/cuda_torch.py).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import length_plot

BENCH = pathlib.Path(__file__).resolve().parent
NUM_HEADS = 9  # bench/attention_length.cc


def records_of(command):
    """The JSON lines of a program, printed as they come."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        records = []
        for line in process.stdout:
            print(line, end="", flush=True)
            records.append(json.loads(line))
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} failed with {process.returncode}")
    return records


def has_gpu(build):
    program = build / "bin/cuda_bench"
    return program.exists() and subprocess.run(
        [program, "device"], stdout=subprocess.DEVNULL, check=False).returncode == 0


def has_torch():
    check = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", check], stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


def measure_gpu(build):
    records = records_of([build / "bin/cuda_bench", "length"])
    if has_torch():
        return records + records_of([sys.executable, BENCH / "cuda_torch.py", "length"])
    print("no PyTorch with a GPU: no naive attention")
    return records


def free_bytes():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def measure_cpu(build, threads, max_tokens):
    """One process a measurement, so that its peak of memory is its own."""
    records = []
    tokens = 1024
    while tokens <= max_tokens:
        for who in ("tessera", "naive"):
            score_bytes = NUM_HEADS * tokens * tokens * 4
            if who == "naive" and score_bytes > free_bytes() * 0.8:
                print(f"naive, {tokens} tokens: {score_bytes >> 30} GiB do not fit")
                continue
            records += records_of(
                [build / "bin/attention_length", who, str(tokens), str(threads)])
        tokens *= 2
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, default=BENCH.parent / "build/release")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    parser.add_argument("--max-tokens", type=int, default=65536, help="on the CPU")
    args = parser.parse_args()
    if args.device == "cuda" or (args.device == "auto" and has_gpu(args.build)):
        records = measure_gpu(args.build)
    else:
        records = measure_cpu(args.build, args.threads, args.max_tokens)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "attention.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records))
    length_plot.draw(records, args.out / "attention.png")


if __name__ == "__main__":
    main()
