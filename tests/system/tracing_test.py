#!/usr/bin/env python3
"""Spans of real requests at a real OTLP receiver: the published protos, served by grpcio."""

import concurrent.futures
import pathlib
import subprocess
import tempfile
import threading
import time
import unittest

import grpc
from opentelemetry.proto.collector.trace.v1 import (trace_service_pb2,
                                                    trace_service_pb2_grpc)

from harness import BIN, Daemon, error_of, request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.arrived = threading.Condition()
        self.spans = []
        self.resources = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, message, context):
        with self.arrived:
            for resource_spans in message.resource_spans:
                self.resources.append({a.key: a.value.string_value
                                       for a in resource_spans.resource.attributes})
                for scope_spans in resource_spans.scope_spans:
                    self.spans.extend(scope_spans.spans)
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, count):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.spans) >= count, 20), self.spans
            return list(self.spans)


class TracingTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-tracing-")
        self.model = pathlib.Path(self.folder.name) / "tiny.gguf"
        subprocess.run([str(BIN / "make_tiny_model"), "--output", str(self.model), "--max-context",
                        "65536"], check=True)
        self.collector = Collector()
        self.daemon = Daemon("--otlp-endpoint", f"127.0.0.1:{self.collector.port}",
                             model=self.model)

    def tearDown(self):
        self.daemon.stop()
        self.collector.server.stop(0)
        self.folder.cleanup()

    def generate(self, tokens=5, traceparent=None, **kwargs):
        metadata = (("traceparent", traceparent),) if traceparent else ()
        return self.daemon.generation.Generate(request("abc", tokens, ignore_eos=True),
                                               metadata=metadata, **kwargs)

    def test_a_request_is_four_spans_of_its_callers_trace(self):
        before = time.time_ns()
        self.generate(traceparent=f"00-{TRACE}-{PARENT}-01")
        after = time.time_ns()
        call, queue, prefill, decode = self.collector.wait_for(4)
        self.assertEqual(call.name, "tessera.v1.GenerationService/Generate")
        self.assertEqual((call.trace_id.hex(), call.parent_span_id.hex()), (TRACE, PARENT))
        self.assertEqual(call.kind, call.SPAN_KIND_SERVER)
        numbers = {a.key: a.value.int_value for a in call.attributes}
        self.assertEqual(numbers["gen_ai.usage.output_tokens"], 5)
        self.assertEqual(numbers["rpc.grpc.status_code"], 0)
        self.assertEqual([span.name for span in (queue, prefill, decode)],
                         ["queue", "prefill", "decode"])
        for span in (queue, prefill, decode):
            self.assertEqual(span.parent_span_id, call.span_id)
            self.assertEqual(span.trace_id, call.trace_id)
        edges = [call.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano,
                 prefill.end_time_unix_nano, decode.end_time_unix_nano, call.end_time_unix_nano]
        self.assertEqual(edges, sorted(edges))
        self.assertEqual(queue.end_time_unix_nano, prefill.start_time_unix_nano)
        slack = 50_000_000  # the clocks of client and daemon are read at different moments
        self.assertGreater(edges[0], before - slack)
        self.assertLess(edges[-1], after + slack)
        self.assertEqual(self.collector.resources[0]["service.name"], "tesserad")

    def test_callers_decide_and_others_begin_a_trace(self):
        self.generate(traceparent=f"00-{TRACE}-{PARENT}-00")  # not sampled
        self.generate()
        call = self.collector.wait_for(4)[0]
        self.assertNotEqual(call.trace_id.hex(), TRACE)
        self.assertEqual(len(call.trace_id), 16)
        self.assertEqual(call.parent_span_id, b"")

    def test_a_request_that_fails_says_so(self):
        with error_of(self, grpc.StatusCode.DEADLINE_EXCEEDED):
            self.generate(60_000, timeout=0.3)  # takes many seconds
        call = self.collector.wait_for(2)[0]
        self.assertEqual(call.status.code, call.status.STATUS_CODE_ERROR)

    def test_a_request_that_is_refused_is_a_call_of_its_callers_trace(self):
        for traceparent in (f"00-{TRACE}-{PARENT}-01", "00-nonsense", None):
            with error_of(self, grpc.StatusCode.INVALID_ARGUMENT):
                self.generate(0, traceparent=traceparent)
        self.daemon.stop()
        (call,) = self.collector.wait_for(1)  # a flood of refusals begins no traces
        self.assertEqual((call.trace_id.hex(), call.parent_span_id.hex()), (TRACE, PARENT))
        self.assertEqual(call.status.code, call.status.STATUS_CODE_ERROR)
        self.assertLessEqual(call.start_time_unix_nano, call.end_time_unix_nano)

    def test_what_is_queued_is_exported_at_the_end(self):
        self.generate()
        self.daemon.stop()
        self.collector.wait_for(4)

    def test_a_collector_that_is_gone_does_no_harm(self):
        self.collector.server.stop(0).wait()
        for _ in range(20):
            self.assertEqual(len(self.generate().outputs[0].token_ids), 5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
