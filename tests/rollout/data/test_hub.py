"""Data sets that the library `datasets` opens, and what is said where they cannot be opened."""

import json
import sys
from pathlib import Path

import pytest

from isentrope.errors import DataError
from isentrope.rollout.data.hub import DataSet, data_set, open_data_set

ROWS = [{"question": f"{i}+1", "answer": str(i + 1)} for i in range(3)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data as it can be uploaded: a file for each split."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        (tmp_path / "mine" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "configuration", "split"),
    [
        ("openai/gsm8k", None, "train"),
        ("openai/gsm8k:main", "main", "train"),
        ("openai/gsm8k:main:test", "main", "test"),
        ("openai/gsm8k::train[:100]", None, "train[:100]"),
    ],
)
def test_a_name_is_an_id_a_configuration_and_a_split(
    tmp_path: Path, name: str, configuration: str | None, split: str
) -> None:
    assert data_set(name, tmp_path) == DataSet("openai/gsm8k", configuration, split, None)


def test_a_folder_of_files_is_opened_by_split(folder: Path) -> None:
    pytest.importorskip("datasets")
    seen: list[object] = []
    chosen = data_set("mine", folder)
    assert chosen is not None and chosen.folder == folder / "mine"
    table = open_data_set(chosen, lambda row, where: seen.append((dict(row), where)))
    assert [table[index] for index in range(len(table))] == ROWS
    assert seen == [(row, f"mine::train, row {index}") for index, row in enumerate(ROWS)]
    test = data_set("mine::test", folder)
    assert test is not None
    other = open_data_set(test, lambda row, where: None)
    assert len(other) == 1 and other.digest != table.digest


def test_a_split_that_does_not_exist_is_told_with_those_that_do(folder: Path) -> None:
    pytest.importorskip("datasets")
    chosen = data_set("mine::validation", folder)
    assert chosen is not None
    with pytest.raises(DataError, match=r"mine::validation cannot be opened: .*'train', 'test'"):
        open_data_set(chosen, lambda row, where: None)


def test_without_a_network_it_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")

    def unreachable(*given: object, **named: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(DataError, match="the Hugging Face Hub cannot be reached") as caught:
        open_data_set(DataSet("openai/gsm8k", "main", "train", None), lambda row, where: None)
    assert "HF_HUB_OFFLINE=1" in caught.value.fix


def test_without_the_library_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs datasets") as caught:
        open_data_set(DataSet("openai/gsm8k", "main", "train", None), lambda row, where: None)
    assert "isentrope[data]" in caught.value.fix
