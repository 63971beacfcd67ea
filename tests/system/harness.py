"""Runs the real daemon on loopback and talks to it with a client we did not write (grpcio)."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TESSERA_BIN", ROOT / "build/release/bin"))
MODEL = os.environ.get("TESSERA_MODEL") or subprocess.run(
    [ROOT / "scripts/fetch-model"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
START_TIMEOUT_S = 60
CALL_TIMEOUT_S = 300


def generate_stubs():
    """Python stubs of our protos, made by grpcio-tools in a folder of this run."""
    from grpc_tools import protoc

    out = tempfile.mkdtemp(prefix="tessera-stubs-")
    protos = [str(p) for p in (ROOT / "proto").rglob("*.proto")]
    include = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={out}",
                          f"--grpc_python_out={out}", *protos])
    assert status == 0, "grpcio-tools could not compile our protos"
    sys.path.insert(0, out)


generate_stubs()
from tessera.v1 import control_pb2, control_pb2_grpc  # noqa: E402
from tessera.v1 import generation_pb2 as pb  # noqa: E402
from tessera.v1 import generation_pb2_grpc  # noqa: E402


def wait_until(condition, what, timeout_s=30):
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.05)
    return value


class Daemon:
    """One tesserad. Use as a context manager; flags are those of its command line."""

    def __init__(self, *flags, model=None, listen="127.0.0.1:0"):
        self.work = tempfile.TemporaryDirectory(prefix="tessera-test-")
        announce = pathlib.Path(self.work.name) / "announce.json"
        self.log_path = pathlib.Path(self.work.name) / "log"
        command = [str(BIN / "tesserad"), "--model", model or MODEL, "--listen", listen,
                   "--metrics-listen", "127.0.0.1:0", "--announce", str(announce),
                   *map(str, flags)]
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(command, stdout=self.log_file, stderr=self.log_file)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not announce.exists():
            assert self.process.poll() is None, f"{command} exited:\n{self.log()}"
            assert time.monotonic() < deadline, f"{command} did not announce itself:\n{self.log()}"
            time.sleep(0.02)
        addresses = json.loads(announce.read_text())
        self.target, self.metrics_target = addresses["grpc"], addresses["metrics"]
        self.channel = grpc.insecure_channel(
            self.target, options=[("grpc.max_receive_message_length", 64 << 20)])
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.model = generation_pb2_grpc.ModelServiceStub(self.channel)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def stop(self, timeout_s=60):
        """SIGTERM, wait, and return the exit status."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"tesserad did not exit on SIGTERM:\n{self.log()}")
        finally:
            self.log_file.close()
        return status

    def http(self, path):
        with urllib.request.urlopen(f"http://{self.metrics_target}{path}", timeout=10) as reply:
            return reply.read().decode()

    def metric(self, name, **labels):
        """The value of a sample, summed over those whose labels match."""
        total, found = 0.0, False
        for line in self.http("/metrics").splitlines():
            match = re.match(r"([\w:]+)(?:\{(.*)\})? (\S+)$", line)
            if not match or match[1] != name:
                continue
            have = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if all(have.get(key) == value for key, value in labels.items()):
                total, found = total + float(match[3]), True
        assert found, f"no sample {name} {labels}"
        return total

    def generate(self, request, **kwargs):
        return self.generation.Generate(request, timeout=CALL_TIMEOUT_S, **kwargs)

    def explain(self):
        return self.control.Explain(control_pb2.ExplainRequest(), timeout=10)

    def wait_for(self, condition, timeout_s=30):
        """Asks Explain until the condition holds of its answer, and returns that."""
        deadline = time.monotonic() + timeout_s
        while not condition(state := self.explain()):
            assert time.monotonic() < deadline, f"still waiting: {state}"
            time.sleep(0.01)
        return state

    def wait_for_log(self, text, times=1):
        wait_until(lambda: self.log().count(text) >= times, f"{text} in the log")

    def wait_until_idle(self):
        return self.wait_for(lambda state: state.num_running == 0 and state.num_waiting == 0)


def request(prompt, max_tokens=16, **fields):
    """A GenerateRequest; sampling and stop fields may be given flat."""
    message = pb.GenerateRequest()
    if isinstance(prompt, str):
        message.text = prompt
    else:
        message.token_ids.ids.extend(prompt)
    if max_tokens is not None:
        message.stop.max_tokens = max_tokens
    for name, value in fields.items():
        if name in pb.SamplingParams.DESCRIPTOR.fields_by_name:
            owner = message.sampling
        elif name in pb.StopConditions.DESCRIPTOR.fields_by_name:
            owner = message.stop
        else:
            owner = message
        if isinstance(value, dict):
            getattr(owner, name).update(value)
        elif isinstance(value, (list, tuple)):
            getattr(owner, name).extend(value)
        else:
            setattr(owner, name, value)
    return message


def run_at_once(calls):
    """Runs the functions at the same time, one thread each; returns their results in order."""
    results = [None] * len(calls)
    errors = []

    def run(i):
        try:
            results[i] = calls[i]()
        except BaseException as error:  # reported to the test's own thread below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def tessera(*arguments, check=True):
    """Runs the command-line client."""
    return subprocess.run([str(BIN / "tessera"), *map(str, arguments)], check=check,
                          capture_output=True, text=True, timeout=CALL_TIMEOUT_S)


@contextlib.contextmanager
def error_of(case, code):
    """The block must end in a gRPC error with this code; gives a list that receives it."""
    caught = []
    try:
        yield caught
    except grpc.RpcError as error:
        case.assertEqual(error.code(), code, error.details())
        caught.append(error)
        return
    case.fail(f"expected {code}, but the call succeeded")
