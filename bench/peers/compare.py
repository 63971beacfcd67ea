#!/usr/bin/env python3
"""Ours beside llama.cpp on the same GGUF file: the same threads, in turns A B A B, with a probe of the
machine's own speed in the same run. Ours is measured through the daemon, gRPC and all; llama.cpp's by
its own llama-bench, which serves nobody.

    bench/peers/compare.py --model FILE [--rounds 5] [--threads 2] [--out bench/results/NAME]

Needs a release build; builds llama.cpp with bench/peers/build-llama-cpp where it is missing.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))

from harness import Daemon, tessera  # noqa: E402

DECODE_TOKENS = 128
PROMPT_TOKENS = 512


def llama_bench(programs, model, threads):
    """tokens/s of a 512-token prefill and of 128 decode steps, one sequence."""
    output = subprocess.run(
        [f"{programs}/llama-bench", "-m", model, "-t", str(threads), "-p", str(PROMPT_TOKENS), "-n",
         str(DECODE_TOKENS), "-r", "1", "-o", "json"],
        check=True, capture_output=True, text=True).stdout
    rates = {"prefill" if row["n_prompt"] else "decode": row["avg_ts"]
             for row in json.loads(output)}
    return rates


def ours(daemon):
    """The same through the daemon: prefill from the time to first token, decode from the rest."""
    rates = {}
    for name, prompt, output in (("prefill", PROMPT_TOKENS, 1), ("decode", 1, DECODE_TOKENS + 1)):
        report = json.loads(tessera("bench", "--target", daemon.target, "--concurrency", 1,
                                    "--num-requests", 1, "--input-len", prompt, "--output-len",
                                    output, "--json").stdout)
        ttft_s, e2e_s = report["ttft_ms"]["p50"] / 1e3, report["e2e_ms"]["p50"] / 1e3
        rates[name] = prompt / ttft_s if name == "prefill" else (output - 1) / (e2e_s - ttft_s)
    return rates


def probe(threads):
    """Rate of a fixed piece of work on every thread: tells a busy machine from a quiet one."""
    code = "x=0\nfor i in range(3_000_000): x+=i*i"
    start = os.times().elapsed
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(threads)]
    for process in running:
        process.wait()
    return threads / (os.times().elapsed - start)


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    programs = subprocess.run([ROOT / "bench/peers/build-llama-cpp"], check=True,
                              stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    rounds = []
    for _ in range(args.rounds):
        turn = {"probe": probe(args.threads), "llama.cpp": llama_bench(programs, args.model,
                                                                       args.threads)}
        with Daemon("--threads", args.threads, "--no-prefix-cache", model=args.model) as daemon:
            ours(daemon)  # warm
            turn["tessera"] = ours(daemon)
        rounds.append(turn)
        print(json.dumps(turn), flush=True)
    summary = {"cpu": cpu_name(), "model": os.path.basename(args.model), "threads": args.threads,
               "rounds": rounds}
    for what in ("decode", "prefill"):
        ratios = [r["tessera"][what] / r["llama.cpp"][what] for r in rounds]
        summary[what] = {
            "tessera": statistics.median(r["tessera"][what] for r in rounds),
            "llama.cpp": statistics.median(r["llama.cpp"][what] for r in rounds),
            "ratio_median": statistics.median(ratios), "ratio_min": min(ratios)}
        print(f"{what}: tessera {summary[what]['tessera']:.0f}, llama.cpp "
              f"{summary[what]['llama.cpp']:.0f} tokens/s; ratio median "
              f"{summary[what]['ratio_median']:.2f}, min {min(ratios):.2f}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "llama-cpp.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
