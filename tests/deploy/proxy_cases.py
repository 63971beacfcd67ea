"""What both proxies, Envoy and nginx, must show with three daemons behind them."""

import os
import signal
import unittest.mock

import grpc
from deploy_harness import (BIN, Replicas, control_pb2, control_pb2_grpc, error_of, request,
                            run_at_once, wait_until)

SECONDS = dict(max_tokens=3000, ignore_eos=True)  # about how long the tiny model takes for it
A_MINUTE = dict(max_tokens=30000, ignore_eos=True)
CALL_S = 60
# How gRPC reads a proxy's RST_STREAM, which it sends where an answer had begun.
RESET = grpc.StatusCode.INTERNAL


def read(stream):
    """All token ids of a stream, or the error it failed with."""
    ids = []
    try:
        for message in stream:
            for output in message.outputs:
                ids.extend(output.token_ids)
    except grpc.RpcError as error:
        return error
    return ids


def warm_up(proxy):
    """Until Envoy has a connection to a replica, it does not count the calls that wait for it."""
    for _ in range(30):
        proxy.generation.Generate(request("w", 2), timeout=CALL_S)


def num_running(replicas, total):
    """Running sequences of each daemon, once they are so many together."""
    running = [daemon.explain().num_running for daemon in replicas]
    return running if sum(running) == total else None


def statuses(replicas):
    """Exit status of each daemon, None while it runs."""
    return [daemon.process.poll() for daemon in replicas]


class ProxyCases:
    """Mixed into a TestCase that names its Proxy."""

    Proxy = None

    def test_calls_spread_over_the_replicas(self):
        with Replicas() as replicas, self.Proxy(replicas.targets) as proxy:
            warm_up(proxy)
            before = replicas.num_ended()
            run_at_once([lambda i=i: proxy.generation.Generate(request(f"{i}", 64, ignore_eos=True),
                                                               timeout=CALL_S) for i in range(60)])
            counts = [now - then for now, then in zip(replicas.num_ended(), before)]
            self.assertEqual(sum(counts), 60)
            self.assertGreaterEqual(min(counts), 10, counts)

    def test_streams_of_one_connection_spread(self):
        """As connections balanced by an L4 proxy would not; and tokens come as they are made."""
        with Replicas() as replicas, self.Proxy(replicas.targets) as proxy:
            warm_up(proxy)
            streams = [proxy.generation.GenerateStream(request(f"{i}", **A_MINUTE), timeout=CALL_S)
                       for i in range(12)]
            for stream in streams:
                next(stream)
            running = wait_until(lambda: num_running(replicas, 12), "twelve streams")
            for stream in streams:
                stream.cancel()
            self.assertGreaterEqual(min(running), 2, running)
            wait_until(lambda: num_running(replicas, 0), "the cancels")

    def test_only_the_data_services_are_routed(self):
        with Replicas("--trust-tenant-metadata", "x-tenant-id") as replicas:
            with self.Proxy(replicas.targets) as proxy:
                control = control_pb2_grpc.ControlServiceStub(proxy.channel)
                with error_of(self, grpc.StatusCode.UNIMPLEMENTED):
                    control.Drain(control_pb2.DrainRequest(), timeout=CALL_S)
                proxy.generation.Generate(request("a", 4), timeout=CALL_S,
                                          metadata=[("x-tenant-id", "somebody-else")])
                self.assertEqual(sum(replicas.num_ended()), 1)
                for daemon in replicas:
                    self.assertNotIn("somebody-else", daemon.log())

    def test_a_killed_replica_takes_only_its_own_streams_with_it(self):
        with Replicas() as replicas, self.Proxy(replicas.targets) as proxy:
            streams = [proxy.generation.GenerateStream(request(f"{i}", **SECONDS), timeout=CALL_S)
                       for i in range(6)]
            for stream in streams:
                next(stream)
            running = wait_until(lambda: num_running(replicas, 6), "six streams")
            victim = running.index(max(running))
            replicas.kill(victim)
            # At once, before anybody can have noticed.
            run_at_once([lambda: proxy.generation.Generate(request("b", 8), timeout=CALL_S)] * 20)
            results = [read(stream) for stream in streams]
            lost = [result.code() for result in results if isinstance(result, grpc.RpcError)]
            self.assertEqual(lost, [RESET] * running[victim])
            self.assertEqual([len(result) for result in results if isinstance(result, list)],
                             [SECONDS["max_tokens"]] * (6 - running[victim]))
            replicas.start_again(victim)
            wait_until(lambda: self.serves(proxy, replicas.daemons[victim]), "its first request")

    def serves(self, proxy, daemon):
        proxy.generation.Generate(request("c", 2), timeout=CALL_S)
        return daemon.metric("vllm:request_success_total") > 0

    def test_a_poison_request_costs_one_replica_not_three(self):
        """Every replica would abort on it: it dies with the first that reads it, and is never sent
        on, although no byte of an answer had come."""
        with unittest.mock.patch.dict(os.environ, LD_PRELOAD=str(BIN / "poison.so")):
            replicas = Replicas()
        with replicas, self.Proxy(replicas.targets) as proxy:
            with error_of(self, grpc.StatusCode.UNAVAILABLE):
                proxy.generation.Generate(request("TESSERA-POISON", 4), timeout=CALL_S)
            wait_until(lambda: any(statuses(replicas)), "the abort")
            for i in range(20):
                proxy.generation.Generate(request(f"{i}", 4), timeout=CALL_S)
            self.assertCountEqual(statuses(replicas), [-signal.SIGABRT, None, None])

    def test_a_stream_longer_than_the_drain_ends_with_unavailable(self):
        with Replicas("--drain-timeout", 0.1) as replicas, self.Proxy(replicas.targets) as proxy:
            stream = proxy.generation.GenerateStream(request("long", **A_MINUTE), timeout=CALL_S)
            next(stream)
            running = wait_until(lambda: num_running(replicas, 1), "the stream")
            replicas.daemons[running.index(1)].process.send_signal(signal.SIGTERM)
            self.assertEqual(read(stream).code(), grpc.StatusCode.UNAVAILABLE)
