"""Every bad input gets a documented status that says what was expected and what came."""

import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import grpc
from harness import BIN, Daemon, MODEL, control_pb2, error_of, pb, request, tessera

INVALID = grpc.StatusCode.INVALID_ARGUMENT

# (what, request, words that the message must hold). Names of fields as a client spells them.
BAD_REQUESTS = [
    ("no prompt", pb.GenerateRequest(), ["prompt"]),
    ("empty text", request(""), ["prompt"]),
    ("empty ids", request([]), ["prompt"]),
    ("over-long prompt", request([5] * 100_000), ["prompt", "100000"]),
    ("negative token id", request([-1]), ["token", "-1"]),
    ("unknown token id", request([1, 10_000_000]), ["token", "10000000"]),
    ("NaN temperature", request("a", temperature=math.nan), ["temperature", "nan"]),
    ("negative temperature", request("a", temperature=-0.5), ["temperature", "-0.5"]),
    ("infinite temperature", request("a", temperature=math.inf), ["temperature", "inf"]),
    ("top_k of -2", request("a", top_k=-2), ["top_k", "-2"]),
    ("top_p of 0", request("a", top_p=0.0), ["top_p", "0"]),
    ("top_p above 1", request("a", top_p=1.5), ["top_p", "1.5"]),
    ("NaN top_p", request("a", top_p=math.nan), ["top_p", "nan"]),
    ("negative min_p", request("a", min_p=-0.1), ["min_p", "-0.1"]),
    ("min_p above 1", request("a", min_p=2.0), ["min_p", "2"]),
    ("repetition penalty of 0", request("a", repetition_penalty=0.0), ["repetition_penalty", "0"]),
    ("repetition penalty of 11", request("a", repetition_penalty=11.0), ["repetition_penalty"]),
    ("frequency penalty of 3", request("a", frequency_penalty=3.0), ["frequency_penalty", "3"]),
    ("presence penalty of -3", request("a", presence_penalty=-3.0), ["presence_penalty", "-3"]),
    ("huge bias", request("a", logit_bias={5: 1e6}), ["logit_bias", "100"]),
    ("NaN bias", request("a", logit_bias={5: math.nan}), ["logit_bias", "nan"]),
    ("bias of an unknown token", request("a", logit_bias={10_000_000: 1.0}), ["logit_bias"]),
    ("2,000 biases", request("a", logit_bias={i: 1.0 for i in range(2000)}), ["1024", "2000"]),
    ("n = 0", request("a", n=0), ["n", "0"]),
    ("n = 65", request("a", n=65), ["64", "65"]),
    ("21 logprobs", request("a", logprobs=21), ["logprobs", "20", "21"]),
    ("21 prompt logprobs", request("a", prompt_logprobs=21), ["prompt_logprobs", "20", "21"]),
    ("max_tokens = 0", request("a", max_tokens=0), ["max_tokens", "0"]),
    ("max_tokens beyond the context", request("a", max_tokens=1_000_000), ["max_tokens"]),
    ("min_tokens above max_tokens", request("a", max_tokens=4, min_tokens=5), ["min_tokens"]),
    ("empty stop string", request("a", stop_strings=[""]), ["stop"]),
    ("1 MB stop string", request("a", stop_strings=["x" * 1_000_000]), ["stop", "256"]),
    ("17 stop strings", request("a", stop_strings=list("abcdefghijklmnopq")), ["16", "17"]),
    ("65 stop ids", request("a", stop_token_ids=[5] * 65), ["64", "65"]),
    ("unknown stop id", request("a", stop_token_ids=[-7]), ["stop_token_ids", "-7"]),
]


class BadRequestTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--max-context", 2048)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def test_each_is_refused_with_what_was_expected_and_what_came(self):
        for what, bad, words in BAD_REQUESTS:
            for call in (self.daemon.generate,
                         lambda r: list(self.daemon.generation.GenerateStream(r, timeout=30))):
                with self.subTest(what), error_of(self, INVALID) as caught:
                    call(bad)
                for word in words:
                    self.assertIn(word, caught[0].details().lower(), what)

    def test_another_models_name_is_not_found(self):
        with error_of(self, grpc.StatusCode.NOT_FOUND):
            self.daemon.generate(request("a", model="gpt-5"))

    def test_text_that_is_not_utf8_is_refused(self):
        """grpcio cannot send it in a string field: bytes by hand, field 1 of GenerateRequest."""
        call = self.daemon.channel.unary_unary("/tessera.v1.GenerationService/Generate",
                                               request_serializer=lambda raw: raw)
        with error_of(self, INVALID) as caught:
            call(b"\x0a\x03ab\xff", timeout=30)
        self.assertIn("UTF-8", caught[0].details())

    def test_deadline_that_has_passed(self):
        with error_of(self, grpc.StatusCode.DEADLINE_EXCEEDED):
            self.daemon.generation.Generate(request("a", max_tokens=500, ignore_eos=True),
                                            timeout=0.001)

    def test_oversized_message(self):
        with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self.daemon.generate(request("a" * (80 << 20)))

    def test_unknown_method(self):
        call = self.daemon.channel.unary_unary("/tessera.v1.GenerationService/Nothing")
        with error_of(self, grpc.StatusCode.UNIMPLEMENTED):
            call(b"", timeout=10)

    def test_abort_of_an_unknown_request(self):
        with error_of(self, grpc.StatusCode.NOT_FOUND):
            self.daemon.control.Abort(control_pb2.AbortRequest(request_id="no-such"), timeout=10)

    def test_the_client_says_the_status_and_fails(self):
        result = tessera("generate", "--target", self.daemon.target, "--prompt", "a", "--top-p",
                         "7", check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("INVALID_ARGUMENT", result.stderr)
        self.assertIn("top_p", result.stderr)

    def test_it_serves_on(self):
        self.assertEqual(len(self.daemon.generate(request("a", 3, ignore_eos=True))
                             .outputs[0].token_ids), 3)


class BadSetupTest(unittest.TestCase):
    """Exit 1 and a clear message on stderr; never a crash."""

    def run_daemon(self, *flags):
        return subprocess.run([str(BIN / "tesserad"), "--listen", "127.0.0.1:0", *map(str, flags)],
                              capture_output=True, text=True, timeout=60)

    def assert_refused(self, result, *words):
        text = (result.stderr + result.stdout).lower()
        self.assertEqual(result.returncode, 1, text)
        for word in words:
            self.assertIn(word, text)

    def test_missing_file(self):
        self.assert_refused(self.run_daemon("--model", "/nonexistent.gguf"), "/nonexistent.gguf")

    def test_not_a_model(self):
        self.assert_refused(self.run_daemon("--model", __file__), "magic")

    def test_bad_listen_address(self):
        self.assert_refused(
            self.run_daemon("--model", MODEL, "--listen", "256.0.0.1:99999"), "listen")

    def test_pool_too_small(self):
        self.assert_refused(self.run_daemon("--model", MODEL, "--kv-blocks", 0), "kv-blocks")

    def test_more_memory_than_there_is(self):
        self.assert_refused(self.run_daemon("--model", MODEL, "--kv-blocks", 2_000_000_000),
                            "kv")

    def test_no_gpu(self):
        self.assert_refused(self.run_daemon("--model", MODEL, "--device", "cuda:0"), "cuda")

    def test_truncated_and_flipped_models(self):
        data = pathlib.Path(MODEL).read_bytes()
        rng = random.Random(7)
        header = 2_000_000  # metadata and tensor table lie in the first 2 MB
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bad.gguf")
            for size in (0, 3, 4, 23, 24, 1000, 500_000, len(data) // 2, len(data) - 1):
                pathlib.Path(path).write_bytes(data[:size])
                self.assert_refused(self.run_daemon("--model", path))
            for _ in range(12):
                bad = bytearray(data[:header])
                bad[rng.randrange(24, 200)] ^= 1 << rng.randrange(8)
                pathlib.Path(path).write_bytes(bad)  # cut short as well: none may load
                self.assert_refused(self.run_daemon("--model", path))


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
