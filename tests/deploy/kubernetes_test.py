"""The Kubernetes manifests render, are valid, agree with each other and with the real daemon.

kubernetes-validate has no schema of the custom resources (ServiceMonitor, ScaledObject,
InferencePool); custom_resource_schemas.py has, and what they refer to is checked.
"""

import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.error

import grpc
import jsonschema
import kubernetes_validate
import yaml
from custom_resource_schemas import SCHEMAS
from deploy_harness import (BIN, DEPLOY, FLUSH_S, Daemon, control_pb2, error_of, generation_pb2_grpc,
                            request, samples, selectors, wait_until)
from grpc_health.v1 import health_pb2, health_pb2_grpc

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("cpu", "gpu", "replicas", "tls")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def render(overlay):
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / "overlays" / overlay], check=True,
                          capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def one(objects, kind, name="tessera"):
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind}/{name}: {len(found)}"
    return found[0]


def daemon_container(overlay):
    return one(render(overlay), "Deployment")["spec"]["template"]["spec"]["containers"][0]


def extra(name):
    return yaml.safe_load((KUBERNETES / "extras" / name).read_text())


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


class RenderedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {overlay: render(overlay) for overlay in OVERLAYS}

    def pods(self):
        for overlay, objects in self.rendered.items():
            with self.subTest(overlay):
                yield one(objects, "Deployment")["spec"]["template"]

    def test_every_object_is_valid(self):
        version = kubernetes_validate.latest_version()
        for overlay, objects in self.rendered.items():
            for thing in objects:
                with self.subTest(overlay=overlay, kind=thing["kind"]):
                    kubernetes_validate.validate(thing, version, strict=True)

    def test_selectors_select_the_pods_and_ports_have_names(self):
        for template in self.pods():
            labels = template["metadata"]["labels"]
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            for objects in self.rendered.values():
                for service in (o for o in objects if o["kind"] == "Service"):
                    self.assertLessEqual(service["spec"]["selector"].items(), labels.items())
                    self.assertLessEqual({p["targetPort"] for p in service["spec"]["ports"]}, ports)
                for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
                    self.assertLessEqual(policy["spec"]["podSelector"]["matchLabels"].items(),
                                         labels.items())
                for rule in one(objects, "NetworkPolicy")["spec"]["ingress"]:
                    self.assertLessEqual({p["port"] for p in rule["ports"]}, ports)
                budget = one(objects, "PodDisruptionBudget")
                self.assertLessEqual(budget["spec"]["selector"]["matchLabels"].items(),
                                     labels.items())
            for spread in template["spec"]["topologySpreadConstraints"]:
                self.assertLessEqual(spread["labelSelector"]["matchLabels"].items(), labels.items())

    def test_containers_are_confined_and_have_limits(self):
        for template in self.pods():
            pod = template["spec"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertFalse(pod["automountServiceAccountToken"])
            for container in containers(pod):
                context = container["securityContext"]
                self.assertTrue(context["readOnlyRootFilesystem"])
                self.assertFalse(context["allowPrivilegeEscalation"])
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                self.assertIn("memory", container["resources"]["limits"])
                self.assertIn("cpu", container["resources"]["requests"])

    def test_volumes_are_there_and_of_one_kind(self):
        for template in self.pods():
            pod = template["spec"]
            for volume in pod["volumes"]:
                self.assertEqual(len(volume), 2, volume)  # its name and its source
            names = {volume["name"] for volume in pod["volumes"]}
            for container in containers(pod):
                self.assertLessEqual({m["name"] for m in container["volumeMounts"]}, names)

    def test_grace_period_fits_the_drain(self):
        for template in self.pods():
            container = template["spec"]["containers"][0]
            flags = dict(arg.split("=", 1) for arg in container["args"])
            needed = (container["lifecycle"]["preStop"]["sleep"]["seconds"] +
                      float(flags["--drain-timeout"]) + FLUSH_S)
            self.assertGreaterEqual(template["spec"]["terminationGracePeriodSeconds"], needed)

    def test_autoscaler_scales_the_deployment(self):
        objects = self.rendered["replicas"]
        spec = one(objects, "HorizontalPodAutoscaler")["spec"]
        self.assertEqual(spec["scaleTargetRef"]["name"], "tessera")
        self.assertEqual(spec["minReplicas"], one(objects, "Deployment")["spec"]["replicas"])


class AgainstTheDaemonTest(unittest.TestCase):
    """Flags, probes and metric names of the manifests, tried on a real daemon."""

    @classmethod
    def setUpClass(cls):
        cls.container = daemon_container("cpu")

    def flags(self):
        ours = ("--model", "--listen", "--metrics-listen")  # the test's daemon has its own
        return [arg.replace("127.0.0.1:50052", "127.0.0.1:0") for arg in self.container["args"]
                if arg.split("=")[0] not in ours]

    def health(self, daemon, probe):
        port = self.container[probe]["grpc"]
        stub = health_pb2_grpc.HealthStub(daemon.channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service=port["service"]), timeout=10)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def test_ports_are_those_of_the_flags(self):
        flags = dict(arg.split("=", 1) for arg in self.container["args"])
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.assertEqual(flags["--listen"], f"0.0.0.0:{ports['grpc']}")
        self.assertEqual(flags["--metrics-listen"], f"0.0.0.0:{ports['metrics']}")
        for probe in PROBES:
            self.assertEqual(self.container[probe]["grpc"]["port"], ports["grpc"])

    def test_clients_cannot_end_the_daemon(self):
        with Daemon(*self.flags()) as daemon, error_of(self, grpc.StatusCode.UNIMPLEMENTED):
            daemon.control.Drain(control_pb2.DrainRequest(), timeout=10)

    def test_variables_are_known(self):
        known = subprocess.run([BIN / "tesserad", "--help"], check=True, capture_output=True,
                               text=True).stdout
        for overlay in OVERLAYS:
            for variable in daemon_container(overlay).get("env", []):
                self.assertIn(f"(Env:{variable['name']})", known)

    def test_probes_see_a_drain_and_do_not_kill_it(self):
        with Daemon(*self.flags()) as daemon:
            for probe in PROBES:
                self.assertEqual(self.health(daemon, probe), "SERVING")
            stream = daemon.generation.GenerateStream(request("a", 1900, ignore_eos=True, n=32))
            next(stream)
            daemon.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.health(daemon, "readinessProbe") == "NOT_SERVING",
                       "the drain to show")
            self.assertEqual(self.health(daemon, "livenessProbe"), "SERVING")
            stream.cancel()

    def test_autoscalers_read_a_metric_that_the_daemon_has(self):
        with Daemon() as daemon:
            exported = {name for name, _ in samples(daemon)}
        autoscaler = one(render("replicas"), "HorizontalPodAutoscaler")["spec"]["metrics"]
        (trigger,) = extra("keda-scaled-object.yaml")["spec"]["triggers"]
        (adapter_rule,) = extra("prometheus-adapter-values.yaml")["rules"]["custom"]
        expected = autoscaler[0]["pods"]["metric"]["name"]
        self.assertIn(expected, exported)
        for query in (trigger["metadata"]["query"], adapter_rule["seriesQuery"]):
            self.assertEqual([name for name, _ in selectors(query)], [expected])
        pool = (KUBERNETES / "extras/inference-pool.yaml").read_text()
        self.assertLessEqual(set(re.findall(r"vllm:\w+", pool)), exported)


class TlsOverlayTest(unittest.TestCase):
    """Its probes and its certificate's place, tried on a daemon that serves TLS."""

    @classmethod
    def setUpClass(cls):
        cls.objects = render("tls")
        cls.pod = one(cls.objects, "Deployment")["spec"]["template"]["spec"]
        (cls.container,) = cls.pod["containers"]
        cls.folder = tempfile.TemporaryDirectory(prefix="tessera-tls-")
        cls.certificate = pathlib.Path(cls.folder.name) / "tls.crt"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                        cls.certificate.with_suffix(".key"), "-out", cls.certificate],
                       check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def flags(self):
        """What the container's variables say, with the secret's folder in this test's place."""
        (mount,) = [m for m in self.container["volumeMounts"] if m["name"] == "tls"]
        (volume,) = [v for v in self.pod["volumes"] if v["name"] == "tls"]
        self.assertIn("secret", volume)
        self.assertNotIn("subPath", mount)
        for variable in self.container["env"]:
            flag = "--" + variable["name"].removeprefix("TESSERA_").lower().replace("_", "-")
            yield from (flag, self.folder.name + variable["value"].removeprefix(mount["mountPath"]))

    def probe(self, daemon, name):
        """The HTTP status that kubelet gets."""
        self.assertNotIn("grpc", self.container[name])
        get = self.container[name]["httpGet"]
        self.assertEqual(get["port"], "metrics")
        try:
            daemon.http(get["path"])
            return 200
        except urllib.error.HTTPError as error:
            return error.code

    def test_probes_see_a_drain_and_do_not_kill_it(self):
        credentials = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        with Daemon(*self.flags()) as daemon, \
                grpc.secure_channel(daemon.target, credentials) as channel:
            self.assertEqual([self.probe(daemon, name) for name in PROBES], [200] * 3)
            with error_of(self, grpc.StatusCode.UNAVAILABLE):  # why they are not of type grpc
                health_pb2_grpc.HealthStub(daemon.channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=10)
            stream = generation_pb2_grpc.GenerationServiceStub(channel).GenerateStream(
                request("a", 1900, ignore_eos=True, n=32))
            next(stream)
            daemon.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.probe(daemon, "readinessProbe") == 503, "the drain to show")
            self.assertEqual(self.probe(daemon, "livenessProbe"), 200)
            stream.cancel()

    def test_services_do_not_promise_plaintext(self):
        for service in (o for o in self.objects if o["kind"] == "Service"):
            for port in service["spec"]["ports"]:
                expected = "https" if port["name"] == "grpc" else "http"
                self.assertEqual(port["appProtocol"], expected)


class ExtrasTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        found = [extra(path.name) for path in (KUBERNETES / "extras").iterdir()]
        cls.resources = {thing["kind"]: thing for thing in found if "kind" in thing}
        cls.policy = cls.resources.pop("NetworkPolicy")
        cls.objects = render("replicas")
        cls.labels = one(cls.objects, "Deployment")["spec"]["template"]["metadata"]["labels"]

    def test_custom_resources_have_their_structure(self):
        self.assertEqual(self.resources.keys(), SCHEMAS.keys())
        for kind, resource in self.resources.items():
            with self.subTest(kind):
                with self.assertRaises(kubernetes_validate.SchemaNotFoundError):  # else use theirs
                    kubernetes_validate.validate(resource, kubernetes_validate.latest_version())
                jsonschema.validate(resource, SCHEMAS[kind])

    def test_network_policy_lets_others_reach_the_pods(self):
        kubernetes_validate.validate(self.policy, kubernetes_validate.latest_version(), strict=True)
        self.assertLessEqual(self.policy["spec"]["podSelector"]["matchLabels"].items(),
                             self.labels.items())
        (rule,) = self.policy["spec"]["ingress"]
        ports = {port["name"] for port in daemon_container("replicas")["ports"]}
        self.assertEqual({port["port"] for port in rule["ports"]}, ports)

    def test_misspelt_and_missing_fields_are_found(self):
        for kind, resource in self.resources.items():
            for name in SCHEMAS[kind]["properties"]["spec"]["required"]:
                spec = resource["spec"]
                renamed = {key + "s" if key == name else key: spec[key] for key in spec}
                with self.assertRaises(jsonschema.ValidationError, msg=f"{kind} {name}"):
                    jsonschema.validate(resource | {"spec": renamed | {name: spec[name]}},
                                        SCHEMAS[kind])
                del renamed[name + "s"]
                with self.assertRaises(jsonschema.ValidationError, msg=f"{kind} {name}"):
                    jsonschema.validate(resource | {"spec": renamed}, SCHEMAS[kind])

    def test_service_monitor_selects_the_one_service_with_metrics(self):
        spec = extra("service-monitor.yaml")["spec"]
        service = one(self.objects, "Service")
        labels = service["metadata"]["labels"]
        self.assertLessEqual(spec["selector"]["matchLabels"].items(), labels.items())
        self.assertEqual(labels[spec["jobLabel"]], "tessera")
        ports = [port["name"] for port in service["spec"]["ports"]]
        self.assertIn(spec["endpoints"][0]["port"], ports)
        (excluded,) = spec["selector"]["matchExpressions"]
        self.assertNotIn(excluded["key"], labels)
        headless = one(self.objects, "Service", "tessera-headless")
        self.assertIn(excluded["key"], headless["metadata"]["labels"])

    def test_scaled_object_scales_the_deployment(self):
        spec = extra("keda-scaled-object.yaml")["spec"]
        target = one(self.objects, "Deployment")["metadata"]["name"]
        self.assertEqual(spec["scaleTargetRef"]["name"], target)
        autoscaler = one(self.objects, "HorizontalPodAutoscaler")["spec"]
        self.assertEqual((spec["minReplicaCount"], spec["maxReplicaCount"]),
                         (autoscaler["minReplicas"], autoscaler["maxReplicas"]))

    def test_inference_pool_selects_the_pods_over_http2(self):
        spec = extra("inference-pool.yaml")["spec"]
        self.assertLessEqual(spec["selector"]["matchLabels"].items(), self.labels.items())
        ports = {port["name"]: port["containerPort"] for port in daemon_container("replicas")["ports"]}
        self.assertEqual(spec["targetPorts"], [{"number": ports["grpc"]}])
        self.assertEqual(spec["appProtocol"], "kubernetes.io/h2c")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
