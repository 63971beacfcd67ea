#!/usr/bin/env python3
"""Keys, quotas, TLS, separate control, and clients that mean harm, against the real daemon with real
clients (grpcio, tessera, raw sockets)."""

import contextlib
import hashlib
import json
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

os.environ["GRPC_VERBOSITY"] = "NONE"  # handshakes that must fail are no news

import grpc  # noqa: E402

from harness import (BIN, Daemon, control_pb2, control_pb2_grpc, error_of,  # noqa: E402
                     generation_pb2_grpc, pb, request, tessera, wait_until)

WORK = tempfile.TemporaryDirectory(prefix="tessera-security-")
FOLDER = pathlib.Path(WORK.name)
MODEL = FOLDER / "tiny.gguf"
subprocess.run([str(BIN / "make_tiny_model"), "--output", str(MODEL), "--max-context", "65536"],
               check=True)


def write_keys(path, *lines, **keys):
    """A key file; keyword arguments are key=tenant."""
    path.write_text("\n".join([*lines, *(f"key {hashlib.sha256(key.encode()).hexdigest()} {tenant}"
                                         for key, tenant in keys.items())]) + "\n")


def bearer(key, **more):
    return (("authorization", f"Bearer {key}"), *more.items())


def one(tokens=2, **fields):
    return request([300, 301, 302], tokens, ignore_eos=True, temperature=0, **fields)


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_authority(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
            2, "-subj", f"/CN={name}", "-keyout", FOLDER / f"{name}.key", "-out",
            FOLDER / f"{name}.pem")


def make_certificate(name, authority, serial):
    extensions = FOLDER / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            f"/CN={name}", "-keyout", FOLDER / f"{name}.key", "-out", FOLDER / f"{name}.csr")
    openssl("x509", "-req", "-in", FOLDER / f"{name}.csr", "-CA", FOLDER / f"{authority}.pem",
            "-CAkey", FOLDER / f"{authority}.key", "-set_serial", serial, "-days", 2, "-extfile",
            extensions, "-out", FOLDER / f"{name}.pem")


def pem(name):
    return (FOLDER / name).read_bytes()


class Tap:
    """Passes one connection on to a daemon, and keeps what comes back."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.daemon = socket.create_connection((host, int(port)))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.received = bytearray()
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()
        self.daemon.close()

    def serve(self):
        with self.listener.accept()[0] as client:
            forth = threading.Thread(target=self.pass_on, args=(client, self.daemon, bytearray()))
            forth.start()
            self.pass_on(self.daemon, client, self.received)
            forth.join()

    @staticmethod
    def pass_on(source, sink, record):
        with contextlib.suppress(OSError):  # either end may hang up first
            while data := source.recv(1 << 16):
                record.extend(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class RawHttp2:
    """Just enough of HTTP/2 for what no client library would do."""

    HEADERS, SETTINGS, PING = 1, 4, 6
    ACK, END_HEADERS = 1, 4
    MAX_CONCURRENT_STREAMS = 3
    CALL = ((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"tessera"),
            (b":path", b"/tessera.v1.GenerationService/GenerateStream"),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"))

    def __init__(self, address):
        self.socket = socket.create_connection(address, 30)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS))
        payload = self.wait_for(self.SETTINGS)
        self.settings = dict(struct.iter_unpack(">HI", payload))
        self.socket.sendall(self.frame(self.SETTINGS, self.ACK))
        self.next_stream = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @staticmethod
    def frame(kind, flags=0, stream=0, payload=b""):
        return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload

    def open_call(self):
        """Its headers, each a literal that is not indexed; no message follows."""
        block = b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value)
                         for name, value in self.CALL)
        self.socket.sendall(self.frame(self.HEADERS, self.END_HEADERS, self.next_stream, block))
        self.next_stream += 2

    def ping(self):
        """Returns once all that was sent before has been read."""
        self.socket.sendall(self.frame(self.PING, payload=bytes(8)))
        self.wait_for(self.PING)

    def wait_for(self, kind):
        """The payload of the next frame of this kind; others are passed over."""
        while True:
            head, _flags, _stream = struct.unpack(">IBI", self.read(9))
            payload = self.read(head >> 8)
            if head & 0xff == kind:
                return payload

    def read(self, size):
        data = b""
        while len(data) < size:
            if not (more := self.socket.recv(size - len(data))):
                raise ConnectionError("closed")
            data += more
        return data


class KeysTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keys = FOLDER / "keys"
        cls.control_socket = FOLDER / "control.sock"
        write_keys(cls.keys, "tenant a concurrent_sequences=2 most_urgent_priority=0",
                   "tenant b", "tenant c tokens_per_minute=60", "tenant d requests_per_second=3",
                   alpha="a", beta="b", gamma="c", rapid="d")
        cls.daemon = Daemon("--api-keys", cls.keys, "--control-listen",
                            f"unix:{cls.control_socket}", model=MODEL)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def generate(self, key, message=None, **metadata):
        return self.daemon.generate(message or one(), metadata=bearer(key, **metadata))

    def assert_quota(self, error, limit):
        """RESOURCE_EXHAUSTED that names the limit and forbids automatic retries."""
        self.assertIn(limit, error.details())
        self.assertEqual(dict(error.trailing_metadata())["grpc-retry-pushback-ms"], "-1")
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        self.assertIn(b"type.googleapis.com/google.rpc.ErrorInfo", details)
        self.assertIn(b"TENANT_QUOTA", details)

    def test_only_known_keys_are_let_in(self):
        for metadata in ((), (("authorization", "Basic alpha"),), bearer(""), bearer("delta")):
            for call, message in ((self.daemon.generation.Generate, one()),
                                  (self.daemon.model.Tokenize, pb.TokenizeRequest(text="a")),
                                  (self.daemon.model.GetModelInfo, pb.GetModelInfoRequest())):
                with error_of(self, grpc.StatusCode.UNAUTHENTICATED):
                    call(message, timeout=10, metadata=metadata)
        self.assertEqual(len(self.generate("beta").outputs[0].token_ids), 2)
        self.assertGreater(self.daemon.metric("tessera_requests_rejected_total",
                                              reason="unauthenticated"), 0)

    def test_a_key_of_another_tenant(self):
        with error_of(self, grpc.StatusCode.PERMISSION_DENIED):
            self.generate("beta", **{"x-tenant-id": "a"})
        self.generate("alpha", **{"x-tenant-id": "a"})

    def test_prefixes_are_not_shared_between_tenants(self):
        prompt = request(list(range(100, 300)), 1, ignore_eos=True, temperature=0)
        self.generate("alpha", prompt)
        self.assertGreater(self.generate("alpha", prompt).outputs[0].usage.cached_tokens, 0)
        self.assertEqual(self.generate("beta", prompt).outputs[0].usage.cached_tokens, 0)

    def test_concurrent_sequences(self):
        with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as errors:
            self.generate("alpha", one(n=3))
        self.assert_quota(errors[0], "concurrent_sequences: expected at most 2, got 3")
        stream = self.daemon.generation.GenerateStream(one(60_000, n=2), metadata=bearer("alpha"))
        next(stream)
        with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self.generate("alpha")
        stream.cancel()
        deadline = time.monotonic() + 10
        while True:  # its sequences are given back once it has ended
            try:
                self.generate("alpha")
                break
            except grpc.RpcError:
                self.assertLess(time.monotonic(), deadline)

    def test_urgency(self):
        with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as errors:
            self.generate("alpha", one(priority=-1))
        self.assert_quota(errors[0], "most_urgent_priority: expected priority 0 or above, got -1")

    def test_requests_per_second(self):
        refused = []
        for _ in range(20):
            try:
                self.generate("rapid")
            except grpc.RpcError as error:
                refused.append(error)
        self.assertGreater(len(refused), 5)
        self.assert_quota(refused[0], "requests_per_second: expected at most 3")

    def test_tokens_per_minute(self):
        stream = self.daemon.generation.GenerateStream(one(60_000), metadata=bearer("gamma"))
        num_tokens = 0
        while num_tokens < 100:
            num_tokens += sum(len(output.token_ids) for output in next(stream).outputs)
        with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as errors:  # while the first runs
            self.generate("gamma")
        self.assert_quota(errors[0], "tokens_per_minute: expected at most 60")
        stream.cancel()
        self.daemon.wait_for_log("tenant=c", times=2)  # the refusal, the end
        self.assertGreaterEqual(self.daemon.metric("tessera_tenant_tokens_total", tenant="c",
                                                   kind="completion"), num_tokens)
        self.assertEqual(self.daemon.metric("tessera_tenant_quota_rejections_total", tenant="c"), 1)

    def test_control_comes_another_way(self):
        with error_of(self, grpc.StatusCode.UNIMPLEMENTED):
            self.daemon.control.Explain(control_pb2.ExplainRequest(), timeout=10,
                                        metadata=bearer("alpha"))
        with grpc.insecure_channel(f"unix:{self.control_socket}") as channel:
            control = control_pb2_grpc.ControlServiceStub(channel)
            self.assertGreater(control.Explain(control_pb2.ExplainRequest(), timeout=10).pages_total,
                               0)
            generation = generation_pb2_grpc.GenerationServiceStub(channel)
            with error_of(self, grpc.StatusCode.UNIMPLEMENTED):
                generation.Generate(one(), timeout=10)

    def test_load_is_reported_to_known_callers_alone(self):
        """gRPC clients keep that trailer to themselves, so what comes over the wire is looked at."""
        with Daemon("--api-keys", self.keys, "--load-reports", model=MODEL) as daemon:
            for key, metadata, code in (
                    ("beta", {}, None), ("delta", {}, grpc.StatusCode.UNAUTHENTICATED),
                    ("beta", {"x-tenant-id": "a"}, grpc.StatusCode.PERMISSION_DENIED)):
                with Tap(daemon.target) as tap, grpc.insecure_channel(tap.target) as channel:
                    call = generation_pb2_grpc.GenerationServiceStub(channel).Generate
                    future = call.future(one(), timeout=10, metadata=bearer(key, **metadata))
                    self.assertEqual(future.code(), code or grpc.StatusCode.OK)
                self.assertIn(b"grpc-status", tap.received)
                self.assertEqual(b"endpoint-load-metrics-bin" in tap.received, code is None)

    def test_services_are_not_described(self):
        call = self.daemon.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with error_of(self, grpc.StatusCode.UNIMPLEMENTED):
            list(call(iter([b""]), timeout=10))

    def test_keys_are_read_again_and_a_bad_file_changes_nothing(self):
        good = self.keys.read_text()
        self.keys.write_text(good + f"key {hashlib.sha256(b'delta2').hexdigest()} b\n")
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_for_log("reloaded")
        self.keys.write_text("nonsense\n")
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_for_log("reload failed")
        with error_of(self, grpc.StatusCode.UNAUTHENTICATED):
            self.generate("epsilon")
        self.daemon.model.GetServerInfo(pb.GetServerInfoRequest(), timeout=10,
                                        metadata=bearer("delta2"))
        self.keys.write_text(good)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_for_log("reloaded", times=2)
        with error_of(self, grpc.StatusCode.UNAUTHENTICATED):
            self.generate("delta2")

    def test_the_client_sends_a_key_and_the_log_never_shows_one(self):
        key_file = FOLDER / "alpha"
        key_file.write_text("alpha\n")
        result = tessera("generate", "--target", self.daemon.target, "--api-key-file", key_file,
                         "--prompt", "hidden words", "--max-tokens", 2)
        self.assertEqual(result.returncode, 0)
        for secret in ("alpha", "beta", "delta", "hidden words"):
            self.assertNotIn(secret, self.daemon.log())


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for authority in ("authority", "stranger"):
            make_authority(authority)
        make_certificate("server", "authority", 1)
        make_certificate("client", "authority", 2)
        make_certificate("foreign", "stranger", 3)

    def daemon(self, *flags):
        return Daemon("--tls-cert", FOLDER / "server.pem", "--tls-key", FOLDER / "server.key", *flags,
                      model=MODEL)

    def generate(self, daemon, roots, certificate=None):
        credentials = grpc.ssl_channel_credentials(
            pem(f"{roots}.pem"), *(pem(f"{certificate}.{kind}") for kind in ("key", "pem"))
        ) if certificate else grpc.ssl_channel_credentials(pem(f"{roots}.pem"))
        with grpc.secure_channel(daemon.target, credentials) as channel:
            return generation_pb2_grpc.GenerationServiceStub(channel).Generate(one(), timeout=5)

    def test_server_certificate(self):
        with self.daemon() as daemon:
            self.assertEqual(len(self.generate(daemon, "authority").outputs[0].token_ids), 2)
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                self.generate(daemon, "stranger")
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                daemon.generation.Generate(one(), timeout=5)  # plaintext
            result = tessera("generate", "--target", daemon.target, "--tls-ca",
                             FOLDER / "authority.pem", "--prompt", "a", "--max-tokens", 2)
            self.assertEqual(result.returncode, 0)

    def test_client_certificates(self):
        with self.daemon("--tls-client-ca", FOLDER / "authority.pem") as daemon:
            self.generate(daemon, "authority", "client")
            for certificate in (None, "foreign"):
                with error_of(self, grpc.StatusCode.UNAVAILABLE):
                    self.generate(daemon, "authority", certificate)
            self.generate(daemon, "authority", "client")

    def test_certificates_are_read_again(self):
        with self.daemon() as daemon:
            self.generate(daemon, "authority")
            old = {name: pem(name) for name in ("server.pem", "server.key")}
            make_certificate("server", "stranger", 4)
            new_key = FOLDER / "server.key"
            new_key.rename(FOLDER / "server.new")
            new_key.write_bytes(old["server.key"])
            self.generate(daemon, "authority")  # the certificate alone is new, and does not fit
            self.assertIn("certificates refused", daemon.log())
            (FOLDER / "server.new").rename(new_key)
            self.generate(daemon, "stranger")
            self.assertEqual(daemon.log().count("certificates reloaded"), 1)
            new_key.chmod(0o640)  # rights that are mended do not change the contents' time
            self.generate(daemon, "stranger")
            self.assertEqual(daemon.log().count("certificates reloaded"), 2)
            for name, contents in old.items():
                (FOLDER / name).write_bytes(contents)

    def test_client_authorities_are_read_again(self):
        trusted = FOLDER / "trusted.pem"
        trusted.write_bytes(pem("authority.pem"))
        with self.daemon("--tls-client-ca", trusted) as daemon:
            self.generate(daemon, "authority", "client")
            written = trusted.with_suffix(".new")
            written.write_bytes(pem("stranger.pem"))
            written.rename(trusted)
            self.generate(daemon, "authority", "foreign")
            self.assertIn("certificates reloaded", daemon.log())
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                self.generate(daemon, "authority", "client")


class SetupTest(unittest.TestCase):
    """Exit 1 and a message with what was expected and what came."""

    def assert_refused(self, flags, *words):
        result = subprocess.run([str(BIN / "tesserad"), "--model", str(MODEL), "--listen",
                                 "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
                                 *map(str, flags)], capture_output=True, text=True, timeout=30)
        self.assertEqual(result.returncode, 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_bad_files(self):
        make_authority("one")
        make_authority("other")
        self.assert_refused(["--tls-cert", FOLDER / "one.pem"], "tls-key")
        self.assert_refused(["--tls-cert", "/none", "--tls-key", "/none"], "tls-cert", "/none")
        self.assert_refused(["--tls-cert", FOLDER / "one.pem", "--tls-key", FOLDER / "other.key"],
                            "tls-key", "other.key")
        openssl("pkey", "-in", FOLDER / "one.key", "-aes256", "-passout", "pass:secret", "-out",
                FOLDER / "locked.key")
        self.assert_refused(["--tls-cert", FOLDER / "one.pem", "--tls-key", FOLDER / "locked.key"],
                            "tls-key", "locked.key")
        self.assert_refused(["--tls-cert", FOLDER / "one.pem", "--tls-key", FOLDER / "one.key",
                             "--tls-client-ca", __file__], "tls-client-ca")
        self.assert_refused(["--api-keys", "/none"], "api-keys", "/none")
        bad = FOLDER / "bad-keys"
        bad.write_text("tenant a speed=1\n")
        self.assert_refused(["--api-keys", bad], "line 1", "requests_per_second", "speed=1")
        self.assert_refused(["--control-listen", "unix:/none/there"], "control-listen")


class HostileClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
        cls.daemon = Daemon("--max-connections", 500, "--max-waiting", 64, model=MODEL)
        host, port = cls.daemon.target.rsplit(":", 1)
        cls.address = (host, int(port))

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def assert_serves(self):
        self.assertEqual(len(self.daemon.generate(one()).outputs[0].token_ids), 2)

    @staticmethod
    def is_closed(connection):
        connection.setblocking(False)
        try:
            while (data := connection.recv(4096)):
                pass
            return data == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def test_ten_thousand_idle_connections(self):
        self.assert_serves()
        connections = [socket.create_connection(self.address, 10) for _ in range(10_000)]
        wait_until(lambda: sum(map(self.is_closed, connections)) >= 9_400,
                   "connections past the limit to be closed", timeout_s=20)
        self.assert_serves()  # on the connection it had
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 20
        while True:  # and new ones come in once those are gone
            with grpc.insecure_channel(self.daemon.target) as channel:
                try:
                    generation_pb2_grpc.GenerationServiceStub(channel).Generate(one(), timeout=5)
                    break
                except grpc.RpcError:
                    self.assertLess(time.monotonic(), deadline)

    def check_that_a_silent_connection_is_closed(self, *flags):
        """And that a call of another one goes on, and new ones come in."""
        with Daemon(*flags, model=MODEL) as daemon:
            host, port = daemon.target.rsplit(":", 1)
            stream = daemon.generation.GenerateStream(one(60_000))
            next(stream)
            with RawHttp2((host, int(port))) as silent, self.assertRaises(ConnectionError):
                silent.read(1 << 20)
            for _ in range(10):
                next(stream)
            self.assertEqual(len(daemon.generate(one()).outputs[0].token_ids), 2)
            stream.cancel()

    def test_a_connection_without_calls_is_closed_in_time(self):
        self.check_that_a_silent_connection_is_closed("--max-connection-idle", 1)

    def test_an_old_connection_is_replaced_and_its_calls_go_on(self):
        self.check_that_a_silent_connection_is_closed("--max-connection-age", 1)

    def test_calls_whose_message_never_comes(self):
        with contextlib.ExitStack() as clients:
            for client in [clients.enter_context(RawHttp2(self.address)) for _ in range(20)]:
                for _ in range(100):
                    client.open_call()
                client.ping()
            self.assert_serves()

    def test_finished_answers_that_nobody_reads_are_bounded(self):
        # A client that would widen its window for what is not read could take a whole answer.
        narrow = [("grpc.http2.bdp_probe", 0)]
        with (Daemon("--max-waiting", 1, "--max-running", 1, model=MODEL) as daemon,
              grpc.insecure_channel(daemon.target, options=narrow) as channel):
            generation = generation_pb2_grpc.GenerationServiceStub(channel)
            unread = []
            for i in range(4):  # each of some megabytes
                unread.append(generation.GenerateStream(
                    request([300] * 8_000, 1, prompt_logprobs=20, ignore_eos=True)))
                wait_until(lambda: daemon.metric("vllm:request_success_total") == i + 1,
                           "it to finish", timeout_s=60)
            with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as errors:
                daemon.generate(one())
            self.assertIn("open generations: expected at most 4, this would be number 5",
                          errors[0].details())
            for stream in unread:
                stream.cancel()
            wait_until(lambda: self.serves(daemon), "the places to be free")

    @staticmethod
    def serves(daemon):
        try:
            return len(daemon.generate(one()).outputs[0].token_ids) == 2
        except grpc.RpcError:
            return False

    def test_too_many_calls_of_one_connection(self):
        with RawHttp2(self.address) as client:
            self.assertEqual(client.settings[RawHttp2.MAX_CONCURRENT_STREAMS], 4096)
            for _ in range(4096):
                client.open_call()
            client.ping()
            client.open_call()
            with self.assertRaises(ConnectionError):
                client.read(1 << 20)
        self.assert_serves()

    def test_descriptors_run_out(self):
        pid = self.daemon.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self.assert_serves()
        num_open = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (num_open + 10, hard))
        connections = [socket.create_connection(self.address, 10) for _ in range(100)]
        self.assert_serves()
        for connection in connections:
            connection.close()
        with grpc.insecure_channel(self.daemon.target) as channel:  # its listener still accepts
            generation_pb2_grpc.GenerationServiceStub(channel).Generate(one(), timeout=30,
                                                                        wait_for_ready=True)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))

    def test_a_good_client_beside_a_flood(self):
        """Its inter-token p99, with the real model. An attacker shares the two cores with the daemon
        here: of lowest priority it takes what they have left, as one elsewhere would."""
        with Daemon("--max-connections", 500) as daemon:
            self.inter_token_p99(daemon)  # warms up
            for at_a_time, nice in ((50, 19), (5000, 19), (50, 0)):
                alone = self.inter_token_p99(daemon)
                refused = daemon.metric("tessera_requests_rejected_total")
                start = time.monotonic()
                with self.flood(daemon, at_a_time, nice):
                    beside = self.inter_token_p99(daemon)
                rate = ((daemon.metric("tessera_requests_rejected_total") - refused)
                        / (time.monotonic() - start))
                print(f"inter-token p99 of a good client: {alone:.1f} ms alone, {beside:.1f} ms "
                      f"beside {at_a_time} bad requests at a time of nice {nice} ({rate:.0f}/s), "
                      f"{beside / alone:.1f} times")
            self.assertEqual(len(daemon.generate(one()).outputs[0].token_ids), 2)

    def inter_token_p99(self, daemon):
        report = json.loads(tessera("bench", "--target", daemon.target, "--concurrency", 1,
                                    "--num-requests", 4, "--input-len", 20, "--output-len", 200,
                                    "--json").stdout)
        self.assertEqual(report["num_failed"], 0, report["statuses"])
        return report["itl_ms"]["p99"]

    @contextlib.contextmanager
    def flood(self, daemon, at_a_time, nice):
        script = pathlib.Path(__file__).with_name("flood.py")
        with subprocess.Popen([sys.executable, script, daemon.target, str(at_a_time), str(nice)],
                              stdout=subprocess.PIPE, text=True) as attacker:
            self.assertIn("ready", attacker.stdout.readline())
            yield
            self.assertIsNone(attacker.poll(), "the flood ended early: some answer was another")
            attacker.terminate()

    def test_a_client_that_speaks_too_slowly(self):
        connection = socket.create_connection(self.address, 10)
        connection.sendall(b"PRI * HTT")
        wait_until(lambda: self.is_closed(connection), "the stalled handshake to be ended")
        self.assert_serves()

    def test_http_clients_that_say_nothing(self):
        address = self.daemon.metrics_target.rsplit(":", 1)
        with contextlib.ExitStack() as clients:
            for _ in range(20):
                clients.enter_context(socket.create_connection((address[0], int(address[1])), 10))
            start = time.monotonic()
            self.assertEqual(self.daemon.http("/healthz"), "ok\n")
            self.assertLess(time.monotonic() - start, 2)  # else after one's time is up

    def test_metadata_that_is_too_large(self):
        with grpc.insecure_channel(self.daemon.target) as channel:  # which it may lose
            generation = generation_pb2_grpc.GenerationServiceStub(channel)
            with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED):
                generation.Generate(one(), timeout=10, metadata=(("x-big", "a" * 100_000),))
        self.assert_serves()

    def test_a_flood_of_requests(self):
        calls = [self.daemon.generation.Generate.future(one(20, seed=i), timeout=60)
                 for i in range(5_000)]
        codes = [call.code() for call in calls]
        self.assertEqual({grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, set(codes))
        self.assert_serves()

    def test_bytes_that_are_not_http(self):
        for junk in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, b"\0" * 10_000):
            with socket.create_connection(self.address, 10) as connection:
                connection.sendall(junk)
                wait_until(lambda: self.is_closed(connection), "the connection to be closed")
        self.assert_serves()


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
