"""Values that cannot be meant are refused, with a message that says what to do; all values are described."""

import copy
import json
import unittest

import helm_python
import yaml

from support import CHART, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
MESH = {"mode": "mesh", "control": {"authority": {"secret": "ca"}}}


def merged(base, more):
    merge = copy.deepcopy(base)
    for key, value in more.items():
        merge[key] = merged(merge[key], value) if isinstance(value, dict) and isinstance(merge.get(key), dict) else value
    return merge


def resolved(schema):
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def closed(schema):
    """The fields of an object that takes no others, or nothing."""
    schema = resolved(schema)
    return schema["properties"] if schema.get("additionalProperties") is False else None


def ways(schema, way=()):
    """Every way to a value that the schema knows, within objects that take no others."""
    for name, inner in (closed(schema) or {}).items():
        yield (*way, name)
        yield from ways(inner, (*way, name))


class Refused(unittest.TestCase):
    def refused(self, values, *words):
        with self.assertRaises(helm_python.HelmError, msg=str(values)) as caught:
            render(values)
        said = str(caught.exception)
        for word in words:
            self.assertIn(word, said, values)

    def test_what_is_unknown_is_refused_at_every_depth(self):
        self.refused({"replicas": 2}, "replicas")
        for way in ways(SCHEMA):
            if closed(SCHEMA if not way else self.at(way)) is None:
                continue
            values = {"nonsense": 1}
            for name in reversed(way):
                values = {name: values}
            self.refused(values, "nonsense")

    @staticmethod
    def at(way):
        schema = SCHEMA
        for name in way:
            schema = closed(schema)[name]
        return schema

    def test_wrong_values_are_refused(self):
        for way, wrong in (
            ("mode", "sidecar"),
            ("user", 0),
            ("listenAddress", "10.0.0.1"),
            ("image.tag", "a b"),
            ("image.digest", "sha256:0"),
            ("image.repository", "Foregate"),
            ("image.pullPolicy", "Sometimes"),
            ("serviceMonitor.interval", "often"),
            ("prometheusRule.enabled", "yes"),
            ("dashboards.labels", {"grafana_dashboard": 1}),
            ("runbooks", "wiki"),
            ("gateway.replicas", "2"),
            ("gateway.replicas", -1),
            ("gateway.policies.from", "git"),
            ("gateway.policies.secrets", [{"name": "cert"}]),
            ("gateway.policies.secrets", [{"name": "a/b", "secretName": "x", "keys": ["tls.crt"]}]),
            ("gateway.control.address", "http://control:8443"),
            ("gateway.control.address", "https://control"),
            ("gateway.args", ["policies"]),
            ("gateway.ports", []),
            ("gateway.ports", [{"name": "http", "port": 0, "targetPort": 8080}]),
            ("gateway.ports", [{"name": "http", "port": 80, "targetPort": 9090}]),
            ("gateway.ports", [{"name": "HTTP", "port": 80, "targetPort": 8080}]),
            ("gateway.drain.timeout", "30s"),
            ("gateway.service.type", "ExternalName"),
            ("gateway.autoscaling.cpu", 0),
            ("gateway.podDisruptionBudget.maxUnavailable", 0),
            ("gateway.networkPolicy.from", [{}]),
            ("gateway.resources.limits", {"memory": "much"}),
            ("gateway.accessLog", "/var/log/access"),
            ("control.replicas", 0),
            ("control.trustDomain", "Example.org"),
            ("control.names", ["https://control"]),
            ("control.authority.lifetime", "a day"),
            ("control.sources", [{"name": "a"}]),
            ("control.sources", [{"name": "a", "folder": {"path": "x"}, "git": {"url": "https://x"}}]),
            ("control.sources", [{"name": "a", "git": {"url": "http://x"}}]),
            ("control.grants", [{"identities": ["ns/crm"], "gateways": ["crm/*"]}]),
            ("control.rollout", {"steps": [0]}),
            ("control.mounts", [{"name": "a", "secret": "b", "configMap": "c"}]),
            ("control.injection.user", 0),
            ("control.injection.interception", "magic"),
            ("control.validation.failurePolicy", "Maybe"),
            ("control.persistence.accessModes", ["ReadWriteMany"]),
        ):
            values = wrong
            for name in reversed(way.split(".")):
                values = {name: values}
            with self.subTest(way=way, wrong=wrong):
                self.refused(values, way.rsplit(".", 1)[-1])

    def test_names_of_policy_files_stay_in_their_folder(self):
        for name in ("../x.yaml", "a/b.yaml", ".hidden", ""):
            self.refused({"gateway": {"policies": {"files": {name: "a"}}}}, "propertyName")

    def test_combinations_that_cannot_work_are_refused_and_told_how_to_mend(self):
        for base, more, words in (
            ({}, {"gateway": {"policies": {"from": "configMap"}}}, "gateway.policies.configMap"),
            ({}, {"gateway": {"policies": {"files": {"gateway.yaml": None}}}}, "gateway.policies.files"),
            ({}, {"gateway": {"policies": {"from": "control"}}}, "mode: both"),
            (
                {},
                {"gateway": {"policies": {"from": "control"}, "control": {"address": "https://a:8443"}}},
                "gateway.control.roots",
            ),
            (
                MESH,
                {"mode": "both", "gateway": {"policies": {"from": "control"}, "control": {"roots": {"secret": "a", "configMap": "b"}}}},
                "leave one of them out",
            ),
            ({}, {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}}, "minReplicas"),
            ({}, {"mode": "mesh"}, "control.insecure.generateAuthority=true"),
            (MESH, {"control": {"insecure": {"generateAuthority": True}}}, "leave one of them out"),
            ({"mode": "mesh"}, {"control": {"replicas": 2, "insecure": {"generateAuthority": True}}}, "control.authority.secret"),
            (MESH, {"control": {"replicas": 2, "joinTokens": {"enabled": True}}}, "join tokens"),
            (MESH, {"control": {"kubernetes": {"enabled": False}}}, "control.kubernetes.enabled"),
            (MESH, {"control": {"tokenReview": {"enabled": False}}}, "control.tokenReview.enabled"),
            (
                {"mode": "both", "gateway": {"policies": {"from": "control"}}},
                {"control": {"insecure": {"generateAuthority": True}, "injection": {"enabled": False}, "validation": {"enabled": False}}},
                "gateway.control.roots",
            ),
        ):
            self.refused(merged(base, more), words)


class Described(unittest.TestCase):
    def test_every_value_that_the_schema_knows_has_a_default_and_the_other_way_round(self):
        # What Helm gives to charts within charts, and objects that are given as a whole.
        whole = lambda way: way[0] == "global" or "resources" in way[:-1] or (way[:2] == ("control", "rollout") and way[2:])
        known = {way for way in ways(SCHEMA) if not whole(way)}
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        self.assertEqual(set(self.said(values, SCHEMA)), known)

    def said(self, values, schema, way=()):
        for name, inner in values.items():
            yield (*way, name)
            fields = (closed(schema) or {}).get(name, {})
            if isinstance(inner, dict) and closed(fields) and name not in ("resources", "rollout"):
                yield from self.said(inner, fields, (*way, name))

    def test_nothing_is_preset_that_must_be_changed_to_be_safe(self):
        self.assertNotRegex((CHART / "values.yaml").read_text(), "(?i)password|changeme|-----BEGIN")


if __name__ == "__main__":
    unittest.main()
