#!/usr/bin/env python3
"""Ours beside llama.cpp: the same model file and its best format, the same threads, in turns A B A B,
with probes of the machine's own peaks in the same run. Ours is always measured through the daemon,
gRPC and all; single-stream figures of llama.cpp come from its own bench programs, which serve nobody.

    bench/peers/compare.py --model FILE [--rounds 3] [--threads 2] [--rows decode_1,prefill_512]
                           [--isa avx2] [--out bench/results/NAME [--add]]

--isa avx2 keeps both sides to AVX2, as on a machine that has no more. --add: to the rounds that --out has
from a run of the same build, since a round takes some twenty minutes.
Needs a release build; builds llama.cpp where it is missing. Prints the table of ratios and writes
peers.json, peers.md and, where matplotlib is there, peers.png into --out.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))

from harness import Daemon, tessera  # noqa: E402

# Ours / theirs on the same file, and on their best format: what we want to reach, by the CPU's kind.
GOALS = {
    "prefill_512": {"avx2": (2, 1.2), "vnni": (6, 2.3)},
    "decode_1": {"avx2": (1.5, 1.1), "vnni": (2.7, 2)},
    "decode_1_at_2048": {"avx2": (2, 1.5), "vnni": (5, 3)},
    "decode_8": {"avx2": (3, 2), "vnni": (10, 6)},
    "served_32": {"avx2": (3, 2), "vnni": (6, 4)},
    "ttft_p50_32": {"avx2": (0.3, 0.5), "vnni": (0.15, 0.25)},
    "itl_p99_8_long": {"avx2": (0.05, 0.05), "vnni": (0.03, 0.03)},
    "ttft_p50_shared": {"avx2": (0.2, 0.3), "vnni": (0.1, 0.2)},
    "memory_above_weights": {"avx2": (0.7, 0.7), "vnni": (0.7, 0.7)},
}
UNITS = {"ttft_p50_32": "ms", "itl_p99_8_long": "ms", "ttft_p50_shared": "ms",
         "memory_above_weights": "MiB"}  # others: tokens/s
TEXTS = {
    "prefill_512": "prefill 512 tokens",
    "decode_1": "decode, batch 1",
    "decode_1_at_2048": "decode, batch 1, at depth 2,048",
    "decode_8": "decode, batch 8",
    "served_32": "served at 32 concurrent, 128 in 64 out",
    "ttft_p50_32": "TTFT p50 of the same",
    "itl_p99_8_long": "inter-token p99, 8 concurrent, 1,024 in 64 out",
    "ttft_p50_shared": "TTFT p50, second wave of 16 with 1,000 tokens in common",
    "memory_above_weights": "peak memory above the file's size, 32 concurrent",
}
SERVED = dict(num_requests=64, concurrency=32, input_len=128, output_len=64)
SLOT_TOKENS = 256
LONG = dict(num_requests=16, concurrency=8, input_len=1024, output_len=64)
SHARED = dict(num_requests=16, concurrency=16, input_len=32, output_len=16, prefix_len=1000)


class Ours:
    """Figures of our daemon, by row."""

    def __init__(self, model, threads, isa):
        self.model, self.threads = model, threads
        self.isa = "auto" if isa == "native" else isa

    def daemon(self, *flags):
        return Daemon("--threads", self.threads, "--cpu-isa", self.isa, *flags, model=self.model)

    @staticmethod
    def load(daemon, num_requests, concurrency, input_len, output_len, prefix_len=0, seed=0):
        return json.loads(tessera(
            "bench", "--target", daemon.target, "--num-requests", num_requests, "--concurrency",
            concurrency, "--input-len", input_len, "--output-len", output_len, "--prefix-len",
            prefix_len, "--seed", seed, "--json").stdout)

    def decode(self, daemon, batch, depth):
        """tokens/s of sequences that decode together from `depth` tokens on."""
        report = self.load(daemon, batch, batch, depth, 65)
        return batch * 1e3 / report["itl_ms"]["p50"]

    def alone(self):
        with self.daemon("--no-prefix-cache") as daemon:
            self.load(daemon, 1, 1, 512, 8)  # warm
            prefill = self.load(daemon, 1, 1, 512, 1)
            return {"prefill_512": 512e3 / prefill["ttft_ms"]["p50"],
                    "decode_1": self.decode(daemon, 1, 1),
                    "decode_1_at_2048": self.decode(daemon, 1, 2048),
                    "decode_8": self.decode(daemon, 8, 1)}

    def served(self):
        # Pages for as many tokens as llama-server's slots have.
        with self.daemon("--max-running", 32, "--kv-blocks", 32 * SLOT_TOKENS // 64) as daemon:
            report = self.load(daemon, **SERVED)
            peak = next(int(line.split()[1]) for line in open(f"/proc/{daemon.process.pid}/status")
                        if line.startswith("VmHWM"))
            return {"served_32": report["output_tokens_per_second"],
                    "ttft_p50_32": report["ttft_ms"]["p50"],
                    "memory_above_weights": peak / 1024 - self.model.stat().st_size / 2**20}

    def long(self):
        with self.daemon() as daemon:
            return {"itl_p99_8_long": self.load(daemon, **LONG)["itl_ms"]["p99"]}

    def shared(self):
        with self.daemon() as daemon:
            self.load(daemon, **SHARED)
            return {"ttft_p50_shared": self.load(daemon, **SHARED, seed=1)["ttft_ms"]["p50"]}


class LlamaCpp:
    """The same figures of llama.cpp on one file."""

    def __init__(self, programs, model, threads):
        self.programs, self.model, self.threads = programs, model, threads

    def bench(self, *args):
        return llama_cpp.bench(self.programs, self.model, self.threads, *args)

    def server(self, slots, slot_tokens, flash):
        return llama_cpp.Server(self.programs, self.model, self.threads, slots, slot_tokens, flash)

    def best(self, measure):
        """The better figures of flash attention on and off; each row may have its own."""
        rows = {}
        for flash in llama_cpp.FLASH_ATTENTION:
            for row, value in measure(flash).items():
                better = min if row in UNITS else max
                rows[row] = better(rows.get(row, value), value)
        return rows

    def alone(self):
        return {"prefill_512": self.bench("-p", 512, "-n", 0),
                "decode_1": self.bench("-p", 0, "-n", 64),
                "decode_1_at_2048": self.bench("-p", 0, "-n", 64, "-d", 2048),
                "decode_8": llama_cpp.batched_decode(self.programs, self.model, self.threads, 8, 1,
                                                     64)}

    def served(self):
        def measure(flash):
            with self.server(32, SLOT_TOKENS, flash) as server:
                report = server.load(**SERVED)
                return {"served_32": report["output_tokens_per_second"],
                        "ttft_p50_32": report["ttft_ms"]["p50"],
                        "memory_above_weights":
                            server.peak_mib() - self.model.stat().st_size / 2**20}
        return self.best(measure)

    def long(self):
        def measure(flash):
            with self.server(8, 1280, flash) as server:
                return {"itl_p99_8_long": server.load(**LONG)["itl_ms"]["p99"]}
        return self.best(measure)

    def shared(self):
        def measure(flash):
            with self.server(16, 1280, flash) as server:
                server.load(**SHARED)
                return {"ttft_p50_shared": server.load(**SHARED, seed=1)["ttft_ms"]["p50"]}
        return self.best(measure)


PARTS = {
    "alone": ("prefill_512", "decode_1", "decode_1_at_2048", "decode_8"),
    "served": ("served_32", "ttft_p50_32", "memory_above_weights"),
    "long": ("itl_p99_8_long",),
    "shared": ("ttft_p50_shared",),
}


def probe(threads):
    """The machine's peaks at this moment: multiply-adds on registers, reads of a model's size."""
    rates = {}
    for program, pattern in (("linear_bench", "_peak"), ("attention_bench", "fma_peak")):
        output = subprocess.run(
            [ROOT / "build/release/bin" / program, f"--benchmark_filter={pattern}.*threads:{threads}",
             "--benchmark_format=json", "--benchmark_min_time=0.2"],
            check=True, capture_output=True, text=True).stdout
        for run in json.loads(output)["benchmarks"]:
            if run.get("error_occurred"):  # not on this CPU
                continue
            name = run["name"].split("/threads")[0]
            rates[name] = round(max(v for k, v in run.items() if "/s" in k), 1)
    return rates


def cpu(isa):
    """The CPU's name, and of which kind it is as far as both sides may use it."""
    lines = open("/proc/cpuinfo").read().splitlines()
    name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    flags = next(line for line in lines if line.startswith("flags")).split()
    return name, "vnni" if "avx512_vnni" in flags and isa == "native" else "avx2"


def measure(sides, parts, rounds, threads):
    """Each round's [side][row], sides in turns."""
    for number in range(rounds):
        turn = {"probe": probe(threads)}
        print(f"round {number + 1}: {turn['probe']}", flush=True)
        for part in parts:
            for name, side in sides.items():
                figures = getattr(side, part)()
                turn.setdefault(name, {}).update(figures)
                shown = ", ".join(f"{row} {value:.4g}" for row, value in figures.items())
                print(f"  {name}: {shown}", flush=True)
        yield turn


def ratio(turns, row, theirs):
    return statistics.median(turn["tessera"][row] / turn[theirs][row] for turn in turns)


def summarize(turns, rows, formats, kind):
    table = []
    for row in rows:
        # Their best format of a row is the one that we beat least.
        hardest = max if row in UNITS else min
        best = hardest(formats, key=lambda name: ratio(turns, row, name))
        goals = GOALS[row][kind]
        reached = [ratio(turns, row, formats[0]), ratio(turns, row, best)]
        met = [r <= g if row in UNITS else r >= g for r, g in zip(reached, goals)]
        table.append({
            "row": row, "tessera": statistics.median(t["tessera"][row] for t in turns),
            "same": statistics.median(t[formats[0]][row] for t in turns), "best_format": best,
            "best": statistics.median(t[best][row] for t in turns), "ratio_same": reached[0],
            "ratio_best": reached[1], "goal_same": goals[0], "goal_best": goals[1], "met": met})
    return table


def markdown(table, title):
    lines = [title, "", "| | unit | tessera | llama.cpp, same file | ratio (goal) | its best format | "
             "ratio (goal) |", "|---|---|---|---|---|---|---|"]
    for r in table:
        marks = ["" if met else " *" for met in r["met"]]
        lines.append(
            f"| {TEXTS[r['row']]} | {UNITS.get(r['row'], 'tokens/s')} | {r['tessera']:.4g} | "
            f"{r['same']:.4g} | {r['ratio_same']:.2f} ({r['goal_same']}){marks[0]} | "
            f"{r['best']:.4g} ({r['best_format']}) | {r['ratio_best']:.2f} ({r['goal_best']})"
            f"{marks[1]} |")
    lines += ["", "Medians of the rounds; * goal not reached. For ms and MiB less is better."]
    return "\n".join(lines) + "\n"


def plotting():
    """matplotlib.pyplot for files; None, with a word, where it is not there."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


def plot(table, path):
    pyplot = plotting()
    if pyplot is None:
        return
    figure, axis = pyplot.subplots(figsize=(8, 4))
    names = [TEXTS[r["row"]] for r in table]
    # As speed-ups, so that more is better in every row.
    for offset, key, label in ((-0.2, "ratio_same", "same file"), (0.2, "ratio_best", "its best")):
        values = [1 / r[key] if r["row"] in UNITS else r[key] for r in table]
        axis.barh([i + offset for i in range(len(names))], values, 0.4, label=label)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("times better than llama.cpp")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def write(folder, title, table, turns, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(
        json.dumps({"title": title, "table": table, "rounds": turns}, indent=1) + "\n")
    (folder / "peers.md").write_text(text)
    plot(table, folder / "peers.png")


def parser_of(description, rounds):
    """The arguments that every comparison takes."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--out", type=pathlib.Path)
    return parser


def main():
    parser = parser_of(__doc__, rounds=3)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(GOALS))
    parser.add_argument("--formats", type=lambda text: text.split(","), default=["Q4_0", "Q8_0"])
    parser.add_argument("--add", action="store_true")
    args = parser.parse_args()
    if args.add and not args.out:
        parser.error("--add needs --out")
    programs = llama_cpp.build(args.isa)
    files = {"same file": args.model}
    files |= {kind: llama_cpp.requantized(programs, args.model, kind) for kind in args.formats}
    sides = {"tessera": Ours(args.model, args.threads, args.isa)}
    sides |= {name: LlamaCpp(programs, file, args.threads) for name, file in files.items()}
    parts = [part for part, rows in PARTS.items() if set(rows) & set(args.rows)]

    name, kind = cpu(args.isa)
    turns = json.loads((args.out / "peers.json").read_text())["rounds"] if args.add else []
    for turn in measure(sides, parts, args.rounds, args.threads):
        turns.append(turn)
        table = summarize(turns, [row for row in GOALS if row in args.rows], list(files), kind)
        title = (f"{name} ({kind}), {args.threads} threads, {args.model.name}, "
                 f"{datetime.date.today()}, {len(turns)} rounds")
        text = markdown(table, title)
        print("\n" + text, flush=True)
        if args.out:
            write(args.out, title, table, turns, text)


if __name__ == "__main__":
    main()
