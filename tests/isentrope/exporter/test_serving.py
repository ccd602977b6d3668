"""The command: what it refuses at once, what it serves, and how it ends."""

import io
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console
from run_records import make_run_record
from wire_records import ASYNC, make_spec

from isentrope.errors import ConfigError, RunFolderError
from isentrope.exporter.serving import offered
from isentrope.learner import json_files
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.run_place import RunPlace

BIND = "127.0.0.1:0"


def served(place: RunPlace, bind: str = BIND) -> str:
    with offered(place, bind, Console(file=io.StringIO())) as url, urllib.request.urlopen(url) as reply:
        return str(reply.read().decode())


def test_metrics_are_served_over_http_by_name_or_folder(
    redis_server: str, run_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker.connect(redis_server, run_name)
    LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    broker.close()
    monkeypatch.setenv("ISENTROPE_REDIS_URL", redis_server)
    json_files.write(tmp_path, make_run_record(run=run_name, url_env="ISENTROPE_REDIS_URL"))
    for place in (RunPlace(Path(), name=run_name), RunPlace(tmp_path)):
        text = served(place)
        assert f'isentrope_up{{run="{run_name}"}} 1.0' in text
        assert "# HELP isentrope_orders" in text and "process_cpu" not in text


def test_a_broker_that_is_away_at_first_is_told_and_served_as_down(tmp_path: Path) -> None:
    assert 'isentrope_up{run="mine"} 0.0' in served(RunPlace(tmp_path, f"unix://{tmp_path}/none", "mine"))


@pytest.mark.parametrize(
    ("url", "bind", "what"),
    [
        ("", BIND, "no broker is given"),
        ("redis://:secret@10.0.0.1", BIND, "list of processes"),
        ("unix:///none", "here", "is not ADDR:PORT"),
    ],
)
def test_what_cannot_work_is_refused(url: str, bind: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISENTROPE_REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match=what):
        served(RunPlace(Path(), url, "mine"), bind)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        served(RunPlace(tmp_path))
