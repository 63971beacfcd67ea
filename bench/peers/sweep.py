#!/usr/bin/env python3
"""Both servers under the same load, from one client to many: throughput, time to first token and
inter-token latency against concurrency. Sides take turns at each concurrency.

    bench/peers/sweep.py --model FILE [--concurrency 1,4,8,16,32] [--rounds 2] [--threads 2]
                         [--isa avx2] [--out bench/results/NAME]

128 tokens in, 64 out, greedy; llama-server with a slot for each client and flash attention. Needs a
release build; builds llama.cpp where it is missing. Writes concurrency.json, .md and, where
matplotlib is there, .png into --out.
"""

import datetime
import json
import statistics

import llama_cpp
from compare import LlamaCpp, Ours, cpu, parser_of, plotting, probe

SHAPE = dict(input_len=128, output_len=64)
MIN_REQUESTS = 8


def measure_ours(ours, shape):
    with ours.daemon() as daemon:
        return ours.load(daemon, **shape)


def measure_theirs(theirs, shape):
    with theirs.server(shape["concurrency"], 256, "on") as server:
        return server.load(**shape)


def median_of(reports):
    """Of reports of one shape, the median of each figure."""
    figures = {"output_tokens_per_second": statistics.median(
        report["output_tokens_per_second"] for report in reports)}
    for kind in ("ttft_ms", "itl_ms"):
        figures[kind] = {p: statistics.median(report[kind][p] for report in reports)
                         for p in ("p50", "p99")}
    return figures


def sweep(ours, theirs, concurrencies, rounds):
    """{concurrency: {side: figures}}"""
    points = {}
    for concurrency in concurrencies:
        shape = dict(SHAPE, concurrency=concurrency, num_requests=max(MIN_REQUESTS, 2 * concurrency))
        turns = {"tessera": [], "llama.cpp": []}
        for _ in range(rounds):
            turns["tessera"].append(measure_ours(ours, shape))
            turns["llama.cpp"].append(measure_theirs(theirs, shape))
        points[concurrency] = {side: median_of(reports) for side, reports in turns.items()}
        print(concurrency, points[concurrency], flush=True)
    return points


def markdown(points, title):
    lines = [title, "", "| concurrent | | tokens/s out | TTFT p50 / p99, ms | inter-token p50 / p99, ms |",
             "|---|---|---|---|---|"]
    for concurrency, sides in points.items():
        for side, f in sides.items():
            lines.append(f"| {concurrency} | {side} | {f['output_tokens_per_second']:.0f} | "
                         f"{f['ttft_ms']['p50']:.0f} / {f['ttft_ms']['p99']:.0f} | "
                         f"{f['itl_ms']['p50']:.1f} / {f['itl_ms']['p99']:.1f} |")
    return "\n".join(lines) + "\n"


def plot(points, path):
    pyplot = plotting()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4))
    titles = ("tokens/s out", "time to first token, ms", "inter-token latency, ms")
    for side, color in (("tessera", "tab:blue"), ("llama.cpp", "tab:orange")):
        axes[0].plot(list(points), [p[side]["output_tokens_per_second"] for p in points.values()],
                     "o-", color=color, label=side)
        for axis, kind in ((axes[1], "ttft_ms"), (axes[2], "itl_ms")):
            for percent, style in (("p50", "o-"), ("p99", "o--")):
                axis.plot(list(points), [p[side][kind][percent] for p in points.values()], style,
                          color=color, label=f"{side} {percent}")
    for axis, title in zip(axes, titles):
        axis.set_title(title)
        axis.set_xlabel("concurrent requests")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = parser_of(__doc__, rounds=2)
    parser.add_argument("--concurrency", type=lambda text: [int(c) for c in text.split(",")],
                        default=[1, 4, 8, 16, 32])
    args = parser.parse_args()
    programs = llama_cpp.build(args.isa)
    name, kind = cpu(args.isa)
    peaks = probe(args.threads)
    points = sweep(Ours(args.model, args.threads, args.isa),
                   LlamaCpp(programs, args.model, args.threads), args.concurrency, args.rounds)
    title = (f"{name} ({kind}), {args.threads} threads, {args.model.name}, 128 tokens in, 64 out, "
             f"{datetime.date.today()}, median of {args.rounds} rounds; probes {peaks}")
    text = markdown(points, title)
    print("\n" + text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "concurrency.json").write_text(
            json.dumps({"title": title, "points": points}, indent=1) + "\n")
        (args.out / "concurrency.md").write_text(text)
        plot(points, args.out / "concurrency.png")


if __name__ == "__main__":
    main()
