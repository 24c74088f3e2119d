"""What manifests start: commands of ours, with arguments, settings and policies that these commands take."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import unittest

import yaml

from support import CASES, DEPLOY, ROOT, binary, documents, find, program, rendered, run


def flags(*words):
    """The long flags that the help of a command shows, with whether each takes a value."""
    code, said = run(binary(words[0]), *words[1:], "--help")
    assert code == 0, said
    return {name: bool(value) for name, value in re.findall(r"^\s+(?:-\w, )?--([a-z-]+)((?: |=)<)?", said, re.M)}


def commands(name):
    """The commands that a program has."""
    _, said = run(binary(name), "--help")
    return set(re.findall(r"^  ([a-z]+)(?:  |$)", said, re.M))


def unknown(words, known):
    """Faults of arguments, in words."""
    faults, rest = [], iter(words)
    for word in rest:
        if not word.startswith("--"):
            continue
        name, given, _ = word.removeprefix("--").partition("=")
        if name not in known:
            faults.append(f"--{name} is unknown")
        elif known[name] and not given and next(rest, None) is None:
            faults.append(f"--{name} lacks its value")
        elif given and not known[name]:
            faults.append(f"--{name} takes no value")
    return faults


def containers():
    """Command and arguments of each container that the chart, kustomize and the compose file start."""
    for case in CASES:
        for document in rendered(case):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("containers", []) + pod.get("initContainers", []):
                yield f"chart: {case}", container["command"][0], container["args"]
    for folder in sorted(path.parent for path in (DEPLOY / "kustomize").rglob("kustomization.yaml")):
        code, said = run(program("kubectl"), "kustomize", str(folder))
        assert code == 0, said
        for document in documents(said):
            for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                yield f"kustomize: {folder.name}", container["command"][0], container["args"]
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        entry = service.get("entrypoint", ["foregate"])
        if service.get("image", "").startswith("${FOREGATE_IMAGE") and entry[0].startswith("foregate"):
            yield f"compose: {name}", entry[0], [*entry[1:], *service["command"]]
    for statement in compose["services"]["join"]["command"][0].split(";"):
        words = statement.split(">")[0].split()
        if words[0].startswith("foregate"):
            yield f"compose: {' '.join(words[1:3])}", words[0], words[1:]


class Arguments(unittest.TestCase):
    def test_every_argument_is_known(self):
        fleet = "run" in commands("foregate-control")
        cache, seen = {}, set()
        for place, name, args in containers():
            with self.subTest(place=place, command=name):
                self.assertIn(name, ("foregate", "foregate-control", "foregate-inference"))
                if not fleet and (name == "foregate-control" or any(word.startswith("--control") for word in args)):
                    continue
                words = [args[0]] if args[1:2] == [] or args[1].startswith(("-", "/")) else args[:2]
                key = (name, *words)
                if key not in cache:
                    cache[key] = flags(*key)
                self.assertEqual(unknown(args[len(words):], cache[key]), [])
                seen.add(name)
        self.assertLessEqual({"foregate", "foregate-inference"}, seen)

    def test_an_argument_that_is_not_known_is_found(self):
        known = flags("foregate", "run")
        self.assertTrue(known["admin"] and known["probes"])
        self.assertEqual(unknown(["--probe=x", "--admin", "--upgrade=1"], known)[0], "--probe is unknown")
        self.assertEqual(unknown(["--upgrade=1"], known), ["--upgrade takes no value"])
        self.assertEqual(unknown(["--admin"], known), ["--admin lacks its value"])

    def test_what_is_injected_is_known_too(self):
        injection = ROOT / "control" / "plane" / "src" / "injection"
        if not injection.exists():
            self.skipTest("injection is not in this tree")
        known = flags("foregate", "run") | flags("foregate", "init")
        for file in ("sidecar.rs", "wishes.rs"):
            text = (injection / file).read_text().split("#[cfg(test)]")[0]
            for name in re.findall(r'"--([a-z-]+)"', text):
                self.assertIn(name, known, file)


class Policies(unittest.TestCase):
    def check(self, files):
        with tempfile.TemporaryDirectory() as folder:
            # As a volume of Kubernetes lays files out.
            data = pathlib.Path(folder) / "..2026"
            data.mkdir()
            (pathlib.Path(folder) / "..data").symlink_to(data.name)
            for name, text in files.items():
                (data / name).write_text(text)
                (pathlib.Path(folder) / name).symlink_to(f"..data/{name}")
            return run(binary("foregate"), "check", folder, "--without-secrets")

    def test_those_that_come_with_the_chart_compile(self):
        code, said = self.check(find(rendered("gateway"), "ConfigMap", "foregate-gateway-policies")["data"])
        self.assertEqual(code, 0, said)

    def test_those_of_the_examples_compile(self):
        for folder in (DEPLOY / "compose" / "policies", DEPLOY / "kustomize" / "overlays" / "example" / "policies"):
            files = {path.name: path.read_text() for path in folder.glob("*.yaml")}
            self.assertTrue(files, folder)
            code, said = self.check(files)
            self.assertEqual(code, 0, said)

    def test_those_that_do_not_compile_are_found(self):
        code, said = self.check({"gateway.yaml": "apiVersion: gateway.networking.k8s.io/v1\nkind: Gatewey\nmetadata: { name: a }\n"})
        self.assertEqual(code, 3, said)
        self.assertIn("Gatewey", said)


class Settings(unittest.TestCase):
    """The control plane starts with the settings that are deployed, laid into a folder of this machine."""

    def started(self, text):
        """Starts it; gives what it said until it listened or ended, and whether it listens."""
        with tempfile.TemporaryDirectory() as folder:
            settings = yaml.safe_load(text)
            self.lay(settings, pathlib.Path(folder))
            file = pathlib.Path(folder) / "control.yaml"
            file.write_text(yaml.safe_dump(settings))
            # An API server that is away.
            cluster = {"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}
            context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
            kubeconfig = pathlib.Path(folder) / "kubeconfig"
            kubeconfig.write_text(
                yaml.safe_dump(
                    {
                        "apiVersion": "v1",
                        "kind": "Config",
                        "clusters": [cluster],
                        "contexts": [context],
                        "users": [{"name": "none", "user": {"token": "none"}}],
                        "current-context": "none",
                    }
                )
            )
            child = subprocess.Popen(
                [binary("foregate-control"), "run", "--config", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            )
            late = threading.Timer(60, child.kill)
            late.start()
            try:
                said = []
                for line in child.stderr:
                    said.append(line)
                    if line.startswith("{") and json.loads(line).get("event.name") == "listening":
                        child.send_signal(signal.SIGTERM)
                        return "".join(said), True
                return "".join(said), False
            finally:
                child.send_signal(signal.SIGTERM)
                child.stderr.close()
                child.wait(30)
                late.cancel()

    @staticmethod
    def lay(settings, folder):
        """Free ports of loopback, and folders that are there."""
        settings.update(listen="127.0.0.1:0", admin="127.0.0.1:0", stateDir=str(folder / "state"))
        authority = settings.get("authority", {})
        for name in ("roots", "issuer", "issuerKey"):
            authority.pop(name, None)
        settings["insecure"] = {"generateAuthority": True}
        (folder / "file").write_text("")
        (folder / "policies").mkdir()
        for source in settings.get("sources", []):
            if "folder" in source:
                source["folder"]["path"] = str(folder / "policies")
            else:
                source["git"]["url"] = f"file://{folder}/none"
                source["git"]["allowedSigners"] = str(folder / "file")
                if "credentials" in source["git"]:
                    source["git"]["credentials"]["passwordFile"] = str(folder / "file")
        if not (ROOT / "control" / "plane" / "src" / "kubernetes").exists():
            # The controller is not in this tree.
            settings.pop("kubernetes", None)
        if "webhooks" in settings.get("kubernetes", {}):
            settings["kubernetes"]["webhooks"]["listen"] = "127.0.0.1:0"

    def setUp(self):
        if "run" not in commands("foregate-control"):
            self.skipTest("the control plane is not in this tree")

    def test_it_starts_with_what_the_chart_gives_it(self):
        for case in CASES:
            for document in rendered(case):
                if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "foregate-control":
                    text = next(iter(document["data"].values()))
                    said, listens = self.started(text)
                    self.assertTrue(listens, f"{case}:\n{said}\n{text}")

    def test_it_starts_with_what_the_compose_file_gives_it(self):
        said, listens = self.started((DEPLOY / "compose" / "control.yaml").read_text())
        self.assertTrue(listens, said)

    def test_settings_that_it_does_not_know_are_refused(self):
        text = find(rendered("control plane without a cluster"), "ConfigMap")["data"]["foregate-control-0.yaml"]
        said, listens = self.started(text + "\nnonsense: 1\n")
        self.assertFalse(listens)
        self.assertIn("nonsense", said)


if __name__ == "__main__":
    unittest.main()
