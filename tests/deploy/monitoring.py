"""The files of `deploy/monitoring`, and a Prometheus that is asked by them."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest
from deploy_files import DEPLOY
from waits import wait_until

FOLDER = DEPLOY / "monitoring"
CONFIG, RULES, CASES = FOLDER / "prometheus.yaml", FOLDER / "alerts.yaml", FOLDER / "alerts_test.yaml"

BOARD = FOLDER / "board.json"

STEP_S = 2
"""Time between two points of an answer."""

WINDOW = "20s"
"""What Grafana puts for `$__rate_interval`: four scrapes of `prometheus.yaml`."""


def program_of_prometheus(name: str) -> str:
    """Return promtool or prometheus, of PATH or of the folder ISENTROPE_PROMETHEUS; Debian's package has both."""
    found = shutil.which(name, path=os.environ.get("ISENTROPE_PROMETHEUS")) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not here: put it on PATH, or set ISENTROPE_PROMETHEUS to its folder")
    return found


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the board: its queries by legend."""

    title: str
    queries: dict[str, str]


def panels() -> list[Panel]:
    """Return the board's panels, without the titles of its rows."""
    found = [panel for panel in json.loads(BOARD.read_text())["panels"] if "targets" in panel]
    return [
        Panel(panel["title"], {target["legendFormat"]: target["expr"] for target in panel["targets"]})
        for panel in found
    ]


@dataclass(frozen=True, slots=True)
class Series:
    """One curve of an answer. labels: what tells it from others of the query."""

    labels: dict[str, str]
    times: list[float] = field(repr=False)
    values: list[float] = field(repr=False)

    def named(self, legend: str) -> str:
        """Return its legend, as Grafana makes it."""
        return re.sub(r"{{(\w+)}}", lambda found: self.labels.get(found[1], ""), legend)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server at an URL."""

    url: str

    def wait(self, process: "subprocess.Popen[bytes] | None" = None) -> None:
        """Wait until it answers, or its process has ended."""
        wait_until(lambda: (process is not None and process.poll() is not None) or self._is_ready(), "Prometheus")

    def ask(self, query: str, run: str, start: float, end: float) -> list[Series]:
        """Return what it knows of a run between two times, in seconds of Unix time, by a query of the board."""
        asked = query.replace("$__rate_interval", WINDOW).replace("$run", run)
        found = self._get("query_range", query=asked, start=start, end=end, step=STEP_S)["result"]
        return [
            Series(each["metric"], *([float(point[part]) for point in each["values"]] for part in (0, 1)))
            for each in found
        ]

    def unanswered(self, run: str, start: float, end: float) -> set[str]:
        """Return the queries of the board, by panel and legend, of which it knows nothing."""
        return {
            f"{panel.title}: {legend}"
            for panel in panels()
            for legend, query in panel.queries.items()
            if not self.ask(query, run, start, end)
        }

    def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        return {each["labels"]["alertname"] for each in self._get("alerts")["alerts"] if each["state"] == "firing"}

    def _get(self, name: str, **facts: object) -> dict[str, Any]:
        query = f"?{urllib.parse.urlencode(facts)}" if facts else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{name}{query}") as reply:
            return dict(json.load(reply)["data"])

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready"):
                return True
        except (urllib.error.URLError, OSError):
            return False
