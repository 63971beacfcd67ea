"""What the deployment tests share: a tiny random model behind the real daemon, a real Prometheus,
the dashboard's queries, and the proxies."""

import atexit
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TESSERA_BIN", ROOT / "build/release/bin"))
DEPLOY = ROOT / "deploy"
FLUSH_S = 5  # what the daemon gives slow readers after the drain


def make_tiny_model():
    folder = tempfile.mkdtemp(prefix="tessera-deploy-")
    atexit.register(shutil.rmtree, folder)
    path = f"{folder}/tiny.gguf"
    subprocess.run([BIN / "make_tiny_model", "--output", path, "--max-context", "32768"],
                   check=True, stdout=subprocess.DEVNULL)
    return path


MODEL = os.environ["TESSERA_MODEL"] = make_tiny_model()
sys.path.insert(0, str(ROOT / "tests/system"))
from harness import (Daemon, control_pb2, control_pb2_grpc, error_of,  # noqa: E402, F401
                     generation_pb2_grpc, pb, request, run_at_once, tessera, wait_until)


def selectors(expression):
    """The (name, labels) pairs of a PromQL expression; labels are those compared with =."""
    name = r"\b([a-z]\w*:\w+(?::\w+)*|(?:tessera|process)_\w+)"
    found = re.findall(name + r"(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in found]


def samples(daemon):
    """The (name, labels) pairs that the daemon's /metrics has."""
    page = daemon.http("/metrics")
    lines = re.findall(r"^([\w:]+)(?:\{(.*)\})? \S+$", page, re.MULTILINE)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in lines]


def ended(process, timeout_s=30):
    """Waits for a process that was told to end; kills it if it does not."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class Prometheus:
    """A real Prometheus with deploy/prometheus/prometheus.yml: its rules, but every second."""

    SCRAPE_S = 1

    def __init__(self, targets):
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-prometheus-")
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {name: f"{self.SCRAPE_S}s" for name in config["global"]}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        path = pathlib.Path(self.folder.name)
        (path / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log_path = path / "log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={path}/prometheus.yml",
                 f"--storage.tsdb.path={path}/data", "--web.listen-address=127.0.0.1:0"],
                stdout=log, stderr=log)

    def __enter__(self):
        found = wait_until(lambda: re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", self.log()),
                           "Prometheus to listen")
        self.address = found[1]
        wait_until(lambda: self.query("up"), "the first scrape")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        ended(self.process)
        self.folder.cleanup()

    def log(self):
        assert self.process.poll() is None, self.log_path.read_text()
        return self.log_path.read_text()

    def get(self, path, **parameters):
        url = f"http://{self.address}/api/v1/{path}?" + urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it has not read its own log yet
                return []
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        return self.get("query", query=expression)

    def query_range(self, expression, start, end, step_s=1):
        """[(labels, [(time, value)])] without the values that are not numbers."""
        series = self.get("query_range", query=expression, start=start, end=end, step=step_s)
        no_numbers = ("NaN", "+Inf", "-Inf")
        return [(one["metric"], [(t, float(v)) for t, v in one["values"] if v not in no_numbers])
                for one in series]


class Dashboard:
    """deploy/grafana/tessera.json, with the variables of its queries filled in as Grafana does."""

    def __init__(self, rate_interval_s=4 * Prometheus.SCRAPE_S):
        self.json = json.loads((DEPLOY / "grafana/tessera.json").read_text())
        self.panels = [panel for panel in self.json["panels"] if panel["type"] != "row"]
        self.variables = {"$__rate_interval": f"{rate_interval_s}s", "$instance": ".*",
                          "$model": ".*"}

    def fill_in(self, expression):
        for name, value in self.variables.items():
            expression = expression.replace(name, value)
        return expression


class Replicas:
    """Daemons that keep their addresses when they are started again."""

    def __init__(self, *flags, count=3):
        self.flags = flags
        self.daemons = [Daemon(*flags) for _ in range(count)]
        self.targets = [daemon.target for daemon in self.daemons]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for daemon in self.daemons:
            daemon.stop()

    def __iter__(self):
        return iter(self.daemons)

    def kill(self, i, signal_number=signal.SIGKILL):
        self.daemons[i].process.send_signal(signal_number)
        ended(self.daemons[i].process)

    def start_again(self, i):
        self.daemons[i] = Daemon(*self.flags, listen=self.targets[i])

    def num_ended(self):
        """Sequences that each daemon has brought to an end, whatever the end."""
        return [daemon.metric("vllm:request_success_total") for daemon in self.daemons]


class Proxy:
    """A process that listens on self.target and passes calls on; a channel to it with our stubs."""

    def __init__(self, command, folder):
        self.folder = folder
        self.log_path = pathlib.Path(folder.name) / "log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        self.channel = grpc.insecure_channel(self.target)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)

    def __enter__(self):
        try:
            grpc.channel_ready_future(self.channel).result(timeout=30)
        except grpc.FutureTimeoutError:
            raise AssertionError(self.log_path.read_text()[-4000:]) from None
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.process.terminate()
        ended(self.process)
        self.folder.cleanup()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


ENVOY = pathlib.Path(sys.executable).parent / "envoy"


def envoy_config(weighted):
    """deploy/envoy/envoy.yaml, with weighted-round-robin.yaml put in as that says."""
    config = yaml.safe_load((DEPLOY / "envoy/envoy.yaml").read_text())
    if weighted:
        (cluster,) = config["static_resources"]["clusters"]
        del cluster["lb_policy"]
        cluster |= yaml.safe_load((DEPLOY / "envoy/weighted-round-robin.yaml").read_text())
    return config


class Envoy(Proxy):
    """deploy/envoy/envoy.yaml, with addresses of this test in place of its own."""

    def __init__(self, targets, weighted=False, health_checks=True):
        folder = tempfile.TemporaryDirectory(prefix="tessera-envoy-")
        config = envoy_config(weighted)
        listener, self.admin = free_port(), free_port()
        self.target = f"127.0.0.1:{listener}"
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin
        config["static_resources"]["listeners"][0]["address"]["socket_address"] = {
            "address": "127.0.0.1", "port_value": listener}
        # The replicas come and go in a file, as they do in DNS.
        self.endpoints = pathlib.Path(folder.name) / "endpoints.json"
        (cluster,) = config["static_resources"]["clusters"]
        del cluster["load_assignment"], cluster["dns_refresh_rate"], cluster["respect_dns_ttl"]
        if not health_checks:
            del cluster["health_checks"]
        cluster["type"] = "EDS"
        cluster["eds_cluster_config"] = {"eds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": str(self.endpoints)}}}
        config["node"] = {"id": "test", "cluster": "test"}
        self.set_targets(targets)
        path = pathlib.Path(folder.name) / "envoy.yaml"
        path.write_text(yaml.safe_dump(config))
        super().__init__([ENVOY, "-c", path, "--concurrency", 1, "--use-dynamic-base-id",
                          "--log-level", "warning"], folder)

    def __enter__(self):
        super().__enter__()
        self.wait_for_healthy(self.num_targets)
        return self

    def set_targets(self, targets):
        """By rename, which is what Envoy watches for."""
        hosts = [target.split(":") for target in targets]
        sockets = [{"address": host, "port_value": int(port)} for host, port in hosts]
        endpoints = [{"endpoint": {"address": {"socket_address": address}}} for address in sockets]
        written = self.endpoints.with_suffix(".new")
        written.write_text(json.dumps({"resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "tesserad", "endpoints": [{"lb_endpoints": endpoints}]}]}))
        written.rename(self.endpoints)
        self.num_targets = len(targets)

    def stat(self, name):
        url = f"http://127.0.0.1:{self.admin}/stats?filter=^cluster.tesserad.{name}$"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.read().split()[-1])

    def wait_for_healthy(self, count):
        wait_until(lambda: self.stat("membership_healthy") == count, f"{count} healthy replicas")


class Nginx(Proxy):
    """deploy/nginx/nginx.conf, with addresses of this test in place of its own."""

    def __init__(self, targets):
        folder = tempfile.TemporaryDirectory(prefix="tessera-nginx-")
        self.target = f"127.0.0.1:{free_port()}"
        config = (DEPLOY / "nginx/nginx.conf").read_text()
        for i, target in enumerate(targets):
            config = config.replace(f"tessera-{i}:50051", target)
        config = config.replace("listen 50051", f"listen {self.target}")
        path = pathlib.Path(folder.name) / "nginx.conf"
        path.write_text("daemon off;\n" + config)
        super().__init__(["nginx", "-p", folder.name, "-c", path, "-e", "stderr"], folder)
