#!/usr/bin/env python3
"""Turns the JSON lines of bench/cuda_bench.cc and bench/cuda_torch.py into Markdown tables,
and, where matplotlib is there, attention's time and memory against length into a plot.

usage: cuda_report.py bench.jsonl [length.png]
"""
import json
import sys

import length_plot

# To reach on an H200. TFLOP/s by head dimension, length and causality: FlashAttention-2's.
GOALS = {(128, 1024, True): 260, (128, 4096, True): 319, (128, 16384, True): 335,
         (64, 4096, True): 284, (256, 4096, True): 293}
DECODE_GOALS = {(64, 2048): "75%"}  # of the copy bandwidth, by sequences and keys
MIXED_GOAL = 1.1  # times faster together
NAIVE_GOALS = {1024: 7.6}  # naive attention's time over ours, by length
STEP_GOALS = {1: "65%", 64: "60%"}  # of the bandwidth floor, by batch


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def table(title, header, rows):
    if not rows:
        return
    print(f"\n## {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def by_who(records, bench, key, value):
    """{key: {who: value}} of one bench, in the order of the records."""
    found = {}
    for record in records:
        if record["bench"] == bench:
            cell = record.get(value)
            found.setdefault(key(record), {})[record["who"]] = \
                "-" if cell is None else f"{cell:.3g}" if cell < 10 else f"{cell:.0f}"
    return found


def attention(records):
    found = by_who(records, "attention",
                   lambda r: (r["head_dim"], r["length"], r["causal"]), "tflops")
    rows = [(dim, length, "causal" if causal else "full", who.get("tessera", "-"),
             GOALS.get((dim, length, causal), ""), who.get("torch-flash", "-"),
             who.get("torch-cudnn", "-")) for (dim, length, causal), who in found.items()]
    table("Attention of whole prompts, TFLOP/s",
          ("head dim", "length", "mask", "Tessera", "goal", "torch flash", "torch cuDNN"), rows)


def decode(records):
    rows = [(r["sequences"], r["length"], f"{r['ms'] * 1e3:.1f}", f"{r['gb_per_s']:.0f}",
             f"{r['copy_gb_per_s']:.0f}", f"{r['share_of_copy']:.0%}",
             DECODE_GOALS.get((r["sequences"], r["length"]), ""))
            for r in records if r["bench"] == "decode"]
    table("Decode attention, GQA 4, head dim 128",
          ("sequences", "keys each", "us", "GB/s", "copy GB/s", "share", "goal"), rows)
    rows = [(f"{r['together_ms']:.3f}", f"{r['prompt_ms']:.3f}", f"{r['decode_ms']:.3f}",
             f"{r['speedup']:.2f}", MIXED_GOAL) for r in records if r["bench"] == "mixed"]
    table("One prompt chunk and 64 decode rows", ("together, ms", "prompt", "decode", "gain", "goal"), rows)


def length(records):
    found = {}
    for r in records:
        if r["bench"] == "length" and "ms" in r:
            found.setdefault(r["length"], {})[r["who"]] = r
    rows = []
    for tokens, who in found.items():
        cells = [f"{who[w][value]:.4g}" if w in who else "-" for value in ("ms", "mib")
                 for w in ("tessera", "torch-flash", "naive")]
        has_both = "tessera" in who and "naive" in who
        rows.append((tokens, *cells,
                     f"{who['naive']['ms'] / who['tessera']['ms']:.1f}" if has_both else "-",
                     NAIVE_GOALS.get(tokens, "")))
    table("Causal attention of one prompt, 12 heads of 64: ms and MiB",
          ("tokens", "Tessera ms", "flash ms", "naive ms", "Tessera MiB", "flash MiB",
           "naive MiB", "naive / Tessera", "goal"), rows)


def step(records):
    rows = [(r["model"], r["batch"], r["context"], f"{r['ms']:.2f}", f"{r['floor_ms']:.2f}",
             f"{r['share_of_floor']:.0%}", STEP_GOALS.get(r["batch"], "")) for r in records if r["bench"] == "step"]
    table("Decode step, random weights",
          ("model", "batch", "context", "ms", "bandwidth floor, ms", "share", "goal"), rows)


def gemm(records):
    times = {}
    for r in records:
        if r["bench"] == "gemm":
            times.setdefault((r["rows"], r["cols"], r["outputs"]), {})[r["who"]] = r["ms"]
    rows = []
    for (num_rows, cols, outputs), who in sorted(times.items()):
        ours, cublas = who.get("tessera"), who.get("torch-cublas")
        rows.append((num_rows, cols, outputs, *(f"{ms:.4f}" if ms else "-" for ms in (ours, cublas)),
                     f"{ours / cublas - 1:+.0%}" if ours and cublas else "-"))
    table("Matrix products in bf16, ms: the price of one order of additions for every batch",
          ("rows", "columns", "outputs", "Tessera", "cuBLAS", "price"), rows)


def main():
    records = read(sys.argv[1])
    if len(sys.argv) > 2 and any(record["bench"] == "length" for record in records):
        length_plot.draw(records, sys.argv[2])
    print("# Measured by scripts/gpu-check")
    for name in [record["name"] for record in records if record["bench"] == "device"]:
        print(f"\nOn: {name}." +
              (" Its times mean nothing." if name.startswith("simulated") else ""))
    if not records:
        print("\nNo times yet.")
    for part in (attention, decode, length, gemm, step):
        part(records)


if __name__ == "__main__":
    main()
