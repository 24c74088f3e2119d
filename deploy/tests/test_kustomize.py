"""The kustomize base deploys what the chart deploys; the example changes what it says."""

import pathlib
import shutil
import sys
import tempfile
import unittest

import yaml

import hardening
from support import CHART, DEPLOY, documents, find, program, run, validate

KUSTOMIZE = DEPLOY / "kustomize"
sys.path.insert(0, str(KUSTOMIZE))

import render as base  # noqa: E402


def built(folder):
    code, said = run(program("kubectl"), "kustomize", str(folder))
    assert code == 0, said
    return documents(said)


def keyed(every):
    return {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in every}


class Base(unittest.TestCase):
    def test_it_is_fresh(self):
        for part in base.VALUES:
            committed = (KUSTOMIZE / "base" / part / "manifests.yaml").read_text()
            self.assertEqual(committed, base.text(part), "run `python deploy/kustomize/render.py`")

    def test_it_has_what_the_chart_has_and_no_more(self):
        for part in base.VALUES:
            found = keyed(built(KUSTOMIZE / "base" / part))
            policies = found.pop(("ConfigMap", "foregate", "foregate-gateway-policies"), None)
            self.assertEqual(found, keyed(base.manifests(part)))
            self.assertEqual(policies is not None, part == "gateway")
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        data = find(built(KUSTOMIZE / "base" / "gateway"), "ConfigMap")["data"]
        self.assertEqual(data, values["gateway"]["policies"]["files"])

    def test_an_api_server_takes_it(self):
        for folder in ("base", "overlays/example"):
            every = built(KUSTOMIZE / folder)
            self.assertEqual(len(keyed(every)), len(every))
            for document in every:
                with self.subTest(folder=folder, kind=document["kind"], name=document["metadata"]["name"]):
                    validate(document)
                    self.assertNotEqual(document["kind"], "Secret")
                    self.assertNotIn("Helm", str(document))
                if document["kind"] in ("Deployment", "StatefulSet"):
                    self.assertEqual(hardening.faults(document["spec"]["template"]["spec"]), [])

    def test_a_base_that_was_changed_by_hand_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "gateway"
            shutil.copytree(KUSTOMIZE / "base" / "gateway", copy)
            manifests = copy / "manifests.yaml"
            manifests.write_text(manifests.read_text().replace("replicas: 2", "replicas: 3"))
            found = keyed(built(copy))
            found.pop(("ConfigMap", "foregate", "foregate-gateway-policies"))
            self.assertNotEqual(found, keyed(base.manifests("gateway")))

    def test_another_image_reaches_containers_and_sidecars(self):
        text = base.text("mesh", base._image("registry.example.com:5000/foregate:1.2.3"))
        self.assertEqual(text.count("registry.example.com:5000/foregate:1.2.3"), 2)


class Example(unittest.TestCase):
    def test_it_changes_what_it_says(self):
        every = built(KUSTOMIZE / "overlays" / "example")
        gateway = find(every, "Deployment")
        self.assertEqual(gateway["spec"]["replicas"], 4)
        (container,) = gateway["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], "registry.example.com/foregate:0.1.0")
        self.assertEqual(find(every, "Service", "foregate-gateway")["spec"]["type"], "LoadBalancer")
        self.assertIn("HTTPRoute", find(every, "ConfigMap", "foregate-gateway-policies")["data"]["gateway.yaml"])
        volumes = gateway["spec"]["template"]["spec"]["volumes"]
        self.assertIn({"configMap": {"name": "foregate-gateway-policies"}}, volumes[-1]["projected"]["sources"])


if __name__ == "__main__":
    unittest.main()
