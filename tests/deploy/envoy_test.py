"""Three daemons behind the Envoy that deploy/envoy describes.

--full restarts the replicas under 1,000 requests; without it, 200.
"""

import collections
import hashlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
import yaml
from deploy_harness import (ENVOY, Envoy, Replicas, envoy_config, error_of, request, run_at_once,
                            wait_until)
from proxy_cases import A_MINUTE, CALL_S, ProxyCases, num_running, read, warm_up

NUM_CLIENTS = 16
NUM_REQUESTS = 1000 if "--full" in sys.argv else 200


class EnvoyTest(ProxyCases, unittest.TestCase):
    Proxy = Envoy

    def test_an_overloaded_replica_is_left_for_another_once(self):
        with Replicas("--max-running", 1, "--max-waiting", 1) as replicas:
            with Envoy(replicas.targets) as envoy:
                full = self.fill(replicas.daemons[0])
                for _ in range(12):  # a third of them goes to the full replica first
                    envoy.generation.Generate(request("b", 4), timeout=CALL_S)
                self.assertGreater(self.num_refused(replicas), 0)
                full += self.fill(replicas.daemons[1]) + self.fill(replicas.daemons[2])
                before = self.num_refused(replicas)
                with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                    envoy.generation.Generate(request("one too many", 4), timeout=CALL_S)
                self.assertEqual(self.num_refused(replicas) - before, 2)
                self.assertIn("grpc-retry-pushback-ms", dict(caught[0].trailing_metadata()))
                for stream in full:
                    stream.cancel()

    def fill(self, daemon):
        """One request that runs and one that waits, past the proxy."""
        running = daemon.generation.GenerateStream(request("a", **A_MINUTE))
        daemon.wait_for(lambda state: state.num_running == 1)
        waiting = daemon.generation.GenerateStream(request("a", **A_MINUTE))
        daemon.wait_for(lambda state: state.num_waiting == 1)
        return [running, waiting]

    def num_refused(self, replicas):
        return sum(daemon.metric("tessera_requests_rejected_total", reason="queue_requests")
                   for daemon in replicas)

    def test_a_draining_replica_is_left_for_another(self):
        with Replicas() as replicas, Envoy(replicas.targets) as envoy:
            warm_up(envoy)
            draining = replicas.daemons[0]
            stream = draining.generation.GenerateStream(request("a", **A_MINUTE))
            next(stream)
            draining.process.send_signal(signal.SIGTERM)
            run_at_once([lambda: envoy.generation.Generate(request("b", 8), timeout=CALL_S)] * 30)
            envoy.wait_for_healthy(2)
            stream.cancel()

    def test_other_refusals_are_not_retried(self):
        with Replicas() as replicas, Envoy(replicas.targets) as envoy:
            with error_of(self, grpc.StatusCode.INVALID_ARGUMENT):
                envoy.generation.Generate(request("a", 4, top_p=7), timeout=CALL_S)
            with error_of(self, grpc.StatusCode.DEADLINE_EXCEEDED):
                envoy.generation.Generate(request("a", **A_MINUTE), timeout=0.2)
            self.assertEqual(envoy.stat("upstream_rq_retry"), 0)
            envoy.wait_for_healthy(3)

    def test_a_quota_is_not_asked_for_at_another_replica(self):
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("tenant research requests_per_second=1\n"
                       f"key {hashlib.sha256(b'secret').hexdigest()} research\n")
            keys.flush()
            with Replicas("--api-keys", keys.name) as replicas, Envoy(replicas.targets) as envoy:
                metadata = [("authorization", "Bearer secret"), ("x-tenant-id", "somebody-else")]
                with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                    for _ in range(20):
                        envoy.generation.Generate(request("a", 2), timeout=CALL_S,
                                                  metadata=metadata)
                self.assertIn("requests_per_second", caught[0].details())
                with error_of(self, grpc.StatusCode.UNAUTHENTICATED):
                    envoy.generation.Generate(request("a", 2), timeout=CALL_S)
                self.assertEqual(envoy.stat("upstream_rq_retry"), 0)

    def test_a_replica_that_cannot_be_reached_is_ejected(self):
        with Replicas() as replicas, Envoy(replicas.targets, health_checks=False) as envoy:
            replicas.kill(0)

            def num_ejected():
                envoy.generation.Generate(request("a", 2), timeout=CALL_S)
                return envoy.stat("outlier_detection.ejections_enforced_total")

            wait_until(num_ejected, "the ejection")
            wait_until(lambda: envoy.stat("membership_healthy") == 2, "two replicas to be left")

    def test_nobody_healthy_is_said_at_once(self):
        with Replicas(count=2) as replicas, Envoy(replicas.targets) as envoy:
            replicas.kill(0)
            replicas.kill(1)
            envoy.wait_for_healthy(0)
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                envoy.generation.Generate(request("a", 4), timeout=CALL_S)


class ShippedFilesTest(unittest.TestCase):
    def test_they_are_valid_as_they_are(self):
        for weighted in (False, True):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(envoy_config(weighted), file)
                done = subprocess.run([ENVOY, "--mode", "validate", "-c", file.name], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                self.assertEqual(done.returncode, 0, done.stdout)


class WeightedRoundRobinTest(unittest.TestCase):
    def test_a_replica_that_reports_load_gets_less(self):
        """Load that this Envoy knows nothing of, so that least request would not see it."""
        with Replicas("--load-reports", "--max-running", 16) as replicas:
            with Envoy(replicas.targets, weighted=True) as envoy:
                streams = [replicas.daemons[i].generation.GenerateStream(request("a", **A_MINUTE))
                           for i in [0] * 12 + [1, 2]]
                wait_until(lambda: num_running(replicas, 14), "the streams")
                for _ in range(20):  # until the loaded one gets less than half of its even share
                    before = replicas.num_ended()
                    for _ in range(30):
                        envoy.generation.Generate(request("b", 4), timeout=CALL_S)
                    counts = [now - then for now, then in zip(replicas.num_ended(), before)]
                    if counts[0] < 5:
                        break
                for stream in streams:
                    stream.cancel()
                self.assertLess(counts[0], 5, counts)
                self.assertGreater(min(counts[1:]), 5, counts)


class Clients:
    """Clients that send one short request after another until NUM_REQUESTS are answered."""

    def __init__(self, envoy):
        self.envoy = envoy
        self.lock = threading.Lock()
        self.num_sent = 0
        self.statuses = collections.Counter()
        self.longest_s = 0.0
        self.threads = [threading.Thread(target=self.run) for _ in range(NUM_CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while self.take():
            start = time.monotonic()
            result = read(self.envoy.generation.GenerateStream(
                request("r", 100, ignore_eos=True, n=2), timeout=CALL_S))
            if isinstance(result, list):
                status = "OK" if len(result) == 200 else f"{len(result)} tokens of 200"
            else:
                status = f"{result.code().name}: {result.details()}"
            with self.lock:
                self.statuses[status] += 1
                self.longest_s = max(self.longest_s, time.monotonic() - start)

    def take(self):
        with self.lock:
            self.num_sent += 1
            return self.num_sent <= NUM_REQUESTS

    def num_done(self):
        with self.lock:
            return sum(self.statuses.values())

    def wait_for(self, num_done):
        wait_until(lambda: self.num_done() >= min(num_done, NUM_REQUESTS), "requests", CALL_S)

    def join(self):
        for thread in self.threads:
            thread.join()


class RollingRestartTest(unittest.TestCase):
    def test_no_request_fails(self):
        with Replicas() as replicas, Envoy(replicas.targets) as envoy:
            clients = Clients(envoy)
            rows = []
            for i in range(3):
                clients.wait_for(NUM_REQUESTS * (i + 1) // 5)
                rows.append((i, *self.restart(i, replicas, envoy, clients)))
            clients.join()
            self.print_table(rows, clients, envoy)
            self.assertEqual(dict(clients.statuses), {"OK": NUM_REQUESTS})
            self.assertEqual([row[2] for row in rows], [0, 0, 0])

    def restart(self, i, replicas, envoy, clients):
        """As Kubernetes does it: out of discovery, preStop's wait, SIGTERM, a new process."""
        start = time.monotonic()
        envoy.set_targets([target for target in replicas.targets if target != replicas.targets[i]])
        wait_until(lambda: envoy.stat("membership_total") == 2, "Envoy to hear of it")
        clients.wait_for(clients.num_done() + 4)  # by then no call is on its way to this replica
        num_open = replicas.daemons[i].explain().num_running // 2
        told = time.monotonic()
        status = replicas.daemons[i].stop()
        drained = time.monotonic()
        replicas.start_again(i)
        envoy.set_targets(replicas.targets)
        envoy.wait_for_healthy(3)
        return num_open, status, drained - told, time.monotonic() - start

    def print_table(self, rows, clients, envoy):
        print(f"\n{NUM_REQUESTS} requests of {NUM_CLIENTS} clients, 3 replicas restarted in turn\n"
              "replica  open streams at SIGTERM  exit status  drained after  out for")
        for i, num_open, status, drain_s, out_s in rows:
            print(f"{i:7}  {num_open:23}  {status:11}  {drain_s:11.2f} s  {out_s:5.2f} s")
        print(f"statuses {dict(clients.statuses)}, longest {clients.longest_s:.2f} s, "
              f"retried by Envoy {envoy.stat('upstream_rq_retry')}")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=[arg for arg in sys.argv if arg != "--full"])
