#!/usr/bin/env python3
"""Turns the JSON lines of bench/cuda_bench.cc and bench/cuda_attention.py into Markdown tables,
and, where matplotlib is there, attention's time and memory against length into a plot.

usage: cuda_report.py bench.jsonl [length.png]
"""
import json
import sys

# TFLOP/s to reach on an H200: FlashAttention-2's.
GOALS = {(128, 1024, True): 260, (128, 4096, True): 319, (128, 16384, True): 335,
         (64, 4096, True): 284, (256, 4096, True): 293}


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
             f"{r['copy_gb_per_s']:.0f}", f"{r['share_of_copy']:.0%}")
            for r in records if r["bench"] == "decode"]
    table("Decode attention, GQA 4, head dim 128",
          ("sequences", "keys each", "us", "GB/s", "copy GB/s", "share"), rows)
    rows = [(f"{r['together_ms']:.3f}", f"{r['prompt_ms']:.3f}", f"{r['decode_ms']:.3f}",
             f"{r['speedup']:.2f}") for r in records if r["bench"] == "mixed"]
    table("One prompt chunk and 64 decode rows", ("together, ms", "prompt", "decode", "gain"), rows)


def length(records):
    times = by_who(records, "length", lambda r: r["length"], "ms")
    memory = by_who(records, "length", lambda r: r["length"], "mib")
    rows = []
    for tokens, who in times.items():
        rows.append((tokens, *(who.get(w, "-") for w in ("tessera", "torch-flash", "naive")),
                     *(memory[tokens].get(w, "-") for w in ("tessera", "torch-flash", "naive"))))
    table("Causal attention of one prompt, 12 heads of 64: ms and MiB",
          ("tokens", "Tessera ms", "flash ms", "naive ms", "Tessera MiB", "flash MiB",
           "naive MiB"), rows)


def step(records):
    rows = [(r["model"], r["batch"], r["context"], f"{r['ms']:.2f}", f"{r['floor_ms']:.2f}",
             f"{r['share_of_floor']:.0%}") for r in records if r["bench"] == "step"]
    table("Decode step, random weights",
          ("model", "batch", "context", "ms", "bandwidth floor, ms", "share"), rows)


def plot(records, path):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(10, 4))
    for who in ("tessera", "torch-flash", "naive"):
        mine = [r for r in records if r["bench"] == "length" and r["who"] == who and "ms" in r]
        if mine:
            tokens = [r["length"] for r in mine]
            time_axis.loglog(tokens, [r["ms"] for r in mine], "o-", label=who, base=2)
            memory_axis.loglog(tokens, [r["mib"] for r in mine], "o-", label=who, base=2)
    time_axis.set(xlabel="tokens", ylabel="ms", title="causal attention, 12 heads of 64")
    memory_axis.set(xlabel="tokens", ylabel="MiB", title="device memory, q, k, v and out included")
    for axis in (time_axis, memory_axis):
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    records = read(sys.argv[1])
    if len(sys.argv) > 2 and any(record["bench"] == "length" for record in records):
        plot(records, sys.argv[2])
    print("# Measured by scripts/gpu-check")
    for name in [record["name"] for record in records if record["bench"] == "device"]:
        print(f"\nOn: {name}." +
              (" Its times mean nothing." if name.startswith("simulated") else ""))
    if not records:
        print("\nNo times yet.")
    for part in (attention, decode, length, step):
        part(records)


if __name__ == "__main__":
    main()
