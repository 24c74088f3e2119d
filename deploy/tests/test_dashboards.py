"""Dashboards are what the code makes of them, of one form, and lead to runbooks that help; Grafana is told where they are."""

import itertools
import json
import pathlib
import re
import sys
import tempfile
import unittest

import yaml

from support import CASES, DEPLOY, binary, debian, find, rendered, run

GRAFANA = DEPLOY / "grafana"
sys.path.insert(0, str(GRAFANA))

import panels  # noqa: E402
import render as made  # noqa: E402

RUNBOOKS = {path.stem: path.read_text() for path in (GRAFANA / "runbooks").glob("*.md")}
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
SECTIONS = ["Who is hurt", "Look at", "Likely causes", "Mend", "It is over when"]
# Of Grafana, those that are used here.
UNITS = {"s", "percent", "percentunit", "reqps", "bytes", "Bps", "none"}
# Sums of what a gateway has both of, or neither.
TOGETHER = {"Tokens known"}


def models():
    return {path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}


def each(model):
    return [panel for panel in model["panels"] if panel["type"] != "row"]


class Dashboards(unittest.TestCase):
    def test_they_are_fresh(self):
        committed = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
        self.assertEqual(committed, made.dashboards(), "run `python deploy/grafana/render.py`")

    def test_runbooks_can_be_elsewhere(self):
        text = made.dashboards("https://wiki.example.com/runbooks")["fleet.json"]
        self.assertNotIn(panels.RUNBOOKS, text)
        self.assertIn('"query": "https://wiki.example.com/runbooks"', text)

    def test_panels_lie_side_by_side(self):
        for name, model in models().items():
            taken = {}
            for panel in model["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertIsNone(taken.setdefault((x, y), None), f"{name}: {panel['title']} lies over {taken[x, y]}")
                        taken[x, y] = panel["title"]
            ids = [panel["id"] for panel in model["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)

    def test_the_first_row_says_whether_it_is_well_then_where_then_why(self):
        for name, model in models().items():
            rows = [panel["title"] for panel in model["panels"] if panel["type"] == "row"]
            self.assertEqual(rows[:2], ["Is it well?", "Where?"], name)
            self.assertTrue(rows[2:], name)
            self.assertTrue(all(row.startswith("Why") for row in rows[2:]), name)
            top = [panel for panel in model["panels"] if panel["gridPos"]["y"] == 1]
            self.assertEqual({panel["type"] for panel in top}, {"stat"}, name)
            self.assertEqual(sum(panel["gridPos"]["w"] for panel in top), 24, name)

    def test_every_panel_says_what_it_shows_and_in_which_unit(self):
        for name, model in models().items():
            titles = [panel["title"] for panel in each(model)]
            self.assertEqual(len(titles), len(set(titles)), name)
            for panel in each(model):
                self.assertRegex(panel["description"], r"^[A-Z`].{10,}[.]$", panel["title"])
                self.assertIn(panel["fieldConfig"]["defaults"]["unit"], UNITS, panel["title"])
                self.assertTrue(panel["targets"], panel["title"])
                for target in panel["targets"]:
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    self.assertNotRegex(target["expr"], r"\[[0-9]", "ranges follow the time that is looked at")
                values = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
                self.assertEqual(values, [None, *sorted(values[1:])], panel["title"])

    def test_every_metric_of_the_gateway_is_shown(self):
        listed = re.findall(r"^\| `((?:foregate|http|process)_[a-z0-9_]+)` \|", (DEPLOY.parent / "proxy" / "METRICS.md").read_text(), re.M)
        self.assertGreater(len(listed), 100)
        shown = " ".join(target["expr"] for model in models().values() for panel in each(model) for target in panel["targets"])
        self.assertEqual([name for name in listed if name not in shown], [])

    def test_variables_that_are_used_are_there(self):
        for name, model in models().items():
            there = {variable["name"] for variable in model["templating"]["list"]}
            self.assertEqual(there, {"datasource", "job", "instance", "route", "runbooks"})
            for panel in each(model):
                used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(panel)))
                self.assertLessEqual(used, there | {"__rate_interval"}, panel["title"])

    def test_colours_of_states_say_what_their_words_do(self):
        good, bad = {"connected", "granted", "in use"}, {"lost", "nothing", "left out"}
        shown = set()
        for model in models().values():
            for panel in each(model):
                if panel["type"] != "state-timeline":
                    continue
                for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
                    for state in mapping["options"].values():
                        self.assertIn(state["text"], good | bad, panel["title"])
                        self.assertEqual(state["color"], "green" if state["text"] in good else "red", panel["title"])
                        shown.add(state["text"])
        self.assertEqual(shown, good | bad)

    def test_sums_are_counted_where_not_all_of_them_are_there(self):
        tests, found = [], set()
        for panel in (panel for model in models().values() for panel in each(model)):
            for target in panel["targets"]:
                if " + " not in target["expr"] or panel["title"] in TOGETHER:
                    continue
                expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
                found.add(panel["title"])
                names = re.findall(r"rate\(([a-z_]+)", expression)
                self.assertGreater(len(names), 1)
                for present in itertools.chain.from_iterable(itertools.combinations(names, count) for count in range(len(names) + 1)):
                    series = [{"series": f'{name}{{job="edge",instance="a:9090"}}', "values": "0+60x20"} for name in present]
                    sample = {"labels": "{}", "value": len(present)}
                    tests.append({"interval": "1m", "input_series": series, "promql_expr_test": [{"expr": expression, "eval_time": "10m", "exp_samples": [sample]}]})
        self.assertLessEqual({"Load shed", "Not told of"}, found)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "sums.yaml"
            file.write_text(yaml.safe_dump({"tests": tests}))
            code, said = run(debian("promtool"), "test", "rules", str(file))
        self.assertEqual(code, 0, said)

    def test_latencies_have_exemplars(self):
        for panel in each(models()["traffic"]):
            if "http_server_request_duration_seconds_bucket" in str(panel["targets"]):
                self.assertTrue(all(target["exemplar"] for target in panel["targets"]), panel["title"])

    def test_each_leads_to_all_others(self):
        found = models()
        self.assertEqual(set(found), set(panels.TITLES))
        for name, model in found.items():
            self.assertEqual(model["uid"], f"foregate-{name}")
            targets = {link["url"].removeprefix("/d/foregate-") for link in model["links"]}
            self.assertEqual(targets, set(found) - {name})

    def test_links_to_runbooks_lead_somewhere(self):
        linked = set()
        for model in models().values():
            for link in (link for panel in each(model) for link in panel["links"]):
                linked.add(link["url"].removeprefix("${runbooks}/").removesuffix(".md"))
        self.assertLessEqual(linked, set(RUNBOOKS))
        # Nobody looks at a panel for these.
        self.assertEqual(set(RUNBOOKS) - linked, {"ForegateGatewayDown", "ForegateRevisionsDiffer", "ForegateObjectsStuck", "ForegateKeysMissing", "ForegateDecisionLogDrops"})


class Runbooks(unittest.TestCase):
    def test_each_alert_has_one_and_says_what_happens_where(self):
        self.assertEqual({alert["alert"] for alert in ALERTS}, set(RUNBOOKS))
        for alert in ALERTS:
            name, said = alert["alert"], alert["annotations"]
            self.assertEqual(set(said), {"summary", "description", "runbook_url"}, name)
            self.assertEqual(said["runbook_url"], f"deploy/grafana/runbooks/{name}.md")
            self.assertIn(alert["labels"]["severity"], ("critical", "warning"), name)
            self.assertNotRegex(said["summary"], r"[{.]", name)
            self.assertRegex(said["description"], r"\{\{ \$labels[.]", name)

    def test_each_says_what_it_means_and_how_to_know_that_it_is_over(self):
        for name, text in RUNBOOKS.items():
            self.assertTrue(text.startswith(f"# {name}\n\n"), name)
            parts = re.split(r"^## (.+)\n", text, flags=re.M)
            self.assertEqual(parts[1::2], SECTIONS, name)
            self.assertTrue(all(len(part.strip()) > 15 for part in parts[::2]), name)

    def test_panels_that_they_name_are_there(self):
        there = {f"{panels.TITLES[name]} / {panel['title']}" for name, model in models().items() for panel in each(model)}
        named = 0
        for name, text in RUNBOOKS.items():
            for panel in re.findall(r"panel \*([^*]+)\*", " ".join(text.split())):
                self.assertIn(panel, there, name)
                named += 1
        self.assertGreater(named, len(RUNBOOKS))

    def test_alerts_and_panels_that_the_book_names_are_there(self):
        there = {f"{panels.TITLES[name]} / {panel['title']}" for name, model in models().items() for panel in each(model)}
        text = " ".join((DEPLOY.parent / "docs" / "src" / "operate" / "trouble.md").read_text().split())
        named = set(re.findall(r"`(Foregate[A-Za-z]+)`", text)), set(re.findall(r"[*]([^*]+ / [^*]+)[*]", text))
        self.assertTrue(all(named))
        self.assertLessEqual(named[0], set(RUNBOOKS))
        self.assertLessEqual(named[1], there)

    def test_commands_reasons_and_alerts_that_they_name_are_there(self):
        known = {program: run(binary(program), "--help")[1] for program in ("foregate", "foregate-control")}
        reasons = (DEPLOY.parent / "filters" / "src" / "reason.rs").read_text()
        for name, text in RUNBOOKS.items():
            for program, word in re.findall(r"`(foregate|foregate-control) ([a-z]+)", text):
                self.assertRegex(known[program], rf"(?m)^  {word} ", f"{name}: {program} {word}")
            for word in re.findall(r"(?:50[03]|401) `([A-Z][A-Za-z]+)`", text):
                self.assertIn(f" {word} = ", reasons, name)
            for other in re.findall(r"\bForegate[A-Z][A-Za-z]+", text):
                self.assertIn(other, RUNBOOKS, name)


class Provisioning(unittest.TestCase):
    def test_grafana_finds_prometheus_and_the_dashboards(self):
        compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
        mounts = {target: (DEPLOY / "compose" / source).resolve() for source, target, *_ in (volume.split(":") for volume in compose["grafana"]["volumes"])}
        self.assertEqual(mounts["/etc/grafana/provisioning"], GRAFANA / "provisioning")
        (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "foregate.yaml").read_text())["providers"]
        self.assertEqual(mounts[provider["options"]["path"]], GRAFANA / "dashboards")
        self.assertEqual(mounts["/usr/share/grafana" + panels.RUNBOOKS], GRAFANA / "runbooks")
        home = pathlib.PurePath(compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        self.assertTrue((mounts[str(home.parent)] / home.name).exists())
        (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "foregate.yaml").read_text())["datasources"]
        self.assertIn(re.fullmatch(r"http://([a-z]+):9090", source["url"]).group(1), compose)

    def test_prometheus_finds_the_rules_and_keeps_exemplars(self):
        compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["prometheus"]
        config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
        (pattern,) = config["rule_files"]
        mounted = {volume.split(":")[0] for volume in compose["volumes"] if volume.split(":")[1].startswith(pattern.removesuffix("*.yaml"))}
        self.assertEqual(mounted, {"../prometheus/recording.yaml", "../prometheus/alerts.yaml"})
        self.assertIn("--enable-feature=exemplar-storage", compose["command"])


class Chart(unittest.TestCase):
    CASE = "both, and everything said"

    def test_the_operator_gets_the_rules_and_their_runbooks(self):
        for case, runbooks in (("both", "deploy/grafana/runbooks"), (self.CASE, "https://wiki.example.com/foregate")):
            rule = find(rendered(case), "PrometheusRule")
            written = [group for file in ("recording", "alerts") for group in yaml.safe_load((DEPLOY / "prometheus" / f"{file}.yaml").read_text())["groups"]]
            self.assertEqual(rule["spec"]["groups"], yaml.safe_load(yaml.safe_dump(written).replace("deploy/grafana/runbooks", runbooks)))
        self.assertEqual(find(rendered("both"), "PrometheusRule")["metadata"]["labels"]["release"], "prometheus")

    def test_grafana_gets_the_dashboards(self):
        maps = [one for one in rendered(self.CASE) if "-dashboard-" in one["metadata"]["name"]]
        found = {}
        for one in maps:
            self.assertEqual(one["metadata"]["labels"]["grafana"], "main")
            found.update({file.removeprefix("foregate-"): text for file, text in one["data"].items()})
        self.assertEqual(found, made.dashboards("https://wiki.example.com/foregate"))

    def test_nothing_of_it_comes_unasked(self):
        for case in set(CASES) - {"both", self.CASE}:
            kinds = [(one["kind"], one["metadata"]["name"]) for one in rendered(case)]
            self.assertFalse([one for one in kinds if one[0] == "PrometheusRule" or "-dashboard-" in one[1]], case)


if __name__ == "__main__":
    unittest.main()
