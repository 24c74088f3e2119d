"""Renders the chart, reads manifests strictly, and finds the programs that look at them."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import helm_python
import jsonschema
import kubernetes_validate
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent
CHART = DEPLOY / "helm" / "foregate"
# The oldest and the newest Kubernetes that the chart is for.
VERSIONS = ("1.30", "1.37")
NAMESPACE = "crm"

_AUTHORITY = {"secret": "workload-authority"}
# What people install, by name. Together they reach every template and every switch.
CASES = {
    "gateway": {},
    "gateway of a ConfigMap": {
        "gateway": {
            "policies": {
                "from": "configMap",
                "configMap": "crm-policies",
                "secrets": [{"name": "edge-cert", "secretName": "edge-tls", "keys": ["tls.crt", "tls.key"]}],
            },
            "ports": [{"name": "https", "port": 443, "targetPort": 8443, "appProtocol": "https"}],
            "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "PreferDualStack"},
            "autoscaling": {"enabled": True},
        },
    },
    "gateway of a control plane elsewhere": {
        "gateway": {
            "policies": {"from": "control"},
            "control": {
                "address": "https://control.example.org:8443",
                "roots": {"secret": "control-roots"},
                "labels": {"gateway": "crm/edge", "tier": "front"},
            },
        },
    },
    "mesh for development": {"mode": "mesh", "control": {"insecure": {"generateAuthority": True}}},
    "mesh": {"mode": "mesh", "control": {"authority": _AUTHORITY, "replicas": 3}},
    "both": {
        "mode": "both",
        "gateway": {"policies": {"from": "control"}},
        "control": {"authority": _AUTHORITY, "replicas": 2, "names": ["control.example.org"]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "both, and everything said": {
        "mode": "both",
        "commonLabels": {"team": "crm"},
        "image": {
            "repository": "registry.example.com:5000/foregate",
            "digest": "sha256:" + "0" * 64,
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        },
        "gateway": {
            "policies": {"from": "control"},
            "control": {"gateways": ["crm/edge"], "labels": {"tier": "front"}},
            "args": ["--threads=2"],
            "inference": {
                "enabled": True,
                "args": ["--max-rows=64"],
                "volumeMounts": [{"name": "bundles", "mountPath": "/bundles", "readOnly": True}],
            },
            "env": [{"name": "NO_COLOR", "value": "1"}],
            "volumes": [{"name": "bundles", "persistentVolumeClaim": {"claimName": "bundles", "readOnly": True}}],
            "volumeMounts": [{"name": "bundles", "mountPath": "/bundles", "readOnly": True}],
            "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}}},
            "networkPolicy": {
                "from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}],
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443, "protocol": "TCP"}]}],
            },
            "serviceAccount": {"name": "edge", "annotations": {"example.org/role": "edge"}},
            "podAnnotations": {"example.org/a": "b"},
            "podLabels": {"tier": "front"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "system-cluster-critical",
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
            ],
        },
        "control": {
            "authority": {**_AUTHORITY, "overlap": "1h"},
            "joinTokens": {"enabled": True},
            "sources": [
                {
                    "name": "policies",
                    "git": {
                        "url": "https://git.example.com/policies.git",
                        "branch": "main",
                        "allowedSigners": "/etc/foregate/mounts/signers/allowed",
                        "credentials": {"passwordFile": "/etc/foregate/mounts/git/password"},
                    },
                }
            ],
            "mounts": [{"name": "git", "secret": "git-credentials"}, {"name": "signers", "configMap": "allowed-signers"}],
            "grants": [{"identities": ["spiffe://cluster.local/ns/leads/*"], "gateways": ["leads/*"]}],
            "rollout": {"steps": [5, 25, 100], "interval": "5m", "guardrails": {"refused": 0.05}},
            "kubernetes": {"addresses": ["192.0.2.1"], "secretNamespaces": ["crm", "leads"]},
            "networkPolicy": {
                "from": [{"namespaceSelector": {"matchLabels": {"foregate.dev/inject": "enabled"}}}],
                "metricsFrom": [{"namespaceSelector": {}}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
            },
            "persistence": {"storageClass": "fast", "size": "2Gi"},
        },
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True, "labels": {"grafana": "main"}, "annotations": {"example.org/folder": "CRM"}},
        "runbooks": "https://wiki.example.com/foregate/",
    },
    "control plane without a cluster": {
        "mode": "mesh",
        "control": {
            "authority": _AUTHORITY,
            "kubernetes": {"enabled": False},
            "injection": {"enabled": False},
            "validation": {"enabled": False},
            "persistence": {"enabled": False},
            "podDisruptionBudget": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "serviceAccount": {"create": False, "name": "control"},
        },
    },
    "mesh that injects nothing": {
        "mode": "mesh",
        "control": {"authority": _AUTHORITY, "injection": {"enabled": False}},
        "crds": {"install": False},
    },
}


def render(values, name="foregate", namespace=NAMESPACE):
    """The documents that Helm would send, in the order of their files."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace=namespace)
    texts = [text for path, text in sorted(files.items()) if not path.endswith("NOTES.txt")]
    return [document for text in texts for document in documents(text)]


@functools.cache
def rendered(case):
    """The documents of a case; not to be changed."""
    return render(CASES[case])


class _Strict(yaml.SafeLoader):
    """Refuses a key that comes twice, as the API server does."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: {twice} twice")
        return super().construct_mapping(node, deep)


_Strict.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node, deep=True))


def documents(text):
    return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]


def find(every, kind, name=None):
    """The one object of this kind, and of this name where one is given."""
    found = [one for one in every if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


@functools.cache
def _ours():
    """Schemas of the kinds of foregate.dev, by apiVersion and kind."""
    schemas = {}
    for path in sorted((DEPLOY / "crds").glob("*.yaml")):
        for crd in documents(path.read_text()):
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = version["schema"]["openAPIV3Schema"]
    return schemas


# What the API servers of clusters know by definitions that others install.
_OTHERS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "spec": {
                "type": "object",
                "additionalProperties": False,
                "required": ["selector", "endpoints"],
                "properties": {
                    "selector": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["matchLabels"],
                        "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
                    },
                    "endpoints": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["port"],
                            "properties": {
                                name: {"type": "string"} for name in ("port", "path", "interval", "scrapeTimeout")
                            },
                        },
                    },
                },
            }
        },
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "spec": {
                "type": "object",
                "additionalProperties": False,
                "required": ["groups"],
                "properties": {
                    "groups": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["name", "rules"],
                            "properties": {"name": {"type": "string"}, "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}}},
                        },
                    }
                },
            }
        },
        "$defs": {
            "rule": {
                "type": "object",
                "additionalProperties": False,
                "required": ["expr"],
                "properties": {
                    **{name: {"type": "string"} for name in ("alert", "record", "expr")},
                    "for": {"type": "string", "pattern": "^[0-9]+[smhd]$"},
                    **{name: {"type": "object", "additionalProperties": {"type": "string"}} for name in ("labels", "annotations")},
                },
            }
        },
    },
    ("gateway.networking.k8s.io/v1", "GatewayClass"): {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "spec": {
                "type": "object",
                "additionalProperties": False,
                "required": ["controllerName"],
                "properties": {
                    "controllerName": {"type": "string", "pattern": "^foregate[.]dev/"},
                    "description": {"type": "string"},
                },
            }
        },
    },
}


def validate(document):
    """Raises where an API server would refuse it, or forget a part of it."""
    key = (document["apiVersion"], document["kind"])
    schema = _OTHERS.get(key) or _ours().get(key)
    if schema is not None:
        jsonschema.Draft202012Validator(schema).validate(document)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def program(name):
    """A program that came with the packages of this Python."""
    path = pathlib.Path(sys.executable).parent / name
    assert path.exists(), f"{path} is missing: run `bash .ci/test`, which installs it"
    return str(path)


def run(*words, **options):
    """Runs a program; gives its exit code and all that it said."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **options)
    return done.returncode, done.stdout + done.stderr


BINARIES = pathlib.Path(os.environ.get("FOREGATE_BINARIES") or ROOT / "target" / "debug")


def binary(name):
    """A command of ours, as it was built."""
    path = BINARIES / name
    assert path.exists(), f"{path} is missing: run `cargo build --workspace`"
    return str(path)


def debian(name):
    """A program that .ci/needs.sh unpacks where the machine has none."""
    beside = BINARIES.parent / "prometheus" / "usr" / "bin" / name
    path = shutil.which(name) or (str(beside) if beside.exists() else None)
    assert path, f"{name} is neither in PATH nor at {beside}: run `bash .ci/test`, which brings it"
    return path
