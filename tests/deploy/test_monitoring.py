"""Alert rules: promtool accepts them, runs a firing and a silent case of each, and they name metrics that exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from source_files import ROOT

from isentrope.exporter.quantities import QUANTITIES

FOLDER = ROOT / "deploy" / "monitoring"
RULES, CASES = FOLDER / "alerts.yaml", FOLDER / "alerts_test.yaml"


def _promtool() -> str:
    """Return the program, by PATH or by ISENTROPE_PROMTOOL; Debian's package prometheus has it."""
    found = os.environ.get("ISENTROPE_PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not here: put it on PATH, or set ISENTROPE_PROMTOOL")
    return found


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", CASES)], ids=["check", "test"])
def test_promtool_accepts_the_rules_and_their_cases(arguments: tuple[str, str, Path]) -> None:
    done = subprocess.run([_promtool(), *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_threshold_fails_a_case(tmp_path: Path) -> None:
    """The cases are near the thresholds, or would hold of any."""
    shutil.copy(CASES, tmp_path)
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 0.85", "> 0.95"))
    done = subprocess.run([_promtool(), "test", "rules", CASES.name], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert alerts and sorted(alerts) == sorted(re.findall(r'alertname="(\w+)"', CASES.read_text()))


def test_alerts_and_cases_name_metrics_of_the_exporter() -> None:
    named = set(re.findall(r"\bisentrope_\w+", RULES.read_text() + CASES.read_text()))
    assert named <= {each.name for each in QUANTITIES}
