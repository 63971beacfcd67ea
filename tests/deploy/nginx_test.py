"""Three daemons behind the nginx that deploy/nginx describes."""

import signal
import sys
import unittest

import grpc
from deploy_harness import Nginx, Replicas, error_of, request, wait_until
from proxy_cases import A_MINUTE, CALL_S, ProxyCases


class NginxTest(ProxyCases, unittest.TestCase):
    Proxy = Nginx

    def test_a_draining_answer_reaches_the_client_with_its_hint(self):
        with Replicas(count=1) as replicas, Nginx(3 * replicas.targets) as nginx:
            stream = nginx.generation.GenerateStream(request("a", **A_MINUTE), timeout=CALL_S)
            next(stream)
            replicas.daemons[0].process.send_signal(signal.SIGTERM)
            refused = wait_until(lambda: self.refusal(nginx), "the drain")
            self.assertEqual(refused.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("grpc-retry-pushback-ms", dict(refused.trailing_metadata()))
            stream.cancel()

    def test_a_message_too_large_is_refused(self):
        with Replicas() as replicas, Nginx(replicas.targets) as nginx:
            with error_of(self, grpc.StatusCode.RESOURCE_EXHAUSTED):
                nginx.generation.Generate(request("a" * (9 << 20), 2), timeout=CALL_S)

    def refusal(self, nginx):
        try:
            nginx.generation.Generate(request("b", 2), timeout=CALL_S)
        except grpc.RpcError as error:
            return error
        return None


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
