"""What is released: the same bytes from the same source, a package that installs, pages and scripts that are read."""

import gzip
import json
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile
import unittest

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support import ROOT, binary, run

COMMANDS = ("foregate", "foregate-control", "foregate-inference")
UNITS = tuple(f"{command}.service" for command in COMMANDS)


def release(out):
    """Puts a release of the commands that are there together, little compressed."""
    environment = {**os.environ, "RELEASE_LEVEL": "1", "SOURCE_DATE_EPOCH": "1700000000"}
    script = ["bash", ROOT / ".ci" / "release", out, pathlib.Path(binary("foregate")).parent]
    subprocess.run(script, check=True, env=environment, stderr=subprocess.PIPE, text=True)


def sums(folder):
    (file,) = folder.glob("SHA256SUMS-*")
    return file


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.out = cls.folder / "out"
        release(cls.out)
        (cls.deb,) = cls.out.glob("*.deb")
        (cls.archive,) = cls.out.glob("*.tar.gz")
        cls.root = cls.folder / "root"
        subprocess.run(["dpkg-deb", "--extract", cls.deb, cls.root], check=True)

    def test_the_same_source_gives_the_same_bytes(self):
        again = self.folder / "again"
        release(again)
        self.assertEqual(sums(self.out).read_text(), sums(again).read_text())

    def test_sums_are_of_everything_and_find_a_changed_byte(self):
        names = {line.split()[1] for line in sums(self.out).read_text().splitlines()}
        self.assertEqual(names, {file.name for file in self.out.iterdir()} - {sums(self.out).name})
        self.assertEqual(len(names), 5, names)
        check = ["sha256sum", "--check", "--strict", "--quiet", sums(self.out).name]
        self.assertEqual(subprocess.run(check, cwd=self.out).returncode, 0)
        (chart,) = self.out.glob("*.tgz")
        whole = chart.read_bytes()
        chart.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        try:
            self.assertNotEqual(subprocess.run(check, cwd=self.out, capture_output=True).returncode, 0)
        finally:
            chart.write_bytes(whole)

    def test_the_archive_has_commands_that_run(self):
        with tarfile.open(self.archive) as archive:
            members = archive.getmembers()
            archive.extractall(self.folder / "archive", filter="tar")
        self.assertEqual({(one.uid, one.gid, one.mtime) for one in members}, {(0, 0, 1700000000)})
        (top,) = (self.folder / "archive").iterdir()
        for command in COMMANDS:
            code, said = run(top / command, "--version")
            self.assertEqual((code, said.split()[0]), (0, command))
        for file in ("LICENSE", "README.md", "CHANGELOG.md", "THIRD-PARTY", "policies/crm-gateway/gateway.yaml"):
            self.assertTrue((top / file).is_file(), file)

    def test_lintian_finds_nothing(self):
        # Commands that were built for tests need the C library that they were built with; those of a release need none.
        code, said = run("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", self.deb)
        self.assertEqual(code, 0, said)

    def test_manual_pages_are_well_formed_and_complete(self):
        pages = sorted((self.root / "usr/share/man/man1").iterdir())
        names = {page.name.removesuffix(".1.gz") for page in pages}
        self.assertLessEqual({*COMMANDS, "foregate-run", "foregate-model-promote", "foregate-control-token-create"}, names)
        for page in pages:
            text = gzip.decompress(page.read_bytes()).decode()
            drawn = subprocess.run(
                ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-P-cbou"], input=text, capture_output=True, text=True, check=True
            )
            self.assertEqual(drawn.stderr, "", page.name)
            self.assertIn("SYNOPSIS", drawn.stdout)
            for option in options(text):
                self.assertTrue(option["help"], f"{page.name}: {option['name']} is not explained")
                if "<N>" in option["name"] or "<PORT>" in option["name"]:
                    bounds = r"\d to \S*\d|\d or more|1 to `|port|Port"
                    self.assertRegex(option["help"], bounds, f"{page.name}: {option['name']} tells no bounds")

    def test_completions_are_scripts_of_their_shells(self):
        for command in COMMANDS:
            bash = self.root / "usr/share/bash-completion/completions" / command
            zsh = self.root / "usr/share/zsh/vendor-completions" / f"_{command}"
            fish = self.root / "usr/share/fish/vendor_completions.d" / f"{command}.fish"
            for shell, script in (("bash", bash), ("zsh", zsh), ("fish", fish)):
                code, said = run(shell, "-n", script)
                self.assertEqual((code, said), (0, ""), script)
        # What a person gets for `foregate mo<Tab>`.
        ask = f"source {self.root}/usr/share/bash-completion/completions/foregate; COMP_WORDS=(foregate mo); COMP_CWORD=1; "
        code, said = run("bash", "-c", ask + "_foregate foregate mo foregate; echo ${COMPREPLY[@]}")
        self.assertEqual((code, said.strip()), (0, "model"))

    def test_units_are_valid_and_may_do_little(self):
        for unit in UNITS:
            text = (self.root / "lib/systemd/system" / unit).read_text()
            # The units of this machine are what they hang on; the commands are not installed here.
            copy = self.folder / unit
            copy.write_text(text.replace("=/usr/bin/", f"={self.root}/usr/bin/"))
            code, said = run("systemd-analyze", "verify", "--man=no", copy)
            self.assertEqual((code, said), (0, ""))
            copy.write_text(copy.read_text().replace("ProtectSystem", "ProtektSystem"))
            self.assertIn("ProtektSystem", run("systemd-analyze", "verify", "--man=no", copy)[1])
            # 2.0 of 10: what a service that talks to the network and reads its configuration cannot do without.
            code, said = run("systemd-analyze", "security", "--offline=yes", f"--root={self.root}", "--threshold=20", unit)
            self.assertEqual(code, 0, said)

    def test_units_let_threads_of_models_be_nicer_and_do_no_more(self):
        for unit in UNITS:
            text = (self.root / "lib/systemd/system" / unit).read_text()
            allowed = system_calls(line.partition("=")[2] for line in text.splitlines() if line.startswith("SystemCallFilter="))
            self.assertLessEqual({"setpriority", "getpriority", "epoll_wait", "prlimit64"}, allowed, unit)
            self.assertFalse(allowed & {"sched_setscheduler", "setrlimit", "mbind", "chroot", "setuid", "mount", "bpf"}, unit)

    def test_units_start_commands_with_what_they_take(self):
        for command in COMMANDS:
            text = (self.root / "lib/systemd/system" / f"{command}.service").read_text()
            (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
            words = start.removeprefix("ExecStart=").split()
            self.assertTrue((self.root / words[0].lstrip("/")).is_file())
            code, help_ = run(binary(command), words[1], "--help")
            self.assertEqual(code, 0)
            for word in words[2:]:
                if word.startswith("--"):
                    self.assertIn(f"{word} ", help_)
        code, said = run(binary("foregate"), "check", self.root / "etc/foregate/policies")
        self.assertEqual(code, 0, said)

    @unittest.skipIf(os.geteuid() != 0, "only root gives a process another nsswitch.conf")
    def test_static_commands_look_names_up_without_modules_of_the_machine(self):
        source = self.folder / "lookup.c"
        source.write_text(
            "#include <netdb.h>\nint main(void) { struct addrinfo *found; return getaddrinfo(\"known\", 0, 0, &found) != 0; }"
        )
        code = {}
        for name, linked in (("plain", ()), ("ours", (ROOT / "deploy/static/names.c",))):
            jail = self.folder / f"jail-{name}"
            (jail / "etc").mkdir(parents=True)
            (jail / "etc/hosts").write_text("127.0.0.1 known\n")
            (jail / "etc/nsswitch.conf").write_text("hosts: module-of-this-machine\n")
            subprocess.run(["cc", "-static", "-w", "-o", jail / "lookup", source, *linked], check=True, stderr=subprocess.DEVNULL)
            code[name], _ = run("chroot", jail, "/lookup")
        self.assertEqual(code, {"plain": 1, "ours": 0})

    @unittest.skipIf(os.geteuid() != 0, "dpkg gives files to root")
    def test_it_installs_upgrades_and_goes(self):
        there = self.folder / "installed"
        for folder in ("info", "updates"):
            (there / "var/lib/dpkg" / folder).mkdir(parents=True)
        (there / "var/lib/dpkg/status").touch()
        (there / "etc").mkdir()

        def dpkg(*words):
            options = (f"--root={there}", "--force-script-chrootless", "--force-depends", "--force-confold")
            code, said = run("dpkg", *options, f"--log={there}/dpkg.log", *words)
            self.assertEqual(code, 0, said)

        dpkg("--install", self.deb)
        users = (there / "etc/passwd").read_text()
        self.assertIn("foregate:", users)
        self.assertIn("foregate-control:", users)
        own = there / "etc/foregate/policies/gateway.yaml"
        own.write_text(own.read_text().replace("8080", "8888"))
        dpkg("--install", self.deb)
        self.assertIn("8888", own.read_text(), "an upgrade took a person's change back")
        state = there / "var/lib/foregate/quotas"
        state.parent.mkdir(exist_ok=True)
        state.touch()
        dpkg("--remove", "foregate")
        self.assertTrue(state.exists() and own.exists() and not (there / "usr/bin/foregate").exists())
        dpkg("--purge", "foregate")
        self.assertFalse(state.exists() or own.exists())

    def test_the_bill_of_materials_is_valid_and_whole(self):
        (file,) = self.out.glob("*.cdx.json")
        bill = json.loads(file.read_text())
        validator = JsonStrictValidator(SchemaVersion.V1_5)
        self.assertIsNone(validator.validate_str(file.read_text()))
        broken = {**bill, "components": [{**bill["components"][0], "type": "thing"}]}
        self.assertIsNotNone(validator.validate_str(json.dumps(broken)))
        components = {one["name"]: one for one in bill["components"]}
        for name in (*COMMANDS, "hyper", "rustls", "aws-lc-sys", "tract-onnx"):
            self.assertIn(name, components)
        self.assertNotIn("proptest", components, "what only tests use is not in the commands")
        for name, one in components.items():
            ours = name.startswith(("foregate", "libz-ng-sys"))
            self.assertEqual("hashes" in one, not ours, f"{name}: every package of a registry has its digest")
            self.assertTrue(one["licenses"][0]["expression"], name)
        self.bundled_is_listed(bill)
        known = {one["bom-ref"] for one in bill["components"]} | {"foregate"}
        for one in bill["dependencies"]:
            self.assertLessEqual({one["ref"], *one["dependsOn"]}, known)
        notices = gzip.decompress((self.root / "usr/share/doc/foregate/THIRD-PARTY.gz").read_bytes()).decode()
        for name, one in components.items():
            if "hashes" in one and one["purl"].startswith("pkg:cargo/"):
                self.assertIn(f"\n{name} {one['version']} (", notices)
        # What packages and the console have taken over from others.
        taken = {
            "Unless otherwise specified, files in the jemalloc source distribution": r"tikv-jemalloc-sys \S+ \(.*\): jemalloc",
            "Copyright (c) 2015-2020 the fiat-crypto authors": r"aws-lc-sys \S+ \(.*\): aws-lc/third_party/fiat",
            "Copyright (c) 2015-present Jason Miller": r"preact \S+ \(MIT\)",
            "Copyright (c) 2022-present Preact Team": r"@preact/signals \S+ \(MIT\)",
            "Copyright (c) 2022 Leon Sorokin": r"uplot \S+ \(MIT\)",
        }
        for text, name in taken.items():
            self.assertIn(text, notices)
            self.assertRegex(notices, rf"(?m)^{name}$")

    def bundled_is_listed(self, bill):
        """The libraries that the page of the console was bundled with, which the bundler has written down, are in it."""
        page = (ROOT / "proxy" / "console" / "dist" / "THIRD-PARTY.txt").read_text()
        bundled = set(re.findall(r"^(\S+) (\d\S*) \((\S+)\)$", page, re.M))
        self.assertGreater(len(bundled), 2)
        listed = [one for one in bill["components"] if one["purl"].startswith("pkg:npm/")]
        named = {("/".join(filter(None, (one.get("group"), one["name"]))), one["version"], one["licenses"][0]["expression"]) for one in listed}
        self.assertEqual(named, bundled)
        for one in listed:
            whole = "/".join(filter(None, (one.get("group", "").replace("@", "%40"), one["name"])))
            self.assertEqual(one["purl"], f"pkg:npm/{whole}@{one['version']}")
            self.assertEqual([hash_["alg"] for hash_ in one["hashes"]], ["SHA-512"])
        needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
        (gateway,) = (one["bom-ref"] for one in bill["components"] if one["name"] == "foregate")
        reached, todo = set(), [gateway]
        while todo:
            one = todo.pop()
            todo += set(needs[one]) - reached
            reached |= set(needs[one])
        self.assertLessEqual({one["bom-ref"] for one in listed}, reached, "they are in the command that serves them")


def system_calls(filters):
    """System calls that are allowed in the end: the first list says whether it allows or forbids, later ones add and take away."""
    allowed = set()
    for words in filters:
        calls = set().union(*(members(word) for word in words.removeprefix("~").split()))
        allowed = allowed - calls if words.startswith("~") else allowed | calls
    return allowed


def members(word):
    """The system calls of a group such as `@system-service`."""
    if not word.startswith("@"):
        return {word}
    code, said = run("systemd-analyze", "syscall-filter", "--no-pager", word)
    if code:
        raise ValueError(said)
    inside = [line.strip() for line in said.splitlines()[1:] if not line.strip().startswith("#")]
    return set().union(*(members(one) for one in inside if one))


def options(page):
    """Options of a page: the line that names each, and what is said of it."""
    section, found = "", []
    for line in page.splitlines():
        if line.startswith(".SH "):
            section = line[4:]
        elif section == "OPTIONS" and line == ".TP":
            found.append({"name": "", "help": ""})
        elif section == "OPTIONS" and found and not line.startswith("."):
            line = line.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\-", "-")
            key = "help" if found[-1]["name"] else "name"
            found[-1][key] += line
    return found


if __name__ == "__main__":
    unittest.main()
