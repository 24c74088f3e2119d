"""Workflows: valid, pinned, and with no more rights than their jobs need."""

import pathlib
import re
import tempfile
import unittest

import yaml

from support import ROOT, program, run

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.y*ml"))


def lint(*files):
    return run(program("zizmor"), "--offline", "--no-progress", "--persona", "auditor", "--color", "never", *map(str, files))


def valid(*files):
    return run(program("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, files))


class Workflows(unittest.TestCase):
    def jobs(self):
        for file in FILES:
            for name, job in yaml.safe_load(file.read_text())["jobs"].items():
                yield f"{file.name}: {name}", job

    def test_they_are_there_and_valid(self):
        self.assertEqual([file.stem for file in FILES], ["image", "release", "test"])
        code, said = valid(*FILES)
        self.assertEqual(code, 0, said)

    def test_the_linter_finds_nothing(self):
        code, said = lint(*FILES)
        self.assertEqual(code, 0, said)
        self.assertIn("No findings", said)

    def test_what_is_wrong_would_be_found(self):
        text = (FOLDER / "test.yaml").read_text()
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "test.yaml"
            file.write_text(text.replace("runs-on:", "run-on:"))
            self.assertNotEqual(valid(file)[0], 0)
            file.write_text(re.sub(r"@[0-9a-f]{40}", "@v5", text).replace("bash .ci/run", "echo ${{ github.head_ref }}"))
            code, said = lint(file)
            self.assertNotEqual(code, 0)
            for finding in ("unpinned-uses", "template-injection"):
                self.assertIn(finding, said)

    def test_actions_of_others_are_pinned_by_commit_and_tell_their_version(self):
        for file in FILES:
            for line in file.read_text().splitlines():
                if "uses:" in line:
                    self.assertRegex(line, r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", file.name)

    def test_rights_are_given_job_by_job_and_time_is_bounded(self):
        for file in FILES:
            self.assertEqual(yaml.safe_load(file.read_text())["permissions"], {}, file.name)
        for name, job in self.jobs():
            self.assertLessEqual(job["timeout-minutes"], 120, name)
            rights = job["permissions"]
            if any(right == "write" for right in rights.values()):
                # What changes tells others is never a change that has not been taken.
                self.assertIn(name.split(":")[0], ("image.yaml", "release.yaml"))
                guarded = job.get("if") == "github.event_name == 'push'" or "needs" in job
                self.assertTrue(guarded, name)

    def test_scripts_that_they_run_are_there(self):
        ran = set()
        for name, job in self.jobs():
            for step in job["steps"]:
                scripts = re.findall(r"bash (\.ci/\w+)", step.get("run", ""))
                for script in scripts:
                    self.assertTrue((ROOT / script).is_file(), name)
                ran |= set(scripts)
        self.assertEqual(ran, {".ci/run", ".ci/image", ".ci/release"})


if __name__ == "__main__":
    unittest.main()
