"""Steps that a reward function gives: what is taken for some, and how a text is cut into them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import RewardError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.functions import Score, load_rewards
from isentrope.rollout.rewards.steps import MAX_STEPS, Step, known_steps, paragraphs, read_steps


@given(st.text(alphabet="ab \n\t", max_size=40))
def test_paragraphs_are_all_that_lies_between_blank_lines(text: str) -> None:
    spans = paragraphs(text)
    bounds = [bound for span in spans for bound in span]
    assert bounds == sorted(bounds)
    parts = [text[start:end] for start, end in spans]
    assert all(part == part.strip() and part and "\n\n" not in part for part in parts)
    outside = "".join(text[end:start] for end, start in zip([0, *bounds[1::2]], [*bounds[::2], len(text)], strict=True))
    assert outside.strip() == ""
    assert all("\n" in text[end:start] for end, start in zip(bounds[1::2], bounds[2::2], strict=False))


def test_paragraphs_that_the_data_knows_are_steps_and_others_are_of_none() -> None:
    known = {"3 + 4 = 7": True, "so 8": False}
    text = "Let me see.\n\n 3 + 4\n= 7\n\nso 8\n\nso 8.\n\n3 + 4 = 7"
    steps = known_steps(text, known)
    assert [(text[start:end], correct) for start, end, correct in steps] == [
        ("3 + 4\n= 7", True),
        ("so 8", False),
        ("3 + 4 = 7", True),
    ]
    assert read_steps(list(steps)) == steps
    assert known_steps(text, {}) == known_steps("", known) == ()
    assert len(known_steps("so 8\n\n" * (MAX_STEPS + 5), known)) == MAX_STEPS


def test_steps_may_be_arrays_and_nothing_else_is_taken_for_some() -> None:
    assert read_steps(np.array([[0, 3, 1], [3, 7, 0]])) == (Step(0, 3, True), Step(3, 7, False))
    assert read_steps([]) == ()
    for wrong in (
        None,
        "steps",
        [[0, 1]],
        [[0, 0, True]],
        [[2, 1, True]],
        [[0, 3, True], [2, 5, True]],
        [[-1, 2, True]],
        [[0, 1.5, True]],
        [[True, 2, True]],
        [[0, 1, "yes"]],
        [[n, n + 1, True] for n in range(MAX_STEPS + 1)],
    ):
        with pytest.raises(ValueError, match=r".+"):
            read_steps(wrong)


def test_a_reward_function_gives_steps_beside_its_number(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "judged_steps.py").write_text(
        "def judged(prompts, completions, **columns):\n"
        "    return [{'reward': 0.0, 'steps': [[0, 2, True]]} if text else {'reward': 1.0} for text in completions]\n"
        "def wrong(prompts, completions, **columns):\n"
        "    return [{'reward': 0.0, 'steps': [[2, 0, True]]} for _ in completions]\n"
    )
    rewards = load_rewards(DataConfig(train="x.jsonl", reward="judged_steps:judged"), run_folder=tmp_path)
    first, second = rewards(["p", "p"], ["ab", ""], {})
    assert (
        isinstance(first, Score) and first.steps == (Step(0, 2, True),) and first.parts == {"judged_steps:judged": 0.0}
    )
    assert isinstance(second, Score) and second.steps is None
    refused = load_rewards(DataConfig(train="x.jsonl", reward="judged_steps:wrong"), run_folder=tmp_path)
    with pytest.raises(RewardError, match="other steps"):
        refused(["p"], ["ab"], {})
