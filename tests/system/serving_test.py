"""Behaviour that only the whole daemon shows: cancels, slow readers, fairness, Explain, drain."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

import grpc
from harness import (Daemon, control_pb2, error_of, generation_pb2_grpc, request, run_at_once,
                     tessera)

LONG = dict(max_tokens=1500, ignore_eos=True, temperature=0)


class CommandLineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def tessera(self, command, *arguments):
        return tessera(command, "--target", self.daemon.target, *arguments).stdout

    def test_generate_as_json(self):
        answer = json.loads(self.tessera("generate", "--prompt", "The capital of France is",
                                         "--max-tokens", 8, "--temperature", 0, "--logprobs", 2,
                                         "--json"))
        self.assertEqual(answer["usage"]["completion_tokens"], len(answer["token_ids"]))
        self.assertIn("Paris", answer["text"])
        self.assertEqual(len(answer["logprobs"]), len(answer["token_ids"]))
        self.assertEqual(answer["logprobs"][0][0]["id"], answer["token_ids"][0])
        for key in ("finish_reason", "seed", "fingerprint", "timing"):
            self.assertIn(key, answer)

    def test_streamed_text_is_the_same(self):
        flags = ["--prompt", "Water boils at", "--max-tokens", 12, "--temperature", 0]
        text = json.loads(self.tessera("generate", *flags, "--json"))["text"]
        self.assertEqual(self.tessera("generate", *flags).rstrip("\n"), text.rstrip("\n"))

    def test_n_gives_an_array(self):
        answer = json.loads(self.tessera("generate", "--prompt", "Hi", "--n", 3, "--max-tokens", 4,
                                         "--seed", 1, "--json"))
        self.assertEqual(len(answer["outputs"]), 3)

    def test_echo_and_stop_string(self):
        answer = json.loads(self.tessera("generate", "--prompt", "1, 2, 3, 4,", "--echo", "--stop",
                                         "7", "--temperature", 0, "--max-tokens", 30, "--json"))
        self.assertTrue(answer["text"].startswith("1, 2, 3, 4,"))
        self.assertNotIn("7", answer["text"])
        self.assertEqual((answer["finish_reason"], answer["stop_string"]), ("stop", "7"))

    def test_tokenize_and_back(self):
        ids = json.loads(self.tessera("tokenize", "--text", "Hello, wörld!", "--json"))["token_ids"]
        back = self.tessera("detokenize", "--ids", ",".join(map(str, ids)), "--json")
        self.assertEqual(json.loads(back)["text"], "Hello, wörld!")

    def test_special_tokens_are_parsed_only_where_asked(self):
        text = "<|im_start|>"
        plain = json.loads(self.tessera("tokenize", "--text", text, "--json"))["token_ids"]
        special = json.loads(self.tessera("tokenize", "--text", text, "--parse-special",
                                          "--json"))["token_ids"]
        self.assertGreater(len(plain), 1)
        self.assertEqual(len(special), 1)

    def test_info_and_explain(self):
        info = json.loads(self.tessera("info", "--json"))
        self.assertEqual(info["model"]["architecture"], "llama")
        state = json.loads(self.tessera("explain", "--json"))
        self.assertEqual(state["pages_total"], info["server"]["kv_pages"])

    def test_bench(self):
        report = json.loads(self.tessera("bench", "--concurrency", 4, "--num-requests", 8,
                                         "--input-len", 32, "--output-len", 8, "--json"))
        self.assertEqual((report["num_ok"], report["output_tokens"]), (8, 64))
        for metric in ("ttft_ms", "itl_ms", "e2e_ms"):
            self.assertLessEqual(report[metric]["p50"], report[metric]["p99"])


class LifecycleTest(unittest.TestCase):
    def test_cancel_frees_the_sequence_in_every_state(self):
        with Daemon("--max-running", 1, "--no-prefix-cache") as daemon:
            running = daemon.generation.GenerateStream(request("Count: 1 2 3", **LONG))
            next(running)  # decoding
            waiting = daemon.generation.GenerateStream(request("Waiting", **LONG))
            daemon.wait_for(lambda s: s.num_waiting == 1)
            waiting.cancel()
            daemon.wait_for(lambda s: s.num_waiting == 0)
            running.cancel()
            state = daemon.wait_until_idle()
            self.assertEqual(state.pages_used, 0)
            prefill = daemon.generation.GenerateStream(request([300] * 6000, max_tokens=4))
            daemon.wait_for(lambda s: s.num_running == 1)
            prefill.cancel()
            self.assertEqual(daemon.wait_until_idle().pages_used, 0)

    def test_deadline_ends_a_running_request(self):
        with Daemon() as daemon:
            with error_of(self, grpc.StatusCode.DEADLINE_EXCEEDED):
                daemon.generation.Generate(request("a", **LONG), timeout=0.5)
            self.assertEqual(daemon.wait_until_idle().pages_used, 0)

    def test_full_queue_is_refused_with_a_retry_hint(self):
        with Daemon("--max-running", 1, "--max-waiting", 2) as daemon:
            streams = [daemon.generation.GenerateStream(request("a", **LONG))]
            next(streams[0])  # it runs, and no longer waits
            streams += [daemon.generation.GenerateStream(request("a", **LONG)) for _ in range(2)]
            daemon.wait_for(lambda s: s.num_waiting == 2)
            with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                daemon.generate(request("a"))
            trailers = dict(caught[0].trailing_metadata())
            self.assertGreater(int(trailers["grpc-retry-pushback-ms"]), 0)
            self.assertIn("grpc-status-details-bin", trailers)
            self.assertIn("2", caught[0].details())
            for stream in streams:
                stream.cancel()

    def test_abort_ends_the_request_of_another_client(self):
        with Daemon() as daemon:
            stream = daemon.generation.GenerateStream(request("a", **LONG))
            request_id = next(stream).request_id
            daemon.control.Abort(control_pb2.AbortRequest(request_id=request_id), timeout=10)
            with self.assertRaises(grpc.RpcError) as caught:
                list(stream)
            self.assertIn(caught.exception.code(),
                          (grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED))

    def test_explain_answers_during_a_long_prefill(self):
        with Daemon("--max-context", 8192) as daemon:
            stream = daemon.generation.GenerateStream(request([300] * 4000, max_tokens=2))
            daemon.wait_for(lambda s: s.num_running == 1)
            steps = []
            while True:
                before = time.monotonic()
                state = daemon.explain()
                steps.append((state.step, time.monotonic() - before))
                if state.num_running == 0:
                    break
            list(stream)
            seen = [step for step, _ in steps]
            self.assertEqual(seen, sorted(seen))
            self.assertGreater(len(set(seen)), 2, "no answer during the prefill")

    def test_drain_lets_streams_finish(self):
        daemon = Daemon()
        streams = [daemon.generation.GenerateStream(request(f"Story {i}:", 60, ignore_eos=True))
                   for i in range(4)]
        for stream in streams:
            next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        for stream in streams:
            ids = [i for m in stream for o in m.outputs for i in o.token_ids]
            self.assertGreater(len(ids), 0)
            self.assertEqual(stream.code(), grpc.StatusCode.OK)
        self.assertEqual(daemon.stop(), 0)

    def test_drain_that_times_out_gives_every_stream_a_status(self):
        daemon = Daemon("--drain-timeout", "0.3")
        streams = [daemon.generation.GenerateStream(request(f"{i}", **LONG)) for i in range(4)]
        for stream in streams:
            next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        for stream in streams:
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                list(stream)
        self.assertEqual(daemon.stop(), 0)

    def test_a_drain_call_may_shorten_a_drain(self):
        daemon = Daemon("--drain-timeout", "600")
        stream = daemon.generation.GenerateStream(request("a", **LONG))
        next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_log("draining")
        daemon.control.Drain(control_pb2.DrainRequest(timeout_seconds=0.3), timeout=10)
        with error_of(self, grpc.StatusCode.UNAVAILABLE):
            list(stream)
        self.assertEqual(daemon.stop(), 0)


class LoadReportTest(unittest.TestCase):
    """gRPC clients keep the report from their application, so a wiretap looks for it."""

    @contextlib.contextmanager
    def wiretap(self, target):
        """An address that leads to the target, and the bytes that came back from there."""
        host, port = target.rsplit(":", 1)
        answers = bytearray()

        def pass_on(source, sink, record):
            with contextlib.suppress(OSError):  # either side may go first
                while data := source.recv(1 << 16):
                    record.extend(data)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        with socket.create_server(("127.0.0.1", 0)) as server:
            def serve():
                client = server.accept()[0]
                with client, socket.create_connection((host, int(port))) as daemon:
                    forth = threading.Thread(target=pass_on, args=(client, daemon, bytearray()))
                    forth.start()
                    pass_on(daemon, client, answers)
                    forth.join()

            tap = threading.Thread(target=serve, daemon=True)
            tap.start()
            yield "127.0.0.1:%d" % server.getsockname()[1], answers

    def test_answers_end_with_a_report_where_asked(self):
        for flags, expected in (((), False), (("--load-reports",), True)):
            with Daemon(*flags) as daemon, self.wiretap(daemon.target) as (target, answers):
                tessera("generate", "--target", target, "--prompt", "a", "--max-tokens", 2)
                self.assertIn(b"grpc-status", answers)
                self.assertEqual(b"endpoint-load-metrics-bin" in answers, expected)


class SlowReaderTest(unittest.TestCase):
    def test_only_its_own_sequence_is_parked(self):
        """20 logprobs a token and a reader that stops: memory flat, others' tokens unchanged."""
        with Daemon() as daemon:
            other = request("The sea", 64, ignore_eos=True, temperature=0)
            expected = list(daemon.generate(other).outputs[0].token_ids)
            # A client whose transport does not read megabytes ahead of its application.
            channel = grpc.insecure_channel(daemon.target, options=[
                ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)])
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            slow = [stub.GenerateStream(
                request(f"Slow {i}", max_tokens=7000, ignore_eos=True, logprobs=20, n=4))
                for i in range(2)]
            for stream in slow:
                next(stream)
            daemon.wait_for(lambda state: any(
                s.state == control_pb2.SequenceState.STATE_PARKED for s in state.sequences), timeout_s=120)
            memory = self.resident_kib(daemon)
            for _ in range(3):
                self.assertEqual(list(daemon.generate(other).outputs[0].token_ids), expected)
            self.assertLess(self.resident_kib(daemon), memory + 20_000)
            for stream in slow:
                stream.cancel()
            channel.close()
            daemon.wait_until_idle()

    def resident_kib(self, daemon):
        status = open(f"/proc/{daemon.process.pid}/status").read()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


class PolicyTest(unittest.TestCase):
    def test_backlogged_tenants_share_the_service(self):
        """Tenant a sends 24 requests before tenant b sends 6; b is not made to wait for all of a."""
        with Daemon("--max-running", 2, "--trust-tenant-metadata", "x-tenant-id") as daemon:
            finished = []
            lock = threading.Lock()

            def call(tenant):
                daemon.generate(request(f"{tenant} says", 16, ignore_eos=True),
                                metadata=[("x-tenant-id", tenant)])
                with lock:
                    finished.append(tenant)

            flood = threading.Thread(target=run_at_once, args=([lambda: call("a")] * 24,))
            flood.start()
            daemon.wait_for(lambda state: state.num_waiting >= 12)
            run_at_once([lambda: call("b")] * 6)
            when_b_was_done = len(finished)
            flood.join()
            # While both are backlogged they take turns: 6 of b, about as many of a, and those of a
            # that were done or running before b came.
            self.assertLess(when_b_was_done, 24 + 6)
            self.assertLessEqual(finished[:when_b_was_done].count("a") - 6, 12, finished)

    def test_low_priority_ends_under_a_high_priority_flood(self):
        with Daemon("--max-running", 2) as daemon:
            stop = threading.Event()

            def flood():
                while not stop.is_set():
                    daemon.generate(request("urgent", 8, ignore_eos=True, priority=-10))

            threads = [threading.Thread(target=flood) for _ in range(6)]
            for thread in threads:
                thread.start()
            daemon.wait_for(lambda state: state.num_waiting >= 3)
            start = time.monotonic()
            daemon.generate(request("patient", 8, ignore_eos=True, priority=10))
            waited = time.monotonic() - start
            stop.set()
            for thread in threads:
                thread.join()
            self.assertLess(waited, 60, "ageing did not lift it")


class MixedLoadTest(unittest.TestCase):
    def test_32_streams_beside_a_long_prompt(self):
        with Daemon("--max-context", 8192) as daemon:
            long_prompt = daemon.generation.GenerateStream(request([300] * 4000, max_tokens=4))
            report = json.loads(tessera("bench", "--target", daemon.target, "--concurrency", 32,
                                        "--num-requests", 48, "--input-len", 60, "--output-len",
                                        24, "--range-ratio", 0.6, "--json").stdout)
            list(long_prompt)
            self.assertEqual(report["num_failed"], 0, report["statuses"])
            itl = report["itl_ms"]
            print(f"inter-token p99/p50 beside a 4,000-token prompt: {itl['p99'] / itl['p50']:.1f}")
            self.assertEqual(daemon.wait_until_idle().pages_used, 0)

    def test_batching_at_least_doubles_throughput(self):
        """A counter of steps, not a clock: 32 streams take far fewer steps than one after another."""
        with Daemon() as daemon:
            before = daemon.explain().step
            run_at_once([lambda i=i: daemon.generate(
                request(f"Number {i} is", 32, ignore_eos=True)) for i in range(32)])
            steps = daemon.explain().step - before
            self.assertLess(steps, 32 * 32 / 2)


class PrometheusTest(unittest.TestCase):
    def test_a_real_prometheus_scrapes_and_answers_queries(self):
        with Daemon() as daemon, tempfile.TemporaryDirectory() as folder:
            daemon.generate(request("Hello", 4))
            config = (f"global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: tessera\n"
                      f"  static_configs: [{{targets: ['{daemon.metrics_target}']}}]\n")
            open(f"{folder}/prometheus.yml", "w").write(config)
            with open(f"{folder}/log", "w+") as log:
                process = subprocess.Popen(
                    ["prometheus", f"--config.file={folder}/prometheus.yml",
                     f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0"],
                    stdout=log, stderr=log)
                try:
                    address = self.listen_address(process, f"{folder}/log")
                    value = self.query(address, "histogram_quantile(0.5, sum by (le) "
                                                "(vllm:time_to_first_token_seconds_bucket))")
                    self.assertGreater(value, 0)
                    count = self.query(address, "vllm:time_to_first_token_seconds_count")
                    self.assertEqual(count, 1)
                finally:
                    process.terminate()
                    process.wait(30)

    def listen_address(self, process, log_path):
        """The port Prometheus chose, found among its listening sockets."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.assertIsNone(process.poll(), open(log_path).read())
            found = re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", open(log_path).read())
            if found:
                return found[1]
            time.sleep(0.05)
        self.fail(open(log_path).read())

    def query(self, address, expression, timeout_s=30):
        deadline = time.monotonic() + timeout_s
        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5) as reply:
                    result = json.load(reply)["data"]["result"]
            except OSError:
                result = []
            if result:
                return float(result[0]["value"][1])
            time.sleep(0.1)
        self.fail(f"no data for {expression}")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
