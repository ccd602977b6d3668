"""Records of the run folder: strict where this version writes them, lenient where an older one may have."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from isentrope.errors import RewardError, StorageError
from isentrope.learner import run_files
from isentrope.learner.records import Outcome, RunRecord

OUTCOME = Outcome.of_nothing("nothing was trained yet")


def values_of(record: run_files.FileRecord) -> dict[str, Any]:
    """Return the file's object."""
    found: dict[str, Any] = json.loads(json.dumps(record.to_json()))
    return found


@pytest.mark.parametrize("key", sorted(Outcome.model_fields))
def test_a_missing_key_is_an_error_and_in_an_old_folder_an_empty_value(tmp_path: Path, key: str) -> None:
    values = values_of(OUTCOME)
    del values[key]
    with pytest.raises(ValidationError, match=key):
        Outcome.model_validate(values)
    (tmp_path / Outcome.FILE).write_text(json.dumps(values))
    if key in Outcome.INDISPENSABLE:
        with pytest.raises(StorageError, match=key):
            run_files.read(tmp_path, Outcome)
    else:
        found = run_files.read(tmp_path, Outcome)
        assert found is not None and not getattr(found, key)


def test_an_unknown_key_is_an_error_and_in_an_old_folder_dropped(tmp_path: Path) -> None:
    values = values_of(OUTCOME) | {"renamed": 1}
    with pytest.raises(ValidationError, match="renamed"):
        Outcome.model_validate(values)
    (tmp_path / Outcome.FILE).write_text(json.dumps(values))
    assert run_files.read(tmp_path, Outcome) == OUTCOME


def test_what_is_written_is_read_back_strictly(tmp_path: Path) -> None:
    ended = OUTCOME.ended_by(RewardError("broke", where="here", fix="mend it"))
    run_files.write(tmp_path, ended)
    assert Outcome.model_validate_json((tmp_path / Outcome.FILE).read_bytes()) == ended
    assert (ended.status, ended.exit_code, ended.what, ended.fix) == ("error", 65, "broke", "mend it")
    assert [path.name for path in tmp_path.iterdir()] == [Outcome.FILE]
    run_files.remove(tmp_path, Outcome)
    assert run_files.read(tmp_path, Outcome) is None


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / RunRecord.FILE).write_text('{"run": "a"}')
    with pytest.raises(StorageError, match=r"run\.json"):
        run_files.read(tmp_path, RunRecord)
