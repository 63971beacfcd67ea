"""Structure of the custom resources in deploy/kubernetes/extras.

No package has their schemas, so these are ours, with the names, types, ranges and required fields of
the published CustomResourceDefinitions: monitoring.coreos.com/v1 of prometheus-operator 0.84,
keda.sh/v1alpha1 of KEDA 2 with its prometheus trigger, inference.networking.k8s.io/v1 of the Gateway
API Inference Extension. Only fields that our manifests use are here and no others are let pass, so
that a misspelt one does not: a new one must be added from its definition.
"""


def fields(*required, **optional):
    """An object with these fields; required ones are given as (name, schema)."""
    return {"type": "object", "properties": dict(required) | optional,
            "required": [name for name, _ in required], "additionalProperties": False}


def list_of(schema, at_least=1, at_most=None):
    bounds = {"minItems": at_least} | ({"maxItems": at_most} if at_most else {})
    return {"type": "array", "items": schema} | bounds


def one_of(*values):
    return {"enum": list(values)}


TEXT = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}
LABELS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}
COUNT = {"type": "integer", "minimum": 0}
PORT = fields(("number", {"type": "integer", "minimum": 1, "maximum": 65535}))


def resource(api_version, kind, spec):
    metadata = fields(("name", {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
                      labels=LABELS)
    return fields(("apiVersion", {"const": api_version}), ("kind", {"const": kind}),
                  ("metadata", metadata), ("spec", spec))


SCHEMAS = {
    "ServiceMonitor": resource("monitoring.coreos.com/v1", "ServiceMonitor", fields(
        ("selector", fields(
            matchLabels=LABELS,
            matchExpressions=list_of(fields(
                ("key", TEXT), ("operator", one_of("In", "NotIn", "Exists", "DoesNotExist")))))),
        ("endpoints", list_of(fields(port=TEXT, path=TEXT, interval=DURATION))),
        jobLabel=TEXT)),
    "ScaledObject": resource("keda.sh/v1alpha1", "ScaledObject", fields(
        ("scaleTargetRef", fields(("name", TEXT))),
        ("triggers", list_of(fields(
            ("type", one_of("prometheus")),
            # A map of strings: a number here is refused by the API server.
            ("metadata", fields(("serverAddress", TEXT), ("query", TEXT),
                                ("threshold", {"type": "string", "pattern": r"^\d+(\.\d+)?$"}))),
            metricType=one_of("AverageValue", "Value")))),
        minReplicaCount=COUNT, maxReplicaCount=COUNT, pollingInterval=COUNT, cooldownPeriod=COUNT)),
    "InferencePool": resource("inference.networking.k8s.io/v1", "InferencePool", fields(
        ("selector", fields(("matchLabels", LABELS))),
        ("targetPorts", list_of(PORT, at_most=8)),
        # `port` is required of a Service, which is what the reference is where it names no kind.
        ("endpointPickerRef", fields(("name", TEXT), ("port", PORT),
                                     failureMode=one_of("FailOpen", "FailClose"))),
        appProtocol=one_of("http", "kubernetes.io/h2c"))),
}
