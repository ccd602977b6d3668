"""The list of runs names the state of each folder, also of one that cannot be read."""

import io
import json
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from run_states import STATES, run_in

from isentrope.runs import list_runs


def _listed(place: Path, *, as_json: bool) -> str:
    out = io.StringIO()
    assert list_runs(place, as_json, Console(file=out, width=1000)) == 0
    return out.getvalue()


def test_every_state_is_told(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for state in STATES:
            stack.enter_context(run_in(state, tmp_path / "runs" / state))
        found = {run["run"]: run for run in json.loads(_listed(tmp_path, as_json=True))}
        text = _listed(tmp_path / "runs", as_json=False)
    assert {name: run["state"] for name, run in found.items()} == {state: state for state in STATES}
    assert all((run["batch"], run["reward"]) == (3, 0.5) for name, run in found.items() if name != "damaged")
    assert found["error"]["why"] == "it broke" and "damaged" in found["damaged"]["why"]
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["run", "state", "batch", "reward", "folder"]
    assert {line[0]: line[1] for line in lines[1:]} == {state: state for state in STATES}


def test_a_folder_without_runs_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(_listed(tmp_path, as_json=True)) == []
    assert "no run in" in _listed(tmp_path, as_json=False)
