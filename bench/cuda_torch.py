#!/usr/bin/env python3
"""PyTorch's attention and matrix products at the shapes of bench/cuda_bench.cc, one JSON object a
line.

Flash and cuDNN backends of scaled_dot_product_attention, naive attention that materialises its
scores, and cuBLAS: bf16, random data, a cold L2, medians.

usage: cuda_torch.py [attention|length|gemm ...]
"""
import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

RUNS = 20
FLUSH = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
BACKENDS = {"torch-flash": SDPBackend.FLASH_ATTENTION, "torch-cudnn": SDPBackend.CUDNN_ATTENTION}


def median_ms(work):
    for _ in range(3):
        work()
    times = []
    for i in range(RUNS):
        FLUSH.fill_(i)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def emit(**fields):
    print(json.dumps(fields), flush=True)


def attempt(work, **fields):
    """A backend may not support a shape, and naive attention runs out of memory."""
    try:
        work()
    except (RuntimeError, torch.OutOfMemoryError) as error:
        emit(**fields, error=str(error).splitlines()[0][:120])


def bench_attention():
    for head_dim in (64, 128, 256):
        for length in (1024, 4096, 16384):
            for causal in (True, False):
                sequences, heads = 16384 // length, 2048 // head_dim
                q, k, v = (random(sequences, heads, length, head_dim) for _ in range(3))
                flops = 4.0 * sequences * heads * length * length * head_dim / (2 if causal else 1)
                for who, backend in BACKENDS.items():
                    shape = dict(bench="attention", who=who, head_dim=head_dim, length=length,
                                 sequences=sequences, heads=heads, causal=causal)

                    def work(backend=backend, shape=shape):
                        with sdpa_kernel(backend):
                            ms = median_ms(
                                lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
                        emit(**shape, ms=ms, tflops=flops / ms * 1e-9)

                    attempt(work, **shape)


def naive(q, k, v, hidden):
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill_(hidden, float("-inf")).softmax(-1) @ v


def flash(q, k, v):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def bench_length():
    for length in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072):
        q, k, v = (random(1, 12, length, 64) for _ in range(3))
        for who in ("naive", "torch-flash"):
            def work(who=who):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated() - 3 * q.nbytes
                run = lambda: flash(q, k, v)
                if who == "naive":
                    ones = torch.ones(length, length, dtype=torch.bool, device="cuda")
                    hidden = ones.triu_(1)
                    run = lambda: naive(q, k, v, hidden)
                ms = median_ms(run)
                mib = (torch.cuda.max_memory_allocated() - before) / 2**20
                emit(bench="length", who=who, length=length, heads=12, ms=ms, mib=mib)

            attempt(work, bench="length", who=who, length=length, heads=12)


def bench_gemm():
    for cols, outputs in ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096)):
        weight = random(outputs, cols)
        for rows in (1, 16, 64, 512, 4096):
            x = random(rows, cols)
            emit(bench="gemm", who="torch-cublas", rows=rows, cols=cols, outputs=outputs,
                 ms=median_ms(lambda: F.linear(x, weight)))


if __name__ == "__main__":
    torch.manual_seed(1)
    benches = {"attention": bench_attention, "length": bench_length, "gemm": bench_gemm}
    for name, bench in benches.items():
        if name in sys.argv[1:] or len(sys.argv) == 1:
            bench()
