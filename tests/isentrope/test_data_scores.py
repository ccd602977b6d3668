"""Scores are those of the responses, and a command that was killed goes on with what it has kept."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from wire_records import make_response

from isentrope.data_scores import PART, Kept, Target, scores_of
from isentrope.learner.objective.stages.modulation import answer_entropy
from isentrope.rollout.data.scores import read_scores
from isentrope.rollout.rewards.correctness import Correctness

RULE = Correctness("reward", 0.5)


def test_scores_are_means_over_the_responses() -> None:
    row = scores_of([make_response(1 << 20, reward=1.0, tokens=3), make_response(1 << 20, reward=0.0, tokens=5)], RULE)
    assert (row["pass_rate"], row["reward"], row["length_mean"], row["truncated"]) == (0.5, 0.5, 4.0, 0.0)


def test_what_there_is_nothing_to_tell_of_is_null() -> None:
    assert set(scores_of([], RULE).values()) == {None}
    assert scores_of([make_response(1 << 20, reward=1.0)], None)["pass_rate"] is None, "rewards are graded"


@given(answers=st.lists(st.sampled_from(["", "1", "2", "3"]), min_size=1, max_size=8).filter(any))
def test_the_entropy_of_answers_is_that_of_the_stage(answers: list[str]) -> None:
    names = sorted(set(filter(None, answers)))
    codes = torch.tensor([names.index(each) if each else -1 for each in answers])
    size = len(answers)
    stage = answer_entropy(codes, torch.zeros(size).long(), torch.zeros(size, 1).double(), torch.ones(size, 1).bool())
    row = scores_of([make_response(1 << 20, reward=0.0, answer=each) for each in answers], RULE)
    assert row["answer_entropy"] == pytest.approx(float(stage[0]), abs=1e-12)


def test_scores_go_on_where_they_were_killed_and_appear_whole(tmp_path: Path) -> None:
    target = Target("train", tmp_path / "train.scores.jsonl", 3, {"data": "d", "samples": 4})
    first = Kept(target)
    first.add(2, {"pass_rate": 0.25})
    first.add(0, {"pass_rate": 0.0})
    part = target.path.with_name(target.path.name + PART)
    part.write_text(part.read_text() + '[1, {"pass_')  # a kill cut the line off
    again = Kept(target)
    assert sorted(again.rows) == [0, 2] and not target.path.exists()
    again.add(1, {"pass_rate": 1.0})
    again.finish()
    scores = read_scores(target.path)
    assert scores is not None and not part.exists()
    assert [scores.value(index, "pass_rate") for index in range(3)] == [0.0, 1.0, 0.25]


def test_rows_that_were_made_otherwise_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "train.scores.jsonl"
    Kept(Target("train", path, 3, {"data": "d", "samples": 4})).add(0, {"pass_rate": 0.0})
    assert not Kept(Target("train", path, 3, {"data": "d", "samples": 8})).rows
