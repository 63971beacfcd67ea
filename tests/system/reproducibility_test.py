"""Promise 1, through the real server and kernels: the same request gives the same bytes alone, in
any batch, chunking and cache state, after preemption, on any number of threads and on every ISA."""

import ctypes
import hashlib
import json
import os
import pathlib
import random
import struct
import sys
import unittest

from harness import BIN, Daemon, request, run_at_once

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "reproducibility.json"
NUM_REQUESTS = 64
GROWING = 180  # tokens: a sequence that grows over several pages, so that a small pool must preempt
MAX_SPECULATED_ROUNDS = 20
NUM_PORTABLE_REQUESTS = 2  # the portable path is plain loops: a few short ones prove it

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea, there lived",
    "3.14159 * 2 = ",
    "Приветствую! Как дела? 你好，世界。 مرحبا 🙂",
    "<html>\n  <body>\n    <p>",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: What is the boiling point of water?\nA:",
]


def make_requests():
    """64 requests of mixed length: greedy, seeded sampling, penalties, logprobs."""
    rng = random.Random(20261121)
    requests = []
    for i in range(NUM_REQUESTS):
        prompt = PROMPTS[i % len(PROMPTS)] + " " + "and so on, " * rng.choice([0, 0, 3, 20, 60])
        fields = {"logprobs": 5, "max_tokens": rng.randint(4, 40), "ignore_eos": i % 3 == 0,
                  "seed": rng.getrandbits(53)}
        if i % 4 == 0:
            fields["temperature"] = 0
        else:
            fields.update(temperature=rng.choice([0.5, 0.8, 1.0, 1.3]), top_p=rng.choice([0.8, 0.95, 1.0]),
                          top_k=rng.choice([0, 5, 40]), min_p=rng.choice([0.0, 0.05]))
        if i % 5 == 1:
            fields.update(repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.1)
        if i % 8 == 5:
            fields.update(max_tokens=GROWING, ignore_eos=True)
        if i % 7 == 2:
            fields["prompt_logprobs"] = 2
        requests.append(request(prompt, **fields))
    return requests


def answer_bytes(response):
    """All that the promise covers, as bytes: tokens, text, logprob bits, finish reason."""
    parts = []
    for token in response.prompt_logprobs:
        parts += [struct.pack("<if", e.token_id, e.logprob) for e in token.entries]
    for output in response.outputs:
        parts.append(struct.pack(f"<{len(output.token_ids)}i", *output.token_ids))
        parts += [output.text.encode(), bytes([output.finish_reason]),
                  struct.pack("<Q", output.seed)]
        for token in output.logprobs:
            parts += [struct.pack("<if", e.token_id, e.logprob) for e in token.entries]
    return b"|".join(parts)


def may_use_tiles():
    """Whether the system gives a process AMX: arch_prctl(ARCH_REQ_XCOMP_PERM, tile data)."""
    return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0


def isa_paths():
    """The ISA paths this machine has, as tesserad names them."""
    flags = set()
    for line in open("/proc/cpuinfo"):
        if line.startswith("flags"):
            flags = set(line.split())
            break
    paths = ["avx2"]
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        paths.append("avx512")
        if "avx512_vnni" in flags:
            paths.append("vnni")
            if {"amx_tile", "amx_bf16"} <= flags and may_use_tiles():
                paths.append("amx")
    return paths


class ReproducibilityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.requests = make_requests()
        # The first answers come one at a time, from a daemon that never batches or caches.
        with Daemon("--threads", 1, "--no-prefix-cache") as daemon:
            responses = [daemon.generate(r) for r in cls.requests]
            cls.fingerprint = responses[0].fingerprint
            cls.alone = [answer_bytes(r) for r in responses]

    def assert_same(self, responses, circumstance):
        for i, response in enumerate(responses):
            self.assertEqual(response.fingerprint, self.fingerprint)
            self.assertEqual(answer_bytes(response), self.alone[i], f"request {i}: {circumstance}")

    def all_at_once(self, daemon, circumstance):
        self.assert_same(run_at_once([lambda r=r: daemon.generate(r) for r in self.requests]),
                         circumstance)

    def test_all_at_once_cold_then_warm(self):
        with Daemon("--threads", 2) as daemon:
            self.all_at_once(daemon, "64 at once, cold cache")
            rows = daemon.metric("tessera_step_sequences_max")
            self.assertGreaterEqual(rows, 16, "no step had 16 sequences")
            hits = daemon.metric("vllm:prefix_cache_hits_total")
            self.all_at_once(daemon, "64 at once, warm cache")
            self.assertGreater(daemon.metric("vllm:prefix_cache_hits_total"), hits)

    def test_tiny_token_budget_chunks_prompts(self):
        with Daemon("--max-batch-tokens", 24, "--max-running", 16) as daemon:
            self.all_at_once(daemon, "24 tokens a step")
            prompts = daemon.metric("vllm:prompt_tokens_total")
            steps = daemon.metric("tessera_prefill_chunks_total")
            self.assertGreater(steps, 2 * NUM_REQUESTS, f"{prompts} prompt tokens: no chunking")

    def test_small_pool_preempts(self):
        with Daemon("--kv-blocks", 8, "--max-running", 32) as daemon:
            growing = [i for i, r in enumerate(self.requests) if r.stop.max_tokens >= GROWING]
            responses = run_at_once([lambda i=i: daemon.generate(self.requests[i])
                                     for i in growing])
            self.assertGreater(daemon.metric("vllm:num_preemptions_total"), 0)
            for i, response in zip(growing, responses):
                self.assertEqual(answer_bytes(response), self.alone[i], f"request {i}: 8 pages")
            self.all_at_once(daemon, "8 pages")

    def test_every_isa_path(self):
        for isa in isa_paths():
            with Daemon("--cpu-isa", isa) as daemon:
                self.all_at_once(daemon, f"--cpu-isa {isa}")

    def test_speculation(self):
        """How many drafts get a row depends on measured times: ask until enough have been judged."""
        longest = sorted(range(NUM_REQUESTS), key=lambda k: -len(self.requests[k].text))[:8]
        with Daemon("--speculate", "ngram") as daemon:
            self.all_at_once(daemon, "speculated, 64 at once")
            for _ in range(MAX_SPECULATED_ROUNDS):
                for i in longest:
                    self.assertEqual(answer_bytes(daemon.generate(self.requests[i])),
                                     self.alone[i], f"request {i}: speculated, alone")
                accepted = daemon.metric("vllm:spec_decode_num_accepted_tokens_total")
                drafted = daemon.metric("vllm:spec_decode_num_draft_tokens_total")
                if accepted > 50 and drafted - accepted > 10:
                    return
            self.fail(f"{accepted} drafts accepted of {drafted}: expected over 50, and over 10 wrong")

    def test_portable_path(self):
        with Daemon("--cpu-isa", "portable") as daemon:
            for i in sorted(range(NUM_REQUESTS), key=lambda k: len(
                    self.requests[k].text) * 10 + self.requests[k].stop.max_tokens
                    )[:NUM_PORTABLE_REQUESTS]:
                self.assertEqual(answer_bytes(daemon.generate(self.requests[i])), self.alone[i])

    def test_streaming_gives_what_unary_gives(self):
        with Daemon() as daemon:
            for i in (0, 1, 9, 16):
                text, ids = "", []
                for message in daemon.generation.GenerateStream(self.requests[i], timeout=120):
                    for output in message.outputs:
                        text += output.text
                        ids += output.token_ids
                whole = daemon.generate(self.requests[i]).outputs[0]
                self.assertEqual((text, ids), (whole.text, list(whole.token_ids)))

    def test_n_sequences_equal_single_runs_with_the_derived_seeds(self):
        with Daemon() as daemon:
            many = daemon.generate(request("Once upon a time", max_tokens=24, seed=77, n=4,
                                           logprobs=3, temperature=1.0))
            self.assertEqual([o.index for o in many.outputs], [0, 1, 2, 3])
            self.assertEqual(len({o.text for o in many.outputs}), 4)
            for output in many.outputs:
                single = daemon.generate(request("Once upon a time", max_tokens=24, logprobs=3,
                                                 seed=output.seed, temperature=1.0)).outputs[0]
                self.assertEqual(list(single.token_ids), list(output.token_ids))
                self.assertEqual(single.logprobs, output.logprobs)

    def test_hashes_match_the_committed_ones(self):
        """The same bits on every machine; they change only with the numerics version."""
        hashes = {"fingerprint": self.fingerprint,
                  "answers": [hashlib.sha256(a).hexdigest()[:16] for a in self.alone]}
        if os.environ.get("TESSERA_WRITE_GOLDEN"):
            GOLDEN.write_text(json.dumps(hashes, indent=1) + "\n")
        self.assertEqual(json.loads(GOLDEN.read_text()), hashes)


if __name__ == "__main__":
    assert BIN.exists(), BIN
    unittest.main(verbosity=2, argv=sys.argv)
