"""Lengths are exact where they decide, and what was not looked at for lack of time is said."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.check import lengths
from isentrope.check.lengths import Lengths, measure, require_room
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts, PromptTooLongError, open_prompts
from isentrope.rollout.data.survey import SPECIAL_TOKENS


class Letters:
    """A tokenizer of one token for each letter."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool
    ) -> object:
        raise AssertionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lengths")


def _prompts(folder: Path, sizes: Sequence[int]) -> Prompts:
    (folder / "train.jsonl").write_text("".join(json.dumps({"prompt": "x" * size}) + "\n" for size in sizes))
    return open_prompts(DataConfig(train="train.jsonl"), run_folder=folder, seed=0)


def _quiet(text: str) -> None:
    pass


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40), room=st.integers(1, 60))
def test_every_prompt_that_is_too_long_is_found(folder: Path, sizes: list[int], room: int) -> None:
    measured = measure(_prompts(folder, sizes), Letters(), room, _quiet)
    assert measured.too_long(room).tolist() == [i for i, size in enumerate(sizes) if size > room]
    assert (measured.tokens.min(), measured.tokens.max()) == (min(sizes), max(sizes))
    assert measured.unsure == 0


def test_of_many_prompts_only_a_sample_and_the_suspects_are_tokenized(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "SAMPLE", 40)
    sizes = [10] * 500 + [3, 70] + [10] * 500
    measured = measure(_prompts(folder, sizes), Letters(), 60, _quiet)
    assert len(measured.rows) < 60
    assert measured.too_long(60).tolist() == [501]
    assert (measured.tokens.min(), measured.tokens.max()) == (3, 70)
    assert "1,002 prompts of 3 to 70 tokens, median 10 (" in measured.sentence(60)
    assert "; 1,001 fit into the 60 tokens" in measured.sentence(60)


def test_the_middle_is_that_of_all_prompts_although_the_longest_are_looked_at_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "SAMPLE", 40)
    measured = measure(_prompts(folder, [10] * 300 + [70] * 200), Letters(), 30, _quiet)
    assert len(measured.rows) > 200 and "median 10 " in measured.sentence(30)


def test_when_time_is_over_the_rest_is_counted_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "SECONDS", -1.0)
    prompts = _prompts(folder, [30] * 600)
    told: list[str] = []
    measured = measure(prompts, Letters(), 30 + SPECIAL_TOKENS // 2, told.append)
    assert 0 < len(measured.rows) < 600 and measured.unsure == 600 - len(measured.rows)
    assert told == [f"lengths: {len(measured.rows)} of 600 prompts"]
    assert "at least 256 fit into the 38 tokens" in measured.sentence(38)
    (note,) = require_room(prompts, measured, 38, skip=False)
    assert f"{measured.unsure} long prompts were not tokenized" in note


def test_prompts_that_are_too_long_end_the_run_or_are_skipped(folder: Path) -> None:
    prompts = _prompts(folder, [5, 50, 6, *[40] * 6])
    measured = measure(prompts, Letters(), 20, _quiet)
    with pytest.raises(PromptTooLongError) as caught:
        list(require_room(prompts, measured, 20, skip=False))
    assert caught.value.what == "7 prompts are too long: there is room for 20 tokens, and the longest has 50"
    places = caught.value.where.split("; ")
    assert [place.rpartition(":")[2] for place in places] == ["2", "4", "5", "6", "7", "..."]
    assert list(require_room(prompts, measured, 20, skip=True)) == ["7 of 9 prompts are too long, and will be skipped"]


@pytest.mark.parametrize("skip", [True, False])
def test_no_prompt_that_fits_is_an_error_in_any_case(folder: Path, skip: bool) -> None:
    prompts = _prompts(folder, [50, 40])
    with pytest.raises(PromptTooLongError, match="none of the prompts fits"):
        list(require_room(prompts, measure(prompts, Letters(), 20, _quiet), 20, skip=skip))


def test_a_sample_none_of_which_fits_stands_for_all_if_no_other_is_sure_to_fit(folder: Path) -> None:
    prompts = _prompts(folder, [50] * 4)
    some = Lengths(np.array([0, 1]), np.array([50, 50]), 4, 2)
    with pytest.raises(PromptTooLongError, match="none of the prompts fits of the 2 that were counted"):
        list(require_room(prompts, some, 20, skip=True))
