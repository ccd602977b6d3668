"""Alarms are a function of a run's lines: on beyond a bound and nowhere else, said once until they have been off."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_records import MEASURES, make_row
from toy_log import make_alarms

from isentrope.learner import json_files
from isentrope.learner.config import AlarmsConfig
from isentrope.learner.intake.outcomes import ALL_CORRECT, NONE_CORRECT, SAME_REWARD
from isentrope.learner.intake.retirement import STALE, SURPLUS
from isentrope.learner.measures import Measures, RaisedAlarm, Untrained
from isentrope.learner.records import BatchRow
from isentrope.learner.training.alarms import (
    ALARMS,
    LOGP_GAP,
    REARM_AFTER,
    REPLACED,
    UNCOUNTED,
    bounds_in_force,
    figures,
    sentences,
)

UNTRAINED: dict[str, Any] = {"groups": {}, "failed": {}, "retired": {}, "masked": {}, "filtered": {}}
HEALTHY = {"advantage_abs": 0.5, "kl_old": 0.01, "logp_gap_fresh": 1e-6}


def row(batch: int = 1, objective: dict[str, Any] | None = None, **changes: Any) -> BatchRow:
    """Return the line of a batch in which nothing is wrong, but for the changes."""
    measures = Measures.model_validate(dict(MEASURES) | HEALTHY | (objective or {}))
    return make_row(batch, objective=measures, **changes)


def said(rows: list[BatchRow], **keys: Any) -> list[tuple[int, str]]:
    """Return batch and name of each alarm that is said."""
    alarms = make_alarms(**keys)
    return [
        (each.batch, text.split("learner.alarms.")[1].split()[0]) for each in rows for text in alarms.add(each).said
    ]


def in_alarm(rows: list[BatchRow], **keys: Any) -> list[set[str]]:
    """Return the alarms that are on, by batch."""
    alarms = make_alarms(**keys)
    return [set(alarms.add(each).raised) for each in rows]


ONE_BATCH: dict[str, tuple[float, dict[str, Any]]] = {
    "logp_gap": (2e-3, {"objective": "logp_gap_fresh"}),
    "ratio_max": (5.0, {"row": "ratio_max"}),
    "kl_old": (0.5, {"objective": "kl_old"}),
    "truncated": (0.25, {"row": "truncated"}),
}
"""Alarms about one number of one batch: a bound, and where the number is."""


@pytest.mark.parametrize("name", ONE_BATCH)
@given(value=st.one_of(st.floats(0, 2), st.floats(0, 1e30), st.just(math.inf), st.just(math.nan)))
def test_a_number_beyond_its_bound_is_an_alarm_and_no_other_is(name: str, value: float) -> None:
    bound, place = ONE_BATCH[name]
    (where, key), *_ = place.items()
    number: dict[str, Any] = {key: value}
    changed = row(objective=number) if where == "objective" else row(**number)
    assert (name in in_alarm([changed], **{name: bound})[0]) == (not value <= bound)
    assert name not in in_alarm([changed], **{name: 0})[0], "0 turns it off"


@given(entropies=st.lists(st.floats(1e-6, 5), min_size=1, max_size=8), share=st.floats(0.01, 1))
def test_entropy_is_compared_with_the_first_batch(entropies: list[float], share: float) -> None:
    rows = [row(batch, entropy=entropy) for batch, entropy in enumerate(entropies, 1)]
    on = [entropy / entropies[0] < share for entropy in entropies]
    assert ["entropy_share" in each for each in in_alarm(rows, entropy_share=share)] == on


@given(signals=st.lists(st.sampled_from([None, 0.0, 0.3]), max_size=12), most=st.integers(1, 4))
def test_batches_without_signal_count_while_they_follow_each_other(signals: list[float | None], most: int) -> None:
    rows = [row(batch, {"advantage_abs": signal}) for batch, signal in enumerate(signals, 1)]
    for place, on in enumerate(in_alarm(rows, no_signal=most)):
        recent = signals[max(0, place - most) : place + 1]
        assert ("no_signal" in on) == (len(recent) == most + 1 and not any(recent))


@pytest.mark.parametrize("name", ["at_bound", "idle"])
@given(stuck=st.lists(st.sets(st.sampled_from(["a", "b"])), max_size=12), most=st.integers(1, 4))
def test_each_controller_has_its_own_batches_at_its_bound_or_at_rest(
    name: str, stuck: list[set[str]], most: int
) -> None:
    rows = [row(batch, {f"control_{name}": sorted(kinds) or None}) for batch, kinds in enumerate(stuck, 1)]
    for place, on in enumerate(in_alarm(rows, **{name: most})):
        recent = stuck[max(0, place - most) : place + 1]
        assert (name in on) == (len(recent) == most + 1 and bool(set.intersection(*recent)))


FAILED = ("reward", "tries", "too_long")
GONE = ("stale", "none_correct", "same_reward")
COUNTS = st.integers(0, 40)


@given(
    ended=st.lists(st.dictionaries(st.sampled_from((*FAILED, *GONE, SURPLUS)), COUNTS), min_size=1, max_size=8),
    window=st.integers(1, 4),
    bound=st.floats(0.01, 0.99),
)
def test_failed_and_replaced_groups_are_shares_of_a_window(
    ended: list[dict[str, int]], window: int, bound: float
) -> None:
    rows = [row(batch, untrained=UNTRAINED | {"groups": groups}) for batch, groups in enumerate(ended, 1)]
    for place, on in enumerate(in_alarm(rows, failed=bound, retired=bound, window=window)):
        recent = ended[max(0, place + 1 - window) : place + 1]
        failed, gone = (sum(new.get(reason, 0) for new in recent for reason in each) for each in (FAILED, GONE))
        done = 32 * len(recent) + failed + gone
        expected = {"failed": 1 - (done - failed) / done > bound, "retired": 1 - (done - gone) / done > bound}
        assert {name: name in on for name in expected} == expected


@given(failed=st.lists(st.dictionaries(st.sampled_from(FAILED), st.dictionaries(COUNTS, COUNTS)), max_size=6))
def test_responses_that_fail_in_trained_groups_are_an_alarm_too(failed: list[dict[str, dict[int, int]]]) -> None:
    rows = [row(batch, untrained=UNTRAINED | {"failed": kinds}) for batch, kinds in enumerate(failed, 1)]
    for place, on in enumerate(in_alarm(rows, failed=0.1, window=3)):
        recent = failed[max(0, place - 2) : place + 1]
        lost = sum(count for kinds in recent for lengths in kinds.values() for count in lengths.values())
        whole = 256 * len(recent) + lost
        assert ("failed" in on) == (1 - (whole - lost) / whole > 0.1)


@given(share=st.floats(0.0, 0.2), replaced=st.floats(0.0, 0.95))
def test_replaced_responses_count_among_those_that_could_fail(share: float, replaced: float) -> None:
    whole = row()
    came = round(whole.responses / (1 - replaced))
    failed = round(share * came)
    lengths: dict[str, Any] = {"failed": {"engine": {4: failed}}, "retired": {"stale": {8: came - whole.responses}}}
    (on,) = in_alarm(
        [whole.model_copy(update={"untrained": Untrained.model_validate(UNTRAINED | lengths)})], failed=0.1
    )
    assert ("failed" in on) == (1 - came / (came + failed) > 0.1)


@given(on=st.lists(st.booleans(), max_size=40))
def test_an_alarm_is_said_when_it_has_been_off_long_enough(on: list[bool]) -> None:
    rows = [row(batch, ratio_max=1e6 if beyond else 1.0) for batch, beyond in enumerate(on, 1)]
    heard = [batch for batch, _ in said(rows)]
    for batch, beyond in enumerate(on, 1):
        recently = any(on[max(0, batch - 1 - REARM_AFTER) : batch - 1])
        assert (batch in heard) == (beyond and not recently)


@given(on=st.lists(st.booleans(), min_size=1, max_size=30), cut=st.integers(0, 30))
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(on: list[bool], cut: int) -> None:
    rows = [
        row(batch, {"advantage_abs": None if beyond else 0.5}, ratio_max=1e6 if beyond else 1.0)
        for batch, beyond in enumerate(on, 1)
    ]
    whole, resumed = make_alarms(), make_alarms()
    verdicts = [whole.add(each) for each in rows]
    for each in rows[:cut]:
        resumed.add(each)
    for each, expected in zip(rows[cut:], verdicts[cut:], strict=True):
        found = resumed.add(each)
        assert (found.raised, found.said) == (expected.raised, expected.said)


def test_every_alarm_is_a_key_and_says_value_bound_key_and_remedy() -> None:
    keys = AlarmsConfig.model_fields.keys() - {"action", "window"}
    assert {alarm.name for alarm in ALARMS} == keys
    for alarm in ALARMS:
        text = alarm.text(RaisedAlarm(value=1476.2, bound=0.25))
        assert f"is 1.48e+03, {'below' if alarm.falls else 'above'} learner.alarms.{alarm.name} = 0.25" in text
        assert alarm.advice and not alarm.advice.endswith(".")


def test_reasons_that_are_not_failures_are_those_of_the_buffer() -> None:
    assert {STALE, ALL_CORRECT, NONE_CORRECT, SAME_REWARD} == REPLACED
    assert {SURPLUS} == UNCOUNTED


def test_an_alarm_names_reasons_and_ends_a_run_with_a_remedy() -> None:
    lost = row(7, untrained=UNTRAINED | {"groups": {"reward": 30, "tries": 2, "stale": 1}})
    verdict = make_alarms().add(lost)
    (text,) = verdict.said
    assert text.startswith(
        "alarm in batch 7: the share of groups or responses that fail is 0.492, above learner.alarms."
    )
    assert "(30 reward, 2 tries of 65 groups)" in text and "logs of the actors" in text
    assert verdict.error is not None and verdict.error.exit_code == 79
    assert "0.492" in verdict.error.what and "batch 7" in verdict.error.where
    assert (
        "The same command goes on" in verdict.error.fix
        and "learner.alarms.failed = 0 turns it off" in verdict.error.fix
    )
    assert make_alarms().add(row()).error is None


@pytest.mark.parametrize(("dtype", "bound"), LOGP_GAP.items())
def test_the_gap_between_engine_and_learner_has_a_bound_for_each_dtype(dtype: str, bound: float) -> None:
    assert bounds_in_force(AlarmsConfig(), dtype)["logp_gap"] == bound
    assert bounds_in_force(AlarmsConfig(logp_gap=0.5), dtype)["logp_gap"] == 0.5
    assert "logp_gap" not in bounds_in_force(AlarmsConfig(logp_gap=0), dtype)


@given(values=st.lists(st.floats(0, 1e6), max_size=20))
def test_figures_of_a_run_are_those_of_its_lines(values: list[float]) -> None:
    alarms, rows = make_alarms(), []
    for batch, value in enumerate(values, 1):
        plain = row(batch, ratio_max=value)
        rows.append(plain.model_copy(update={"alarms": dict(alarms.add(plain).raised) or None}))
    found, beyond = figures(rows), [batch for batch, value in enumerate(values, 1) if value > 50]
    assert set(found) == ({"ratio_max"} if beyond else set())
    for each in found.values():
        assert (each.first, each.last, each.batches) == (beyond[0], beyond[-1], len(beyond))
        assert (each.worst, each.bound) == (max(values), 50)
        assert f"first in batch {beyond[0]}" in sentences(found)[0]


def test_figures_of_an_unknown_alarm_say_its_name() -> None:
    (sentence,) = sentences(figures([row(3, alarms={"later": RaisedAlarm(value=2.0, bound=1.0)})]))
    assert "later is 2" in sentence


RECORDED = Path(__file__).parents[1] / "data"


def test_a_policy_that_breaks_is_an_alarm_within_a_few_batches() -> None:
    """Recorded: the demo's model, `method = ["dapo", "kl_cov"]` with four updates, a learning rate of 2e-4 and a lag of
    two batches, that is no clip on old tokens. Reward falls by half from batch 11 on."""
    rows = list(json_files.read_lines(RECORDED / "no_clip_with_lag", BatchRow))
    assert [row.batch for row in rows] == list(range(1, 15))
    heard = said(rows)
    assert heard[0] == (2, "kl_old")
    assert {name for _, name in heard} == {"kl_old", "truncated"}


@pytest.mark.parametrize("dtype", LOGP_GAP)
def test_a_sound_run_has_no_alarm(dtype: str) -> None:
    """Recorded: 200 batches of the demo, without the keys that no alarm reads. Its worst are a ratio of 3.1, a
    divergence of 0.007, a fifth of the first entropy and 23 % of truncated responses."""
    rows = list(json_files.read_lines(RECORDED / "demo_200_batches", BatchRow))
    assert len(rows) == 200
    assert said(rows, dtype=dtype) == []


def test_the_last_lines_and_the_first_say_what_all_of_them_would() -> None:
    """A run of many batches is resumed from them alone."""
    dice = random.Random(0)
    rows, state = [], 0.0
    for batch in range(1, 400):
        state = dice.random() if dice.random() < 0.2 else state  # the same for some batches
        truncated, entropy = float(state > 0.7), 1.0 if state < 0.4 else 0.01
        rows.append(row(batch, {"advantage_abs": 0.0 if state > 0.5 else 1.0}, truncated=truncated, entropy=entropy))
    for count in (3, 30, 150, 250, 398):
        straight, resumed = make_alarms(), make_alarms()
        for each in rows[:count]:
            straight.add(each)
        for each in [*rows[: min(1, max(0, count - resumed.memory))], *rows[:count][-resumed.memory :]]:
            resumed.add(each)
        for each in rows[count:]:
            expected, found = straight.add(each), resumed.add(each)
            assert (found.raised.keys(), len(found.said)) == (expected.raised.keys(), len(expected.said))
