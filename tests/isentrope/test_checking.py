"""The check as JSON: the same stages, mistakes and notes as for a reader, and the same exit code."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from isentrope.checking import check_file

STAGES = ["keys", "install", "objective", "data", "reward", "model", "prompts", "machine"]


def _checked(run_file: Path, *overrides: str) -> tuple[dict[str, list[dict[str, object]]], Exception | None]:
    out, raised = io.StringIO(), None
    try:
        assert check_file(run_file, overrides, True, Console(file=out)) == 0
    except Exception as error:
        raised = error
    return json.loads(out.getvalue()), raised


def test_a_run_file_in_order_has_all_stages_and_its_notes(run_file: Path) -> None:
    report, raised = _checked(run_file, "learner.updates_per_batch=1")
    assert raised is None and report["file"] == str(run_file)
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert not any(stage["mistakes"] for stage in report["stages"])
    assert report["notes"] and any("2 prompts of 5" in str(line) for line in report["shown"])


def test_mistakes_stand_in_their_stages_and_are_raised_too(run_file: Path) -> None:
    report, raised = _checked(run_file, "data.train=none.jsonl", "learner.lr=1")
    stages = {str(stage["name"]).partition(" ")[0]: stage for stage in report["stages"]}
    assert isinstance(raised, ExceptionGroup) and len(raised.exceptions) == 2
    (wrong,) = json.loads(json.dumps(stages["keys"]["mistakes"]))
    assert "unknown key learner.lr" in wrong["what"] and wrong["code"] == 64 and "learner.lr" in wrong["where"]
    (lacking,) = json.loads(json.dumps(stages["data"]["mistakes"]))
    assert "none.jsonl does not exist" in lacking["what"] and lacking["code"] == 65
    assert not stages["prompts"]["looked_at"] and stages["model"]["looked_at"]
    assert report["notes"] == []


@pytest.mark.parametrize(("text", "says"), [(None, "no run file"), ("[run", "not TOML")])
def test_a_file_that_cannot_be_read_is_a_mistake_of_its_keys(run_file: Path, text: str | None, says: str) -> None:
    run_file.unlink() if text is None else run_file.write_text(text)
    report, raised = _checked(run_file)
    assert raised is not None
    (stage,) = report["stages"]
    assert stage["name"] == "keys" and len(json.loads(json.dumps(stage["mistakes"]))) == 1, says
