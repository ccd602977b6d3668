"""What an actor does next, for every combination of facts that matters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.actors.decisions import ActorSituation, CallHealth, is_stale, next_load, takes_groups
from isentrope.rollout.wire.types import version_of

OLD, NOW, NEW = version_of(1, 3), version_of(1, 4), version_of(2, 1)

facts = st.builds(
    ActorSituation,
    loaded=st.sampled_from([0, OLD, NOW, NEW]),
    newest=st.sampled_from([0, OLD, NOW, NEW]),
    asked=st.sampled_from([0, OLD, NOW, NEW]),
    groups=st.integers(0, 2),
    evals=st.integers(0, 2),
    my_turn=st.booleans(),
)


@pytest.mark.parametrize(
    ("situation", "version", "takes"),
    [
        (ActorSituation(loaded=0, newest=0), 0, False),
        (ActorSituation(loaded=0, newest=NOW), NOW, False),
        (ActorSituation(loaded=NOW, newest=NOW), 0, True),
        (ActorSituation(loaded=OLD, newest=NOW, groups=9), NOW, False),  # swaps under running groups
        (ActorSituation(loaded=OLD, newest=NOW, evals=1), 0, False),  # finishes the evaluation first
        (ActorSituation(loaded=OLD, newest=NOW, asked=OLD), 0, False),  # and takes what is left of it
        (ActorSituation(loaded=OLD, newest=NOW, asked=NOW), NOW, False),
        (ActorSituation(loaded=NOW, newest=NOW, asked=OLD), 0, True),  # somebody else serves it, or will
        (ActorSituation(loaded=NOW, newest=NOW, asked=OLD, my_turn=True, groups=1), 0, False),
        (ActorSituation(loaded=NOW, newest=NOW, asked=OLD, my_turn=True), OLD, False),
        (ActorSituation(loaded=NOW, newest=NOW, asked=NEW, my_turn=True), 0, True),  # not announced here yet
        (ActorSituation(loaded=NOW, newest=OLD), 0, True),  # a broker that came back with older state
        (ActorSituation(loaded=OLD, newest=NEW, groups=9), NEW, False),  # a new learner counts its batches from less
    ],
)
def test_what_follows_from_a_situation(situation: ActorSituation, version: int, takes: bool) -> None:
    assert (next_load(situation), takes_groups(situation)) == (version, takes)


@given(facts)
def test_no_swap_changes_the_version_of_an_evaluation(situation: ActorSituation) -> None:
    if situation.evals and situation.loaded:
        assert next_load(situation) == 0


@given(facts)
def test_running_groups_never_get_older_weights(situation: ActorSituation) -> None:
    if situation.groups and (version := next_load(situation)):
        assert version > situation.loaded


@given(facts)
def test_whoever_takes_groups_serves_the_newest_weights(situation: ActorSituation) -> None:
    if takes_groups(situation):
        assert situation.loaded >= situation.newest > 0 and next_load(situation) == 0


@given(facts)
def test_an_actor_comes_back_from_any_detour(situation: ActorSituation) -> None:
    """When all it holds is done and nobody asks for more, it loads the newest weights or has them."""
    after = ActorSituation(loaded=next_load(situation) or situation.loaded, newest=situation.newest)
    assert next_load(after) == after.newest or after.loaded >= after.newest


def test_staleness_counts_batches_whoever_trained_them() -> None:
    assert not is_stale(version_of(1, 3), version_of(1, 5), max_lag=2)
    assert is_stale(version_of(1, 3), version_of(1, 6), max_lag=2)
    assert not is_stale(version_of(1, 6), version_of(2, 3), max_lag=0)


@given(st.lists(st.integers(0, 8), max_size=400))
def test_calls_are_broken_when_a_fifth_of_the_last_200_failed_by_their_share_of_responses(calls: list[int]) -> None:
    health = CallHealth()
    for failed in calls:
        health.record(failed=failed, of=8)
    assert health.broken == (sum(calls[-200:]) > 40 * 8)
