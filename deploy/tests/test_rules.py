"""Recording rules and alerts, looked at and tried by Prometheus' own tool."""

import pathlib
import re
import tempfile
import unittest

import yaml

from support import DEPLOY, debian, run

FOLDER = DEPLOY / "prometheus"
FILES = [str(FOLDER / "recording.yaml"), str(FOLDER / "alerts.yaml")]
TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
RULES = [rule for file in FILES for group in yaml.safe_load(pathlib.Path(file).read_text())["groups"] for rule in group["rules"]]


def series(expression):
    """Names of the series that are read, without those that are recorded."""
    without_labels = re.sub(r"\b(?:by|on) \([^)]*\)|\{[^}]*\}", "", expression)
    return re.findall(r"(?<![:\w])((?:foregate|http_server|http_client)_[a-z_]+|up)(?![:\w])", without_labels)


def labels(alert):
    return f'{{alertname="{alert["alert"]}",severity="{alert["labels"]["severity"]}"}}'


def tried():
    """Name, alerts that fire at some moment, alerts that fire at the last one."""
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            moments = [{one["labels"] for one in moment["exp_samples"]} for moment in test["promql_expr_test"]]
            yield test["name"], set.union(*moments), moments[-1]


class Rules(unittest.TestCase):
    def test_they_are_well_formed(self):
        code, said = run(debian("promtool"), "check", "rules", "--lint-fatal", *FILES)
        self.assertEqual(code, 0, said)

    def test_alerts_fire_and_clear_and_leave_a_healthy_gateway_alone(self):
        code, said = run(debian("promtool"), "test", "rules", *map(str, TESTS))
        self.assertEqual(code, 0, said)

    def test_every_alert_is_tried(self):
        every = {labels(rule) for rule in RULES if "alert" in rule}
        fired = set().union(*(fires for name, fires, _ in tried()))
        cleared = set().union(*(fires - last for _, fires, last in tried()))
        self.assertEqual((every - fired, every - cleared), (set(), set()))

    def test_the_healthy_gateway_has_all_that_is_looked_at(self):
        looked_at = {name for rule in RULES if "alert" in rule for name in series(rule["expr"])}
        looked_at |= {name for rule in RULES if "job" in rule.get("record", "") for name in series(rule["expr"]) if not name.endswith("_bucket")}
        text = (FOLDER / "tests" / "healthy.yaml").read_text()
        there = {one.split("{")[0] for one in re.findall(r"series: '([^']+)'", text)}
        # Of dashboards alone.
        self.assertEqual(looked_at - there, {"foregate_refusals_total"})

    def test_a_rule_that_does_not_fire_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder)
            (copy / "tests").mkdir()
            for file in FILES:
                text = pathlib.Path(file).read_text().replace("foregate_config_rejected == 1", "foregate_config_rejected == 2")
                (copy / pathlib.Path(file).name).write_text(text)
            test = copy / "tests" / "configuration.yaml"
            test.write_text((FOLDER / "tests" / "configuration.yaml").read_text())
            code, said = run(debian("promtool"), "test", "rules", str(test))
            self.assertNotEqual(code, 0)
            self.assertIn("ForegateConfigurationRefused", said)


if __name__ == "__main__":
    unittest.main()
