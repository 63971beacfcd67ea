"""The Prometheus configuration is valid, its alerts fire when they should, and nothing in it names
a metric, label or bucket edge that the daemon does not have, or a section that is not there."""

import pathlib
import subprocess
import sys
import unittest

import yaml
from deploy_harness import DEPLOY, ROOT, Daemon, samples, selectors

HERE = pathlib.Path(__file__).resolve().parent
RULES = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]


def rules():
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"]
            for rule in group["rules"]]


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


class RulesTest(unittest.TestCase):
    def test_configuration_is_valid(self):
        promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
        promtool("check", "rules", *RULES)

    def test_alerts_fire_when_they_should_and_not_before(self):
        promtool("test", "rules", HERE / "alerts_test.yml")

    def test_every_alert_has_a_case_that_fires_it(self):
        cases = yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]
        fired = {check["alertname"] for case in cases for check in case["alert_rule_test"]
                 if check["exp_alerts"]}
        self.assertEqual(fired, {rule["alert"] for rule in rules() if "alert" in rule})

    def test_every_alert_has_a_runbook_section(self):
        page = (ROOT / "docs/operations.md").read_text()
        sections = [line[4:] for line in page.splitlines() if line.startswith("### ")]
        for rule in rules():
            if "alert" in rule:
                self.assertEqual(rule["annotations"]["runbook"],
                                 f"docs/operations.md#{rule['alert'].lower()}")
                self.assertIn(rule["alert"], sections)

    def test_every_selector_matches_what_the_daemon_exports(self):
        with Daemon() as daemon:
            exported = samples(daemon)
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        for rule in rules():
            for name, labels in selectors(rule["expr"]):
                if name in recorded:
                    continue
                labels.pop("job", None)
                self.assertTrue(
                    any(name == n and labels.items() <= l.items() for n, l in exported),
                    f"{name} {labels} in {rule.get('alert') or rule.get('record')}")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
