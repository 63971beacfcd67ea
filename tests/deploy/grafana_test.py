"""Every query of the dashboard gives data of a daemon under load, read by a real Prometheus."""

import hashlib
import pathlib
import re
import sys
import tempfile
import threading
import time
import unittest

import grpc
import yaml
from deploy_harness import DEPLOY, ROOT, Daemon, Dashboard, Prometheus, request, tessera, wait_until

# A daemon that is not restarted under a healthy load has nothing to show here.
MAY_BE_ZERO = {"Late tokens (budget: 1 %)"}


class Load:
    """Two tenants, one beyond its quota, more than the queue takes, prompts with a common prefix,
    more context than pages, cancels, missed deadlines, and invalid requests, until told to stop."""

    FLAGS = ("--max-running", 8, "--max-waiting", 8, "--kv-blocks", 40, "--max-context", 2048)
    QUOTAS = {"research": "", "product": "requests_per_second=4"}
    RESEARCH = {"metadata": [("authorization", "Bearer research-key")]}

    def __init__(self, folder, pause_s=0.1):
        """Writes keys into the folder. Start the daemon with self.flags, then enter self.on()."""
        self.folder = pathlib.Path(folder)
        self.pause_s = pause_s
        lines = []
        for tenant, quota in self.QUOTAS.items():
            (self.folder / tenant).write_text(f"{tenant}-key")
            digest = hashlib.sha256(f"{tenant}-key".encode()).hexdigest()
            lines += [f"tenant {tenant} {quota}\n", f"key {digest} {tenant}\n"]
        (self.folder / "keys").write_text("".join(lines))
        self.flags = (*self.FLAGS, "--api-keys", self.folder / "keys")

    def on(self, daemon):
        self.daemon = daemon
        self.stopped = threading.Event()
        workers = [lambda: self.bench("research"), lambda: self.bench("product"), self.cancel,
                   self.miss_deadline, self.send_rubbish]
        self.threads = [threading.Thread(target=self.repeat, args=(work,)) for work in workers]
        return self

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def repeat(self, work):
        while not self.stopped.is_set():
            work()
            self.stopped.wait(self.pause_s)

    def bench(self, tenant):
        tessera("bench", "--target", self.daemon.target, "--num-requests", 24, "--concurrency", 12,
                "--input-len", 200, "--prefix-len", 128, "--output-len", 400, "--range-ratio", 0.8,
                "--api-key-file", self.folder / tenant, check=False)  # some are turned away

    def cancel(self):
        try:
            stream = self.daemon.generation.GenerateStream(request("c", 1500, ignore_eos=True),
                                                           **self.RESEARCH)
            next(stream)
            stream.cancel()
        except grpc.RpcError:
            pass  # the queue is full

    def miss_deadline(self):
        try:
            self.daemon.generation.Generate(request("d", 1800, ignore_eos=True), timeout=0.3,
                                            **self.RESEARCH)
        except grpc.RpcError:
            pass

    def send_rubbish(self):
        try:
            self.daemon.generation.Generate(request("e", 4, top_p=7), timeout=10, **self.RESEARCH)
        except grpc.RpcError:
            pass


class DashboardTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tessera-keys-")
        load = Load(cls.folder.name)
        cls.daemon = Daemon(*load.flags)
        cls.prometheus = Prometheus([cls.daemon.metrics_target]).__enter__()
        cls.start = time.time()
        with load.on(cls.daemon):
            seen = "tessera_deadline_misses_total > 0 and on () sum(vllm:num_preemptions_total) > 0"
            wait_until(lambda: cls.prometheus.query(seen), seen, timeout_s=60)
            time.sleep(6 * Prometheus.SCRAPE_S)  # the span that the rates look back on
        cls.end = time.time()

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.__exit__()
        cls.daemon.stop()
        cls.folder.cleanup()

    def series(self, expression):
        return self.prometheus.query_range(expression, self.start, self.end)

    def test_every_query_of_every_panel_gives_data(self):
        dashboard = Dashboard()
        for panel in dashboard.panels:
            values = []
            for target in panel["targets"]:
                series = self.series(dashboard.fill_in(target["expr"]))
                numbers = [value for _, points in series for _, value in points]
                self.assertTrue(numbers, f"{panel['title']}: no data for {target['expr']}")
                values += numbers
            if panel["title"] not in MAY_BE_ZERO:
                self.assertTrue(any(values), f"{panel['title']}: nothing but zeros")

    def test_every_legend_names_a_label_that_is_there(self):
        dashboard = Dashboard()
        for panel in dashboard.panels:
            for target in panel["targets"]:
                for labels, _ in self.series(dashboard.fill_in(target["expr"])):
                    for name in labels:
                        if len(labels) == 1:
                            self.assertIn(f"{{{{{name}}}}}", target["legendFormat"], target["expr"])

    def test_the_load_was_what_it_claims(self):
        keda = DEPLOY / "kubernetes/extras/keda-scaled-object.yaml"
        (trigger,) = yaml.safe_load(keda.read_text())["spec"]["triggers"]
        for expression in (trigger["metadata"]["query"],
                           'rate(tessera_requests_rejected_total{reason="queue_requests"}[4s])',
                           'rate(tessera_requests_rejected_total{reason="invalid"}[4s])',
                           'rate(vllm:request_success_total{finished_reason="abort"}[4s])',
                           "rate(vllm:prefix_cache_hits_total[4s])"):
            self.assertTrue(any(v for _, points in self.series(expression) for _, v in points),
                            expression)

    def test_queries_of_vllms_dashboards_work(self):
        dashboard = Dashboard()
        dashboard.variables["$__range"] = "30s"
        page = (ROOT / "docs/dashboards.md").read_text()
        queries = re.search(r"```promql\n(.*?)```", page, re.DOTALL)[1].splitlines()
        for query in queries:
            numbers = [v for _, points in self.series(dashboard.fill_in(query)) for _, v in points]
            self.assertTrue(numbers, f"no data for {query}")

    def test_panels_do_not_overlap_and_ids_are_unique(self):
        panels = Dashboard().json["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        taken = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
