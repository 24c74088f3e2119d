"""The driver that runs Foregate beside its peers: marks, tables, figure, what is missing, configurations."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
import xml.dom.minidom
from unittest import mock

COMPARE = pathlib.Path(__file__).resolve().parent.parent / "compare"
sys.path.insert(0, str(COMPARE))

import peers  # noqa: E402
import policies  # noqa: E402
import proxies  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
import variants  # noqa: E402

ALL = {**variants.VARIANTS, **variants.MORE}


def cell(*values, **more):
    return report.Cell([{"value": value, **more} for value in values])


class Marks(unittest.TestCase):
    def test_the_median_counts_and_not_the_mean(self):
        self.assertEqual(cell(10.0, 10.2, 10.1).median, 10.1)

    def test_rounds_that_differ_are_marked(self):
        self.assertEqual(cell(10.0, 10.5, 11.0).marks(), "")
        self.assertEqual(cell(10.0, 10.5, 12.0).marks(), "~")

    def test_a_busy_machine_is_marked(self):
        self.assertEqual(cell(10.0, 10.0, others=0.05, steal=0.0).marks(), "")
        self.assertEqual(cell(10.0, 10.0, others=0.2, steal=0.0).marks(), "!")
        self.assertEqual(cell(10.0, 10.0, others=0.0, steal=0.1).marks(), "!")
        self.assertEqual(cell(10.0, 20.0, others=0.2).marks(), "~!")

    def test_a_proxy_that_had_time_is_marked(self):
        self.assertEqual(cell(10.0, 10.0, busy=0.95).marks(), "")
        self.assertEqual(cell(10.0, 10.0, busy=0.6).marks(), "°")

    def test_one_round_is_marked(self):
        self.assertEqual(cell(10.0).marks(), "*")
        self.assertEqual(report.Cell().marks(), "")

    def test_a_ratio_has_the_marks_of_both(self):
        self.assertEqual(report.ratio(cell(10.0), cell(40.0, 41.0)), "0.25*")
        self.assertEqual(report.ratio(cell(10.0, 20.0), cell(30.0, 30.0, others=0.5)), "0.50~!")
        self.assertEqual(report.ratio(cell(10.0), report.Cell(reason="cannot")), "")


class Output(unittest.TestCase):
    def setUp(self):
        self.results = peers.Results({"foregate": "Foregate", "nginx": "nginx"})
        for value in (20.0, 21.0):
            self.results.add("saturated", "plain <HTTP>", "foregate", value=value, others=0.0)
            self.results.add("saturated", "plain <HTTP>", "nginx", value=value / 2, others=0.3)
            self.results.add("open", "plain", "foregate", value=value, p50=100.0, p99=200.0, p999=1234.0)
        self.results.add("saturated", "tokens", "foregate", value=30.0)
        self.results.cell("saturated", "tokens", "nginx").reason = "no tokens"
        self.about = {"date": "1 May 2026", "machine": "2 processors", "rounds": 2, "seconds": 2.0, "rate": 4000.0,
                      "connections": 10_000, "versions": "Foregate 1, nginx 2"}

    def test_markdown_has_a_row_for_each_work_and_says_why_a_cell_is_empty(self):
        text = report.markdown(self.results, self.about)
        self.assertIn(f"| {report.SATURATED} | Foregate | nginx | to nginx |\n|---|---|---|---|\n", text)
        self.assertIn("| plain <HTTP> | 20.5 | 10.2! | 2.00! |\n", text)
        self.assertIn("| tokens | 30.0* | – |  |\n", text)
        self.assertIn("- nginx: no tokens (tokens)", text)
        self.assertIn("| plain | 100 / 200 / 1,234 | – |\n", text)
        for fact in ("1 May 2026", "2 processors", "nginx 2"):
            self.assertIn(fact, text)

    def test_markdown_says_how_it_was_made_and_what_was_not_there(self):
        text = report.markdown(self.results, {**self.about, "command": "benches/compare/peers.py --rounds 2", "whole": True,
                                              "profiles": {"Foregate": "release", "bare hyper": ""}, "missing": ["Envoy", "HAProxy"]})
        self.assertIn("`benches/compare/peers.py --rounds 2`; Foregate of profile release, bare hyper of profile unknown.\n", text)
        self.assertIn("Not there, and so not measured: Envoy, HAProxy.\n", text)
        self.assertNotIn("broken off", text)
        self.assertIn("broken off", report.markdown(self.results, {**self.about, "whole": False}))

    def test_the_command_has_no_paths(self):
        words = ["--foregate", "/root/target/dist/foregate", "--out=/tmp/some/x", "--rounds", "2"]
        self.assertEqual(peers.command(words), "benches/compare/peers.py --foregate foregate --out=x --rounds 2")

    def test_json_keeps_every_round(self):
        data = json.loads(json.dumps(self.results.as_json()))
        self.assertEqual(len(data["saturated"]["plain <HTTP>"]["nginx"]["rounds"]), 2)
        self.assertEqual(data["saturated"]["plain <HTTP>"]["nginx"]["marks"], "!")
        self.assertEqual(data["saturated"]["tokens"]["nginx"], {"reason": "no tokens"})

    def test_the_figure_is_well_formed_and_has_a_bar_for_each_number(self):
        figure = report.svg(self.results.rows("saturated"), self.results.proxies, "less <is> better", "today")
        bars = xml.dom.minidom.parseString(figure).getElementsByTagName("rect")
        self.assertEqual(len(bars), 3)
        widths = [float(bar.getAttribute("width")) for bar in bars]
        self.assertAlmostEqual(widths[0], 2 * widths[1], places=0)

    def test_a_document_gets_the_tables_between_its_marks(self):
        text = "before\n<!-- peers -->\nold\n<!-- /peers -->\nafter\n"
        self.assertEqual(report.placed(text, "peers", "new\n"), "before\n<!-- peers -->\nnew\n<!-- /peers -->\nafter\n")
        with self.assertRaises(ValueError):
            report.placed("nothing", "peers", "new")

    def test_the_readme_has_the_marks(self):
        readme = (COMPARE.parent / "README.md").read_text()
        self.assertIn("new", report.placed(readme, "peers", "new"))


class Missing(unittest.TestCase):
    def test_each_peer_says_how_to_install_it(self):
        for kind in proxies.ALL:
            line = kind(pathlib.Path("/nowhere/it")).missing()
            self.assertIn("is missing", line)
            self.assertIn("/nowhere/it", line)
            self.assertRegex(line, "apt-get install|pip install|cargo build")

    def test_the_rest_runs_without_it(self):
        args = types.SimpleNamespace(proxies="foregate,envoy", foregate=pathlib.Path("/nowhere/foregate"), foregate_words="", benches=None)
        with mock.patch.object(proxies.Envoy, "find", return_value=pathlib.Path(sys.executable)):
            found, missing = peers.chosen_of(args)
        self.assertEqual([one.name for one in found], ["envoy"])
        self.assertEqual(len(missing), 1)
        self.assertIn("--foregate", missing[0].missing())

    def test_a_wrong_name_is_refused_with_the_right_ones(self):
        with self.assertRaises(SystemExit) as refused:
            peers.named("plain,plian", ALL, "--variants")
        self.assertIn("`plian` is none of plain, tls", str(refused.exception))

    def test_no_load_is_told_and_not_a_trace(self):
        done = subprocess.run([sys.executable, "-B", COMPARE / "peers.py", "--benches", "/nowhere/benches", "--proxies", "hyper"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cargo build", done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class Publishing(unittest.TestCase):
    """What was published stays until there is something whole in its place."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out"
        self.before = {"README.md": "a\n<!-- peers -->\nold\n<!-- /peers -->\n", "peers.svg": "old", "peers.json": "old"}
        for name, text in self.before.items():
            (self.folder / name).write_text(text)
        self.results = peers.Results({"foregate": "Foregate", "nginx": "nginx"})
        self.about = {"date": "1 May 2026", "machine": "2 processors", "rounds": 1, "seconds": 2.0, "rate": 4000.0,
                      "connections": 100, "versions": "", "whole": False}
        args = types.SimpleNamespace(publish=True, out=self.out, rounds=1, connections=100)
        self.run_of = types.SimpleNamespace(args=args, connections=0, serving=lambda spin: contextlib.nullcontext())
        self.chosen = [proxies.Foregate(pathlib.Path(sys.executable)), proxies.Nginx(pathlib.Path("/nowhere/nginx"))]

    def published(self):
        return {name: (self.folder / name).read_text() for name in self.before}

    def conduct(self, measure):
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with mock.patch.object(peers, "PUBLISHED", self.folder), mock.patch.object(peers, "measure", measure), quiet[0], quiet[1]:
            peers.conduct(self.run_of, self.results, self.about, self.chosen, (), {})

    def measure(self, *_):
        for proxy in ("foregate", "nginx"):
            self.results.add("size", "text and data", proxy, value=1.0)

    def test_a_whole_run_is_published(self):
        self.conduct(self.measure)
        now = self.published()
        self.assertIn("| text and data | 1.00* | 1.00* |", now["README.md"])
        self.assertNotIn("broken off", now["README.md"])
        self.assertEqual(now["peers.json"], (self.out / "results.json").read_text())
        self.assertEqual(now["peers.svg"], (self.out / "results.svg").read_text())

    def test_a_run_that_is_broken_off_is_kept_and_not_published(self):
        for fault in (KeyboardInterrupt(), SystemExit("origin ended")):
            def broken(*words, fault=fault):
                self.measure(*words)
                raise fault

            with self.subTest(fault), self.assertRaises(type(fault)):
                self.conduct(broken)
            self.assertEqual(self.published(), self.before)
            self.assertIn("broken off", (self.out / "results.md").read_text())

    def test_a_run_in_which_a_peer_failed_is_kept_and_not_published(self):
        def failing(*words):
            self.measure(*words)
            self.results.fail("start", "plain", "nginx", "does not listen")

        with self.assertRaises(SystemExit) as refused:
            self.conduct(failing)
        self.assertIn("start plain nginx", str(refused.exception))
        self.assertEqual(self.published(), self.before)
        self.assertIn("- nginx: failed: does not listen (plain)", (self.out / "results.md").read_text())

    def test_a_peer_that_does_not_start_leaves_the_others_measured(self):
        @contextlib.contextmanager
        def started(proxy, variant):
            if proxy.name == "nginx":
                sys.exit("nginx ended with 1")
            yield [], 9000, 0.01

        self.run_of.started = started
        self.run_of.load = lambda *_: contextlib.nullcontext(types.SimpleNamespace(warm={"requests": 100}))
        none = mock.patch.object(peers, "settled", return_value=1024), mock.patch.object(peers, "resident", return_value=1024)
        with none[0], none[1], mock.patch.object(peers.time, "sleep"), contextlib.redirect_stderr(io.StringIO()):
            peers.idle(self.run_of, self.results, self.chosen)
            peers.start(self.run_of, self.results, self.chosen)
        for mode in ("idle", "start", "resident"):
            cells = dict(self.results.rows(mode))[variants.VARIANTS["plain"].title if mode == "idle" else "plain"]
            self.assertTrue(cells["foregate"].rounds, mode)
            self.assertEqual((cells["nginx"].rounds, cells["nginx"].reason), ([], "failed: nginx ended with 1"), mode)


class Measuring(unittest.TestCase):
    def test_answers_that_are_no_success_are_faults(self):
        self.assertEqual(peers.faults({"status": {"200": 5}, "errors": {}}), "")
        self.assertIn("503", peers.faults({"status": {"200": 5, "503": 1}, "errors": {}}))
        self.assertIn("connect", peers.faults({"status": {}, "errors": {"connect": 2}}))

    def test_processor_time_and_memory_of_children_count(self):
        work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(3_000_000)); print(); input()'])"
        with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            self.assertEqual(len(rig.tree(process.pid)), 2)
            self.assertGreater(rig.spent(process), 10_000_000)
            self.assertGreater(rig.resident(process), 4_000)
            process.communicate(b"\n")

    def test_a_program_has_the_size_that_is_loaded(self):
        program = pathlib.Path(sys.executable).resolve()
        self.assertTrue(500 < peers.loaded(program) <= program.stat().st_size * 2)
        with self.assertRaises(ValueError):
            peers.loaded(COMPARE / "peers.py")


class Configurations(unittest.TestCase):
    """Each variant, for each proxy that can do it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        materials = self.folder / "materials"
        materials.mkdir()
        for name in ("server.crt", "server.key", "ca.crt", "client.crt", "client.key", "jwks.json"):
            (materials / name).write_text("")
        origin = {"plain": 1001, "mutual": 1002, "h2c": 1003, "grpc": 1004}
        self.run_of = types.SimpleNamespace(folder=self.folder, materials=materials, origin=origin, benches="benches", connections=0)

    def test_every_proxy_has_a_command_or_a_reason(self):
        for kind in proxies.ALL:
            proxy = kind(pathlib.Path("/nowhere/it"))
            for name, variant in ALL.items():
                with self.subTest(proxy=proxy.name, variant=name):
                    if reason := proxy.cannot(variant):
                        self.assertGreater(len(reason), 5)
                    else:
                        commands = proxy.commands(variant, 9000, self.run_of)
                        self.assertEqual(commands[-1][1], 9000)

    def test_what_a_variant_asks_for_is_configured(self):
        for name, variant in ALL.items():
            with self.subTest(name):
                ours = policies.text(variant, 1001)
                envoy = json.dumps(proxies.envoy(variant, 9000, self.run_of, 9001 if variant.model else None))
                for asked, mine, theirs in (
                    (variant.jwt, "jwt:", "jwt_authn"), (variant.limit, "rateLimit:", "local_ratelimit"), (variant.model, "enrich:", "ext_proc"),
                ):
                    self.assertEqual(bool(asked), mine in ours)
                    self.assertEqual(bool(asked), theirs in envoy)
                self.assertEqual(variant.tls == "mutual", "require_client_certificate" in envoy)
                self.assertEqual(variant.tls == "mutual", "caCertificateRefs" in ours)
                self.assertEqual(variant.cached, "jwt_cache_size" in envoy)

    def test_words_of_the_load_follow_the_variant(self):
        words = variants.words(variants.VARIANTS["jwt_es256"], pathlib.Path("m"))
        self.assertIn(pathlib.Path("m/es256.once"), words)
        self.assertIn("--once", words)
        words = variants.words(variants.VARIANTS["mtls_h2"], pathlib.Path("m"))
        self.assertTrue({"--mutual", "--http2", "--tls"} <= set(words))

    def test_the_list_names_all(self):
        with mock.patch.object(sys, "argv", ["peers.py", "--list"]), contextlib.redirect_stdout(io.StringIO()) as out:
            peers.main()
        for name in ALL:
            self.assertIn(name, out.getvalue())


if __name__ == "__main__":
    unittest.main()
