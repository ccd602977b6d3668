"""The judgement of a version by numbers; what a real engine finds is in `test_worker_canary.py`."""

import math

import pytest
from wire_records import make_weights

from isentrope.actors.served import FIRST, NOISE, TIMES, Judge
from isentrope.errors import StorageError
from isentrope.rollout.wire.proof import Canary, Proof

CANARY = Canary(tokens=tuple(range(97)), logp=(-2.0,) * 96)
MANIFEST = make_weights().model_copy(update={"folder": "weights"})


def judged(judge: Judge, *gaps: float, arbitrary: bool = False) -> Proof:
    """Prove a version whose gaps are these and otherwise 0."""
    canary = CANARY.model_copy(update={"arbitrary": arbitrary})
    logp = [value + gap for value, gap in zip(CANARY.logp, [*gaps, *[0.0] * (96 - len(gaps))], strict=True)]
    return judge.prove(MANIFEST, 12, canary, logp, 0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_trained_batch_sets_the_limit_of_the_others(dtype: str) -> None:
    judge, noise = Judge(dtype), FIRST[dtype] / 4
    assert judged(judge, *[noise] * 96).limit == FIRST[dtype]
    assert judged(judge, *[2.9 * noise] * 96).limit == pytest.approx(TIMES * noise)
    with pytest.raises(StorageError, match="nats on average"):
        judged(judge, *[3.1 * noise] * 96)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("joins", ["at the start", "later"])
def test_arbitrary_tokens_of_a_restarted_learner_are_not_judged_by_those_of_a_batch(dtype: str, joins: str) -> None:
    judge, arbitrary, trained = Judge(dtype), [0.9 * FIRST[dtype]] * 96, [0.1 * FIRST[dtype]] * 96
    if joins == "at the start":
        assert judged(judge, *arbitrary, arbitrary=True).limit == FIRST[dtype]
    judged(judge, *trained)
    assert judged(judge, *arbitrary, arbitrary=True).limit == FIRST[dtype]
    assert judged(judge, *trained).limit == pytest.approx(TIMES * 0.1 * FIRST[dtype])
    with pytest.raises(StorageError):
        judged(judge, *arbitrary)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_version_may_be_further_off_than_the_first(dtype: str) -> None:
    judge = Judge(dtype)
    judged(judge, *[0.9 * FIRST[dtype]] * 96)
    assert judged(judge, *[0.99 * FIRST[dtype]] * 96).limit == FIRST[dtype]
    with pytest.raises(StorageError):
        judged(judge, *[1.01 * FIRST[dtype]] * 96)


@pytest.mark.parametrize("arbitrary", [False, True])
def test_a_configured_limit_holds_for_every_version(arbitrary: bool) -> None:
    judge = Judge("bfloat16", limit=0.5)
    for gap in (0.0, 0.4, 0.01, 0.49):
        assert judged(judge, *[gap] * 96, arbitrary=arbitrary).limit == 0.5
    with pytest.raises(StorageError) as caught:
        judged(judge, *[0.51] * 96, arbitrary=arbitrary)
    assert "actors.canary_limit" in caught.value.fix


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_never_refused_after_an_exact_first_version(dtype: str) -> None:
    judge = Judge(dtype)
    judged(judge)
    assert judged(judge, *[0.9 * NOISE[dtype]] * 96).limit == NOISE[dtype]


def test_a_fault_that_was_there_from_the_start_is_refused_by_the_first_version() -> None:
    with pytest.raises(StorageError, match="another policy") as caught:
        judged(Judge("bfloat16"), *[0.26] * 96)
    assert "version" in caught.value.what and "0.26" in caught.value.what
    judged(Judge("bfloat16"), 0.5)  # one expert chosen otherwise


def test_a_gap_is_told_as_mean_and_maximum() -> None:
    proof = judged(Judge("bfloat16"), 0.96, -0.48)
    assert proof.gap_mean == pytest.approx(0.015) and proof.gap_max == pytest.approx(0.96)
    assert (proof.tensors, proof.seconds) == (12, 0.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(StorageError):
        judged(Judge("float32"), bad)


def test_every_worker_must_have_loaded_the_tensors_of_the_version() -> None:
    assert MANIFEST.tensors is not None
    digest, judge = MANIFEST.tensors.digest, Judge("float32")
    judge.check_bits(MANIFEST, [digest, digest])
    for loaded in ([digest, "old"], ["old"]):
        with pytest.raises(StorageError, match="other weights are loaded") as caught:
            judge.check_bits(MANIFEST, loaded)
        assert caught.value.where == MANIFEST.folder
