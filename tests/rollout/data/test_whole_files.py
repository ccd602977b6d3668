"""Csv and json files: rows by index, and every mistake with its place."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import DataError
from isentrope.rollout.data.table import Table
from isentrope.rollout.data.tables import open_table

CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def accept(row: Mapping[str, object], where: str) -> None:
    pass


def opened(path: Path, text: str) -> Table:
    path.write_bytes(text.encode())
    return open_table(path, accept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@given(rows=st.lists(st.fixed_dictionaries({"prompt": CELLS, "the answer": CELLS}), min_size=1), mark=st.booleans())
def test_rows_of_a_csv_file_come_back(folder: Path, rows: list[dict[str, str]], mark: bool) -> None:
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8-sig" if mark else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "the answer"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    table = open_table(path, accept)
    assert [table[index] for index in range(len(table))] == rows


def test_the_place_of_a_csv_row_is_the_line_where_it_begins(folder: Path) -> None:
    table = opened(folder / "places.csv", 'prompt,answer\n"one\ntwo",1\n\nthree,2\n')
    assert [table.where(index).rpartition(":")[2] for index in range(2)] == ["2", "5"]


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("prompt,answer\na,1\nb\n", "the row has 1 values, and there are 2 columns", "3"),
        ("prompt,answer\na, 1, 2\n", "the row has 3 values, and there are 2 columns", "2"),
        ('prompt\n"a" b\n', "not valid csv", "2"),
        ('prompt\na\n"b', "not valid csv", "3"),
        ("prompt,prompt\na,b\n", "column 'prompt' occurs twice", "1"),
    ],
)
def test_a_broken_csv_file_is_told_with_its_line(folder: Path, text: str, what: str, line: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(folder / "broken.csv", text)
    assert what in caught.value.what
    assert caught.value.where.partition(" ")[0].endswith(f"broken.csv:{line}")


@pytest.mark.parametrize("name", ["latin.csv", "latin.json"])
def test_what_is_not_utf_8_is_told_with_its_line(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"prompt\na\n\xe9\n")
    with pytest.raises(DataError, match="not UTF-8: byte 0xe9") as caught:
        open_table(folder / name, accept)
    assert caught.value.where.endswith(":3")


def test_a_csv_file_of_its_header_alone_has_no_rows(folder: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        opened(folder / "empty.csv", "prompt,answer\n")


def test_rows_of_a_json_list_come_back(folder: Path) -> None:
    rows = [{"prompt": "a", "answer": {"b": [1, None]}}, {"prompt": "c", "answer": None}]
    table = opened(folder / "rows.json", json.dumps(rows, indent=2))
    assert [table[0], table[1]] == rows
    assert table.where(1).endswith("rows.json, row 1")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"prompt": "a"}\n{"prompt": "b"}\n', "not valid JSON"),
        ('{"prompt": "a"}', "the file holds a dict, not a list"),
        ('["a"]', "the row is a str, not an object"),
        ('[{"a": 1}, {"b": 1}]', "column 'a' is missing"),
        ('[{"a": 1}, {"a": 1, "b": 1}]', "column 'b' is not in the first row"),
        ('[{"a": 1e400}]', "1e400 is larger than any number here"),
        ("[]", "has no rows"),
    ],
)
def test_a_broken_json_file_is_refused(folder: Path, text: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(folder / "broken.json", text)
    assert what in caught.value.what
