"""Images, the compose file, and the scripts that build images and releases."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest
import urllib.parse

import yaml

from support import DEPLOY, ROOT, documents, program, run

DOCKERFILE = DEPLOY / "images" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def stages():
    """Instructions of each stage of the Dockerfile, by its name; those before the first under nothing."""
    found, name = {"": []}, ""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            name = rest.rpartition(" AS ")[2]
            found[name] = []
        found[name].append((word, " ".join(rest.split())))
    return found


class Dockerfile(unittest.TestCase):
    def lint(self, text):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "Dockerfile"
            file.write_text(text)
            labels = [f"--require-label=org.opencontainers.image.{name}:text" for name in ("title", "version", "revision")]
            return run(program("hadolint"), "--no-color", "--failure-threshold=style", *labels, str(file))

    def test_the_linter_finds_nothing(self):
        code, said = self.lint(DOCKERFILE.read_text())
        self.assertEqual((code, said), (0, ""))

    def test_the_linter_would_find_something(self):
        code, said = self.lint(DOCKERFILE.read_text().replace("--no-install-recommends ", ""))
        self.assertEqual(code, 1)
        self.assertIn("DL3015", said)

    def test_every_base_can_be_pinned_by_digest(self):
        arguments = {rest.partition("=")[0] for word, rest in stages()[""] if word == "ARG"}
        for name, instructions in stages().items():
            for word, rest in instructions:
                if word == "FROM":
                    self.assertIn(re.fullmatch(r"\$\{(\w+)\} AS \w+", rest)[1], arguments, name)

    def test_images_start_our_command_as_a_user_without_rights(self):
        images = {name: dict(instructions) for name, instructions in stages().items() if name in ("foregate", "distroless")}
        self.assertEqual(len(images), 2)
        self.assertEqual(list(stages())[-1], "foregate", "the default is the last one")
        for name, image in images.items():
            self.assertEqual(image["USER"], "2102:2102", name)
            self.assertEqual(image["ENTRYPOINT"], '["/usr/local/bin/foregate"]', name)
            self.assertEqual(image["STOPSIGNAL"], "SIGTERM", name)
        self.assertEqual(images["foregate"]["LABEL"], images["distroless"]["LABEL"])
        values = yaml.safe_load((DEPLOY / "helm" / "foregate" / "values.yaml").read_text())
        self.assertEqual(values["user"], 2102)

    def test_all_commands_are_in_it(self):
        build = " ".join(rest for word, rest in stages()["build"] if word == "RUN")
        for command in ("foregate", "foregate-control", "foregate-inference"):
            self.assertIn(f"--package {command} ", build)
            self.assertIn(f"target/dist/{command} ", build)

    def test_the_licenses_of_others_are_in_it(self):
        build = " ".join(rest for word, rest in stages()["build"] if word == "RUN")
        told = [words for words in build.split(" && ") if " >/out/" in words]
        self.assertEqual(len(told), 2)
        for name in ("foregate", "distroless"):
            self.assertIn(("COPY", "--from=build /out/share/ /usr/share/doc/foregate/"), stages()[name])
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        wanted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        with tempfile.TemporaryDirectory() as folder:
            # Nothing but the context: what the words read is there.
            for name in tracked:
                if any(name == one or name.startswith(one + "/") for one in wanted):
                    (pathlib.Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, pathlib.Path(folder) / name)
            out = pathlib.Path(folder) / "out"
            (out / "share").mkdir(parents=True)
            for words in told:
                subprocess.run(["sh", "-ec", words.replace("/out/", f"{out}/")], cwd=folder, check=True)
            text = (out / "share" / "THIRD-PARTY").read_text()
        for part in ("rustls", "pingora-core", "preact"):
            self.assertIn(part, text)

    def test_the_context_is_what_the_build_reads(self):
        lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
        self.assertEqual(lines[0], "*")
        wanted = {line.removeprefix("!") for line in lines if line.startswith("!")}
        manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
        parts = manifest["workspace"]["members"] + [patch["path"] for patch in manifest["patch"]["crates-io"].values()]
        self.assertLessEqual({part.split("/")[0] for part in parts} | {"Cargo.toml", "Cargo.lock", ".cargo"}, wanted)
        self.assertFalse(wanted & {".git", "target", "deploy"})
        for name in wanted:
            self.assertTrue((ROOT / name).exists(), name)


class Compose(unittest.TestCase):
    def setUp(self):
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.services = self.compose["services"]

    def test_it_is_valid(self):
        code, said = run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
        self.assertEqual(code, 0, said)

    def test_what_is_not_valid_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "compose.yaml"
            file.write_text(COMPOSE.read_text().replace("  redis:\n    <<", "  redis:\n    imagine: x\n    <<"))
            code, said = run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file))
            self.assertNotEqual(code, 0)
            self.assertIn("imagine", said)

    def test_everything_asked_for_is_there(self):
        self.assertEqual(set(self.services), {"control", "join", "gateway", "redis", "prometheus", "grafana", "crm"})
        for name, service in self.services.items():
            self.assertIs(service["read_only"], True, name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertIn("no-new-privileges:true", service["security_opt"], name)
            self.assertIn("mem_limit", service, name)
            self.assertEqual("healthcheck" in service, name != "join", name)
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), name)
            for mount in service.get("volumes", []):
                source = mount.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((COMPOSE.parent / source).exists(), mount)
                    self.assertTrue(mount.endswith(":ro"), mount)
                else:
                    self.assertIn(source, self.compose["volumes"], mount)

    def test_ports_and_names_fit_together(self):
        def healthy(name, port):
            self.assertIn(f"/dev/tcp/127.0.0.1/{port} ", self.services[name]["healthcheck"]["test"][3])

        healthy("gateway", 15021)
        healthy("control", 9091)
        self.assertIn("--probes=0.0.0.0:15021", self.services["gateway"]["command"])
        control = yaml.safe_load((COMPOSE.parent / "control.yaml").read_text())
        self.assertTrue(control["admin"].endswith(":9091"))
        self.assertIn("control", control["names"])
        self.assertIn("--control=https://control:8443", self.services["gateway"]["command"])
        self.assertTrue(control["listen"].endswith(":8443"))
        (identity,) = control["grants"][0]["identities"]
        path = identity.removeprefix(f"spiffe://{control['trustDomain']}/")
        self.assertIn(f"--identity {path} ", self.services["join"]["command"][0])
        every = documents((COMPOSE.parent / "policies" / "gateway.yaml").read_text())
        kinds = {document["kind"]: document for document in every}
        (listener,) = kinds["Gateway"]["spec"]["listeners"]
        self.assertTrue(self.services["gateway"]["ports"][0].endswith(f":{listener['port']}"))
        for kind, addresses in (("Upstream", "endpoints"), ("Store", "redis")):
            spec = kinds[kind]["spec"][addresses]
            for address in spec["addresses"] if kind == "Store" else spec:
                self.assertIn(address.split(":")[0], self.services)
        prometheus = yaml.safe_load((COMPOSE.parent / "prometheus.yaml").read_text())
        scraped = {
            (name, config["port"])
            for job in prometheus["scrape_configs"]
            for config in job["dns_sd_configs"]
            for name in config["names"]
        }
        self.assertEqual(scraped, {("gateway", 15021), ("control", 9091)})

    def published(self, service):
        """Ports of a service by the address of this machine that leads to them."""
        return dict(port.rsplit(":", 1) for port in self.services[service].get("ports", []))

    def test_dots_in_grafana_lead_to_the_admin_port(self):
        text = (DEPLOY / "grafana" / "provisioning" / "datasources" / "foregate.yaml").read_text()
        (source,) = yaml.safe_load(text)["datasources"]
        (exemplar,) = source["jsonData"]["exemplarTraceIdDestinations"]
        place = urllib.parse.urlsplit(exemplar["url"])
        self.assertTrue(place.path.startswith("/decisions/"))
        port = self.published("gateway")[place.netloc]
        # Of no loopback in its container: what is published does not come from there.
        self.assertIn(f"--admin=0.0.0.0:{port}", self.services["gateway"]["command"])

    def test_each_port_of_this_machine_leads_to_one_service(self):
        every = [place for name in self.services for place in self.published(name)]
        self.assertEqual(len(every), len(set(every)))
        self.assertEqual(len(every), sum(len(service.get("ports", [])) for service in self.services.values()))


class Scripts(unittest.TestCase):
    def script(self, name, *words, **variables):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "SOURCE_"))}
        environment = {**clean, "CARGO_NET_OFFLINE": "true", **variables}
        return run("bash", str(ROOT / ".ci" / name), *words, cwd="/", env=environment)

    def test_they_are_shell(self):
        for name in ("image", "release"):
            code, said = run("bash", "-n", str(ROOT / ".ci" / name))
            self.assertEqual((code, said), (0, ""))

    def test_an_image_that_is_pushed_has_bill_and_provenance(self):
        code, said = self.script("image", "--print")
        self.assertEqual(code, 0, said)
        self.assertIn(f"--load --tag foregate:{VERSION} . ", said)
        self.assertIn(f"--build-arg VERSION={VERSION} ", said)
        self.assertNotIn("--push", said)
        pinned = "debian:12-slim@sha256:" + "0" * 64
        words = ("--print", "--platform", "linux/amd64,linux/arm64", "--push", "registry.example.com/foregate:1")
        code, said = self.script("image", *words, DEBIAN_IMAGE=pinned, SOURCE_URL="https://example.org/foregate")
        self.assertEqual(code, 0, said)
        for word in ("--sbom=true", "--provenance=mode=max", "--push --tag registry.example.com/foregate:1", pinned):
            self.assertIn(word, said)
        self.assertRegex(said, r"--platform linux/amd64\\?,linux/arm64")

    def test_words_that_make_no_sense_are_refused(self):
        for words in (["--pusj"], ["--print", "a", "b"], ["--print", "--digest", "x", "a"], ["--print", "--platform"]):
            code, said = self.script("image", *words)
            self.assertNotEqual(code, 0, words)
            self.assertTrue(said, words)

    def release(self, folder, **variables):
        commands = pathlib.Path(folder) / "commands"
        commands.mkdir(exist_ok=True)
        for name in ("foregate", "foregate-control", "foregate-inference"):
            shutil.copy("/bin/true", commands / name)
        out = pathlib.Path(tempfile.mkdtemp(dir=folder))
        code, said = self.script("release", str(out), str(commands), **variables)
        return code, said, out

    def test_a_tag_that_is_not_the_version_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            code, said, _ = self.release(folder, GITHUB_REF_TYPE="tag", GITHUB_REF_NAME="v9.9.9")
            self.assertNotEqual(code, 0)
            self.assertIn("v9.9.9", said)


if __name__ == "__main__":
    unittest.main()
