"""Records of the run folder: strict where this version writes them, lenient where an older one may have."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from run_records import make_row

from isentrope.errors import RewardError, StorageError
from isentrope.learner import json_files
from isentrope.learner.measures import RaisedAlarm
from isentrope.learner.records import BatchRow, EvalRow, Notice, Outcome, RunRecord, SampleRow, Summary
from isentrope.learner.training.alarms import figures
from isentrope.learner.training.journal import Journal

FIRST_VERSION = Path(__file__).parent / "data" / "first_version"


OUTCOME = Outcome.of_nothing("nothing was trained yet")


def values_of(record: json_files.FileRecord) -> dict[str, Any]:
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
            json_files.read(tmp_path, Outcome)
    else:
        found = json_files.read(tmp_path, Outcome)
        assert found is not None and not getattr(found, key)


def test_an_unknown_key_is_an_error_and_in_an_old_folder_dropped(tmp_path: Path) -> None:
    values = values_of(OUTCOME) | {"renamed": 1}
    with pytest.raises(ValidationError, match="renamed"):
        Outcome.model_validate(values)
    (tmp_path / Outcome.FILE).write_text(json.dumps(values))
    assert json_files.read(tmp_path, Outcome) == OUTCOME


def test_what_is_written_is_read_back_strictly(tmp_path: Path) -> None:
    ended = OUTCOME.ended_by(RewardError("broke", where="here", fix="mend it"))
    json_files.write(tmp_path, ended)
    assert Outcome.model_validate_json((tmp_path / Outcome.FILE).read_bytes()) == ended
    assert (ended.status, ended.exit_code, ended.what, ended.fix) == ("error", 65, "broke", "mend it")
    assert [path.name for path in tmp_path.iterdir()] == [Outcome.FILE]
    json_files.remove(tmp_path, Outcome)
    assert json_files.read(tmp_path, Outcome) is None


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / RunRecord.FILE).write_text('{"run": "a"}')
    with pytest.raises(StorageError, match=r"run\.json"):
        json_files.read(tmp_path, RunRecord)


@given(st.lists(st.integers(-3, 300), max_size=6), st.booleans(), st.integers(1, 700))
def test_the_last_record_is_found_from_the_end(lengths: list[int], cut: bool, block: int) -> None:
    """Whatever the lines' lengths and the blocks that are read; also where a crash has cut off one more line, and where
    lines are no records (here those of a negative length)."""
    lines = [
        json.dumps({"at": float(number), "text": "x" * length}) if length >= 0 else "{"[: length + 2]
        for number, length in enumerate(lengths)
    ]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK_BYTES", block)
        (Path(name) / Notice.FILE).write_text("".join(line + "\n" for line in lines) + ('{"at": 9' if cut else ""))
        whole = list(json_files.read_lines(Path(name), Notice))
        assert [len(notice.text) for notice in whole] == [length for length in lengths if length >= 0]
        assert json_files.read_last(Path(name), Notice) == (whole[-1] if whole else None)


def test_the_alarms_of_a_run_are_those_of_its_whole_lines(tmp_path: Path) -> None:
    """Lines without one are passed over."""
    on = {"failed": RaisedAlarm(value=0.5, bound=0.2)}
    rows = [make_row(1), make_row(2, alarms=on), make_row(3), make_row(4, alarms=on)]
    for row in rows:
        Journal(tmp_path, BatchRow).append(row)
    short = list(json_files.read_lines_with(tmp_path, BatchRow, "alarms"))
    assert [row.batch for row in short] == [2, 4]
    assert figures(short) == figures(rows) != {}


RENAMED: dict[str, str] = {}
"""Keys that have another name now: old, dotted = new, dotted. The folder below was written before records had types."""


KINDS = (Outcome, RunRecord, BatchRow, EvalRow, SampleRow, Summary)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.FILE)
def test_a_run_of_the_first_version_has_its_values_under_their_names(kind: type[json_files.FileRecord]) -> None:
    written = dict(leaves(json.loads((FIRST_VERSION / kind.FILE).read_text())))
    (record,) = json_files.read_lines(FIRST_VERSION, kind) if kind.FILE.endswith("l") else [read(kind)]
    found = dict(leaves(values_of(record)))
    assert len(written) > 5
    assert {name: found.get(RENAMED.get(name, name)) for name in written} == written


def read(kind: type[json_files.FileRecord]) -> json_files.FileRecord:
    """Return the record of a whole file of the first version."""
    record = json_files.read(FIRST_VERSION, kind)
    assert record is not None
    return record


def leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a table, under its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


DEFAULTS: dict[tuple[type[json_files.FileRecord], str], object] = {(SampleRow, "name"): "heldout"}
"""Values of keys that older records lack, where they are not empty."""


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind in KINDS for key in kind.model_fields if key not in kind.INDISPENSABLE]
)
def test_an_older_run_may_lack_any_key_that_is_not_indispensable(kind: type[json_files.FileRecord], key: str) -> None:
    text = (FIRST_VERSION / kind.FILE).read_text()
    values = {name: value for name, value in json.loads(text).items() if name != key}
    found = json_files.parse(json.dumps(values).encode(), kind).model_dump()[key]
    if (kind, key) in DEFAULTS:
        assert found == DEFAULTS[kind, key]
    else:
        assert not any(value for _, value in leaves({key: found}))
