"""Data files: rows by index, and every mistake found at the start with its line."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from isentrope.errors import DataError
from isentrope.rollout.data import arrow_table
from isentrope.rollout.data.jsonl_table import MAX_LINE_BYTES
from isentrope.rollout.data.table import Table
from isentrope.rollout.data.tables import open_named, open_table, source_name

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.fixed_dictionaries({"prompt": JSON, "answer": JSON}), min_size=1, max_size=6)


def accept(row: Mapping[str, object], where: str) -> None:
    pass


def opened(path: Path, content: bytes) -> Table:
    path.write_bytes(content)
    return open_table(path, accept)


def refusal(path: Path, content: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path, content)
    return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@given(rows=ROWS, ascii_only=st.booleans(), newline=st.sampled_from(["\n", "\r\n", "\n\n \n"]), data=st.data())
def test_rows_of_a_jsonl_file_come_back_in_any_order(
    folder: Path, rows: list[dict[str, object]], ascii_only: bool, newline: str, data: st.DataObject
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = newline.join(lines) + data.draw(st.sampled_from(["", newline]))
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    table = opened(folder / "rows.jsonl", mark + text.encode("utf-8", "surrogatepass"))
    assert len(table) == len(rows)
    for index in data.draw(st.permutations(range(len(rows)))):
        assert table[index] == rows[index]


def test_places_count_blank_lines(folder: Path) -> None:
    table = opened(folder / "blank.jsonl", b'\n{"a": 1}\n\n\n{"a": 2}')
    assert [table.where(index).rpartition(":")[2] for index in range(2)] == ["2", "5"]


def test_a_file_that_was_only_touched_is_the_same(folder: Path) -> None:
    path = folder / "touched.jsonl"
    table = opened(path, b'{"a": 1}\n{"a": 2}\n')
    os.utime(path, (1, 1))
    assert table[1] == {"a": 2}
    path.with_suffix(".copy").write_bytes(path.read_bytes())
    path.with_suffix(".copy").replace(path)
    assert table[0] == {"a": 1}
    path.write_bytes(b'{"a": 1}\n{"a": 3}\n')
    with pytest.raises(DataError, match="changed while it was in use"):
        table[1]


def test_a_small_parquet_file_that_becomes_huge_is_refused_before_it_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "bomb.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["x" * 1000] * 100_000}), path)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(arrow_table, "MAX_BYTES", 10_000)
    with pytest.raises(DataError, match="takes more than") as caught:
        open_table(path, accept)
    assert "jsonl" in caught.value.fix


def test_the_digest_is_of_the_contents_alone(folder: Path) -> None:
    one = opened(folder / "one.jsonl", b'{"a": 1}\n').digest
    assert opened(folder / "two.jsonl", b'{"a": 1}\n').digest == one
    assert opened(folder / "two.jsonl", b'{"a": 2}\n').digest != one


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "not valid JSON: Extra data"),
        (b'{"a": 1e400}', "1e400 is larger than any number here"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'{"a": {"b": 1, "b": 2}}', "key 'b' occurs twice"),
        (b"[1, 2]", "the line holds a list"),
        (b"3", "the line holds a int"),
        (b'{"a": "\xe9t\xe9"}', "not UTF-8: byte 0xe9 at position 7"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"b": 1}', "column 'a' is missing"),
        (b'{"a": 1, "b": 2}', "column 'b' is not in the first row"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(folder: Path, line: bytes, what: str) -> None:
    error = refusal(folder / "broken.jsonl", b'{"a": 0}\n\n' + line + b'\n{"a": 4}\n')
    assert what in error.what
    assert error.where.split(" ")[0].endswith("broken.jsonl:3")
    assert len(str(error)) < 600


def test_a_file_that_changes_in_use_is_noticed(folder: Path) -> None:
    table = opened(folder / "changes.jsonl", b'{"a": 1}\n{"a": 2}\n')
    (folder / "changes.jsonl").write_bytes(b'{"a": 1}\n{"a": 22}\n')
    with pytest.raises(DataError, match="changed while it was in use"):
        table[1]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(folder: Path, content: bytes) -> None:
    assert "has no rows" in refusal(folder / "empty.jsonl", content).what


def test_every_row_is_shown_to_the_check_with_its_place(folder: Path) -> None:
    seen: list[tuple[object, str]] = []
    (folder / "seen.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    open_table(folder / "seen.jsonl", lambda row, where: seen.append((row["a"], where.rpartition("/")[2])))
    assert seen == [(1, "seen.jsonl:1"), (2, "seen.jsonl:2")]


def test_a_missing_file_offers_the_nearest_one(folder: Path) -> None:
    (folder / "gsm8k.jsonl").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"did you mean gsm8k\.jsonl"):
        open_table(folder / "gsm8.jsonl", accept)


@pytest.mark.parametrize("name", ["train.txt", "train.jsonl.gz", "train"])
def test_other_kinds_are_refused_with_what_is_supported(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"\.jsonl, \.parquet, \.json, \.csv file"):
        open_table(folder / name, accept)


def test_a_folder_with_a_files_name_is_refused(folder: Path) -> None:
    (folder / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        open_table(folder / "folder.jsonl", accept)


def test_a_line_of_a_gigabyte_is_refused_at_16_mib_within_200_mb(folder: Path) -> None:
    path = folder / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        file.truncate(1 << 30)  # a sparse file: a gigabyte of zeros in one line
    script = (
        "import sys; from pathlib import Path; from isentrope.rollout.data.tables import open_table\n"
        "try: open_table(Path(sys.argv[1]), print)\n"
        "except ValueError as error: print(error)"
    )
    limit = 200 << 20
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        check=True,
    )
    path.unlink()
    assert f"longer than {MAX_LINE_BYTES >> 20} MiB" in ran.stdout
    assert "long.jsonl:2" in ran.stdout


def write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_of_a_parquet_file_come_back(folder: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": [{"role": "user", "content": "hi"}], "answer": 1.5},
        {"prompt": [{"role": "system", "content": "be"}, {"role": "user", "content": "ho"}], "answer": None},
    ]
    table = open_table(write_parquet(folder / "rows.parquet", rows), accept)
    assert [table[1], table[0]] == [rows[1], rows[0]]
    assert table.where(1).endswith("rows.parquet, row 1")


def test_parquet_rows_are_shown_to_the_check(folder: Path) -> None:
    seen: list[object] = []
    path = write_parquet(folder / "seen.parquet", [{"a": 1}, {"a": 2}])
    open_table(path, lambda row, where: seen.append(row["a"]))
    assert seen == [1, 2]


def test_a_parquet_file_without_rows_is_refused(folder: Path) -> None:
    parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), folder / "empty.parquet")
    with pytest.raises(DataError, match="has no rows"):
        open_table(folder / "empty.parquet", accept)


@pytest.mark.parametrize("content", [b"", b"PAR1", b'{"a": 1}\n', b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_broken_parquet_file_is_refused(folder: Path, content: bytes) -> None:
    assert "is not a readable parquet file" in refusal(folder / "broken.parquet", content).what


def test_a_parquet_column_that_occurs_twice_is_refused(folder: Path) -> None:
    parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), folder / "twice.parquet")
    with pytest.raises(DataError, match="column 'a' occurs twice"):
        open_table(folder / "twice.parquet", accept)


def test_a_value_that_python_cannot_hold_is_told_with_row_and_column(folder: Path) -> None:
    dates = pyarrow.array([0, 10**15], pyarrow.timestamp("s"))
    texts = pyarrow.StringArray.from_buffers(2, *map(pyarrow.py_buffer, (b"\0\0\0\0\1\0\0\0\2\0\0\0", b"a\xff")))
    for name, column in (("when", dates), ("text", texts)):
        path = folder / f"{name}.parquet"
        parquet.write_table(pyarrow.table({"prompt": ["a", "b"], name: column}), path)
        with pytest.raises(DataError, match=f"column '{name}' holds a value that cannot be read") as caught:
            open_table(path, accept)
        assert caught.value.where == f"{path}, row 1"


def test_a_file_and_a_data_set_are_told_apart_by_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("isentrope.rollout.data.tables.open_data_set", lambda chosen, check: opened.append(chosen.id))
    (folder / "data").mkdir()
    for name in ("train.csv", "data/train.txt", "data/other", "/data/train", "train", "a/b/c"):
        with pytest.raises(DataError):
            open_named(name, folder, accept)
    assert opened == []
    for name in ("openai/gsm8k", "openai/gsm8k:main:test", "someone/data-v1.5", "data"):
        open_named(name, folder, accept)
    assert opened == ["openai/gsm8k", "openai/gsm8k", "someone/data-v1.5", "data"]


def test_the_short_name_of_a_source() -> None:
    names = ["data/train.jsonl", "openai/gsm8k:main:train"]
    assert [source_name(name) for name in names] == ["train", "openai/gsm8k"]
