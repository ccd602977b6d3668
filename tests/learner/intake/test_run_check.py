"""A record is compared with its order: whatever an actor claims beside what it has sampled is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wire_records import make_group, make_response

from isentrope.errors import DataError, RecordError
from isentrope.learner.intake.run_check import Asked, RunCheck
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.types import (
    Demonstration,
    EvalResult,
    Group,
    Int32,
    Missing,
    MissingReason,
    SamplingMask,
    version_of,
)

SEED = 5
NOW = version_of(2, 3)
ANNOUNCED = {version_of(2, 1), NOW}


def prompt(seq: int) -> Asked:
    if seq > 100:
        raise DataError("there are 100 prompts")
    return Asked(np.array([1, 2, seq], np.int32), "train")


CHECK = RunCheck(SEED, prompt, lambda index, name: prompt(index))


def honest(seq: int = 7, *, version: int = NOW, places: tuple[int, ...] = (0, 1)) -> Group:
    responses = tuple(make_response(version, seed=sampling_seed(SEED, seq, 0, place)) for place in places)
    return make_group(seq, prompt=prompt(seq).ids, responses=responses)


def each(group: Group, **changes: Any) -> Group:
    return replace(group, responses=tuple(replace(response, **changes) for response in group.responses))


@pytest.mark.parametrize("version", [*ANNOUNCED, version_of(1, 9), version_of(1, 0)])
def test_an_honest_group_is_accepted_also_one_of_an_earlier_learner(version: int) -> None:
    CHECK.group(honest(version=version), 2, ANNOUNCED)


def test_responses_keep_the_places_that_they_were_asked_for_at() -> None:
    group = replace(honest(places=(1,)), missing=(Missing(0, MissingReason.ENGINE),))
    CHECK.group(group, 2, ANNOUNCED)
    with pytest.raises(RecordError, match="run"):
        CHECK.group(replace(group, missing=(Missing(1, MissingReason.ENGINE),)), 2, ANNOUNCED)


LIES: dict[str, Callable[[Group], Group]] = {
    "another prompt": lambda group: replace(group, prompt=prompt(8).ids),
    "a longer prompt": lambda group: replace(group, prompt=np.append(group.prompt, np.int32(1))),
    "another seq's answer": lambda group: replace(group, seq=8),
    "a seq that has no prompt": lambda group: replace(group, seq=101),
    "another attempt": lambda group: replace(group, attempt=7),
    "seeds of nobody": lambda group: each(group, seed=9),
    "seeds in another order": lambda group: replace(group, responses=group.responses[::-1]),
    "a version that was skipped": lambda group: each(group, span_version=np.array([version_of(2, 2)])),
    "nothing to train": lambda group: each(group, mask=np.zeros(3, np.bool_)),
    "impossible log-probabilities": lambda group: each(group, logp_rollout=np.full(3, -1e30, np.float32)),
    "another data set": lambda group: replace(group, source="elsewhere"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie: str) -> None:
    with pytest.raises(RecordError) as caught:
        CHECK.group(LIES[lie](honest()), 2, ANNOUNCED)
    assert caught.value.what == "run" and caught.value.where


def test_a_run_that_samples_among_the_likeliest_takes_no_token_without_them_and_another_run_no_mask() -> None:
    check = RunCheck(SEED, prompt, lambda index, name: prompt(index), masked=True)
    full = SamplingMask(ids(1, 2, 3), ids(0, 1, 2, 3))
    partial = SamplingMask(ids(1, 3), ids(0, 1, 1, 2))
    of_others = np.array([True, False, True])
    check.group(each(honest(), sampling_mask=full), 2, ANNOUNCED)
    check.group(each(honest(), sampling_mask=partial, mask=of_others), 2, ANNOUNCED)
    CHECK.group(honest(), 2, ANNOUNCED)
    for judge, changes in (
        (check, {}),
        (check, {"sampling_mask": partial}),
        (CHECK, {"sampling_mask": full}),
        (CHECK, {"sampling_mask": partial}),
    ):
        with pytest.raises(RecordError) as caught:
            judge.group(each(honest(), **changes), 2, ANNOUNCED)
        assert caught.value.what == "run" and "chosen" in caught.value.where


def ids(*values: int) -> Int32:
    return np.array(values, np.int32)


def test_a_run_with_greedy_responses_takes_no_group_without_one() -> None:
    check = RunCheck(SEED, prompt, lambda index, name: prompt(index), greedy=True)
    check.group(replace(honest(), greedy_reward=0.0), 2, ANNOUNCED)
    with pytest.raises(RecordError) as caught:
        check.group(honest(), 2, ANNOUNCED)
    assert caught.value.what == "run" and "greedy" in caught.value.where
    check.answer(answered())


SHOWN = Demonstration(np.array([4, 5], np.int32), 1.0)


@pytest.mark.parametrize(
    "given", [(), (SHOWN, SHOWN), (replace(SHOWN, tokens=np.array([4], np.int32)),)], ids=["none", "two", "another"]
)
def test_a_demonstration_is_that_of_its_prompt(given: tuple[Demonstration, ...]) -> None:
    check = RunCheck(
        SEED, lambda seq: prompt(seq)._replace(demonstration=SHOWN.tokens), lambda index, name: prompt(index)
    )
    check.group(replace(honest(), demonstrations=(SHOWN,)), 2, ANNOUNCED)
    with pytest.raises(RecordError, match="run"):
        check.group(replace(honest(), demonstrations=given), 2, ANNOUNCED)
    with pytest.raises(RecordError, match="run"):
        CHECK.group(replace(honest(), demonstrations=(SHOWN,)), 2, ANNOUNCED)


def answered(index: int = 7, **changes: Any) -> EvalResult:
    responses = tuple(make_response(NOW, seed=eval_seed(SEED, "heldout", index, place)) for place in (0, 1))
    return EvalResult(
        "heldout", NOW, make_group(index, **{"prompt": prompt(min(index, 100)).ids, "responses": responses} | changes)
    )


def test_answers_of_an_evaluation_are_compared_too() -> None:
    CHECK.answer(answered())
    for lie in (
        answered(prompt=prompt(8).ids),
        answered(responses=honest().responses),
        answered(101, prompt=prompt(8).ids),
    ):
        with pytest.raises(RecordError, match="run"):
            CHECK.answer(lie)
