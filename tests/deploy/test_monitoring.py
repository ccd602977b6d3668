"""Alert rules and the board: Prometheus accepts both, each alert has a firing and a silent case, and a Prometheus that
holds a recorded run answers every query of the board."""

import gzip
import importlib.util
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from monitoring import BOARD, CASES, CONFIG, FOLDER, RULES, Prometheus, panels, program_of_prometheus
from source_files import ROOT

from isentrope.exporter.quantities import QUANTITIES

RECORDED = Path(__file__).parent / "data" / "demo_run.txt.gz"
"""Every scrape of the exporter over a demo of 12 batches, as OpenMetrics with times."""

ABSENT = {
    "isentrope_learner_kl_reference_nats",
    "isentrope_actors_wanted",
    "isentrope_groups_retired_total",
    "isentrope_failed_responses_total",
}
"""Metrics that the recorded run has not: it has no reference model, was not scaled, and nothing of it failed."""


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", CONFIG), ("check", "rules", RULES), ("test", "rules", CASES)],
    ids=["config", "rules", "cases"],
)
def test_promtool_accepts_the_configuration_the_rules_and_their_cases(arguments: tuple[str, str, Path]) -> None:
    done = subprocess.run(
        [program_of_prometheus("promtool"), *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "planted"), [("alerts.yaml", "alert.yaml"), ("scrape_interval", "scrap_interval"), ("5s", "5")]
)
def test_promtool_finds_a_mistake_in_the_configuration(tmp_path: Path, given: str, planted: str) -> None:
    assert given in CONFIG.read_text()
    shutil.copy(RULES, tmp_path)
    (tmp_path / CONFIG.name).write_text(CONFIG.read_text().replace(given, planted))
    done = subprocess.run(
        [program_of_prometheus("promtool"), "check", "config", tmp_path / CONFIG.name], capture_output=True
    )
    assert done.returncode == 1


def test_the_job_is_the_one_that_alerts_ask_for_and_compose_runs() -> None:
    (job,) = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    assert set(re.findall(r'job="(\w+)"', RULES.read_text() + BOARD.read_text())) == {job["job_name"]}
    exporter = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]["exporter"]
    (port,) = [word.rpartition(":")[2] for word in exporter["command"] if word.startswith("--bind=")]
    assert job["static_configs"] == [{"targets": [f"exporter:{port}"]}]


def test_a_changed_threshold_fails_a_case(tmp_path: Path) -> None:
    """The cases are near the thresholds, or would hold of any."""
    shutil.copy(CASES, tmp_path)
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 0.85", "> 0.95"))
    done = subprocess.run(
        [program_of_prometheus("promtool"), "test", "rules", CASES.name], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 1


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert alerts and sorted(alerts) == sorted(re.findall(r'alertname="(\w+)"', CASES.read_text()))


def test_alerts_and_cases_name_metrics_of_the_exporter() -> None:
    named = set(re.findall(r"\bisentrope_\w+", RULES.read_text() + CASES.read_text()))
    assert named <= {each.name for each in QUANTITIES}


def test_the_board_is_what_its_program_makes() -> None:
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        pytest.skip("grafana-foundation-sdk is not installed: pip install -r requirements/board.txt")
    made = subprocess.run([sys.executable, FOLDER / "board.py"], capture_output=True, text=True, check=True)
    assert made.stdout == BOARD.read_text()


def test_the_board_names_metrics_of_the_exporter() -> None:
    named = set(re.findall(r"\bisentrope_\w+", BOARD.read_text()))
    assert named <= {each.name for each in QUANTITIES} and sum(len(panel.queries) for panel in panels()) > 20


def test_the_recorded_run_has_every_metric() -> None:
    """Of this version: one that is new or renamed wants another recording."""
    with gzip.open(RECORDED, "rt") as file:
        recorded = {line.partition("{")[0] for line in file if line.startswith("isentrope_")}
    assert recorded == {each.name for each in QUANTITIES} - ABSENT


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float]]:
    """A Prometheus that holds the recorded run, and the time of its last scrape."""
    program, folder = program_of_prometheus("prometheus"), tmp_path_factory.mktemp("prometheus")
    text = gzip.decompress(RECORDED.read_bytes())
    (folder / "run.txt").write_bytes(text)
    (folder / "prometheus.yml").write_text("")
    blocks = ["tsdb", "create-blocks-from", "openmetrics", "run.txt", "data"]
    subprocess.run([program_of_prometheus("promtool"), *blocks], cwd=folder, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    kept = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.retention.time=100y",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
    ]
    last = max(float(line.split()[-1]) for line in text.decode().splitlines() if line[0] != "#")
    with subprocess.Popen([program, *kept], cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            server = Prometheus(f"http://{address}")
            server.wait(process)
            yield server, last
        finally:
            process.terminate()


def test_prometheus_answers_every_query_of_the_board(prometheus: tuple[Prometheus, float]) -> None:
    server, end = prometheus
    assert server.unanswered("demo", end - 600, end) == set()
