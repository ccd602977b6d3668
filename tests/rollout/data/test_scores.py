"""A file of scores is read as it was written, and a broken one is named with its line."""

from pathlib import Path

import pytest

from isentrope.errors import DataError
from isentrope.rollout.data.scores import read_scores, scores_path, scores_text


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.scores.jsonl"
    path.write_text(scores_text({"data": "d", "samples": 8}, [{"pass_rate": 0.5}, {"pass_rate": None}]))
    scores = read_scores(path)
    assert scores is not None and (scores.data, len(scores), scores.columns) == ("d", 2, ["pass_rate"])
    assert [scores.value(index, "pass_rate") for index in range(3)] == [0.5, None, None]
    assert read_scores(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [("", 1), ("{}\n", 1), ('{"format": 2, "data": "d"}\n', 1), ('{"format": 1, "data": "d"}\n{"a"\n', 2), ("[]\n", 1)],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "a.scores.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert caught.value.where == f"{path}:{line}" and "isentrope score" in caught.value.fix


def test_scores_lie_beside_a_file_and_in_the_run_files_folder_for_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").touch()
    assert scores_path("data/a.parquet", tmp_path) == tmp_path / "data" / "a.scores.jsonl"
    assert scores_path("openai/gsm8k:main:train", tmp_path) == tmp_path / "openai--gsm8k--main--train.scores.jsonl"
