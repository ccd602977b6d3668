"""Which nodes are left out: by the state of the cluster alone."""

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.launch.placement import (
    NODE_ID,
    QUARANTINE_S,
    RECENT_S,
    Avoided,
    Bundle,
    Deaths,
    Node,
    matches,
    selectors,
    waits_for_room,
)

NAMES = ("a", "b", "c", "d")
ONE_GPU = Bundle(cpus=1, gpus=1)


def node(name: str, *, cpus: float = 8, gpus: float = 8, **labels: str) -> Node:
    return Node(name, f"host-{name}", cpus, gpus, {NODE_ID: name, **labels})


def allowed(nodes: Collection[Node], selector: dict[str, str]) -> set[str]:
    return {each.id for each in nodes if matches(each.labels, selector)}


def choices(nodes: list[Node], avoided: Avoided, **labels: str) -> list[set[str]]:
    return [allowed(nodes, each) for each in selectors(nodes, ONE_GPU, labels, avoided)]


def test_an_actor_prefers_a_node_without_ranks_then_one_without_actors_and_gives_up_one_wish_after_another() -> None:
    nodes = [node(name) for name in NAMES]
    avoided = Avoided(quarantined={"d"}, ranks={"a"}, actors={"b"})
    assert choices(nodes, avoided) == [{"c"}, {"b", "c"}, {"a", "b", "c"}]


def test_a_node_of_the_newest_death_is_taken_only_when_no_other_has_room() -> None:
    nodes = [node("a"), node("b")]
    assert choices(nodes, Avoided(recent={"a"})) == [{"b"}, {"a", "b"}]


def test_a_single_machine_is_never_left_out() -> None:
    here = {"a"}
    assert choices([node("a")], Avoided(quarantined=here, recent=here, ranks=here, actors=here)) == [{"a"}]


def test_a_head_without_processors_is_no_place_for_an_actor_whatever_it_is_asked_for() -> None:
    nodes = [node("a", cpus=0, gpus=0), node("b")]
    assert choices(nodes, Avoided(quarantined={"b"})) == [{"a", "b"}]  # the label lets it in, the bundle does not
    assert not Bundle(1, 0).fits(nodes[0])


def test_labels_of_the_run_file_hold_under_every_wish() -> None:
    nodes = [node("a", role="learner"), node("b", role="actor"), node("c", role="actor")]
    for found in choices(nodes, Avoided(actors={"b"}), role="actor"):
        assert found <= {"b", "c"}


def test_a_cluster_without_nodes_yet_is_asked_for_any() -> None:
    assert selectors([], ONE_GPU, {"role": "actor"}, Avoided()) == [{"role": "actor"}]


sets = st.sets(st.sampled_from(NAMES))


@given(there=sets.filter(bool), quarantined=sets, recent=sets, ranks=sets, actors=sets)
def test_there_is_always_a_node_and_it_is_a_good_one_if_there_is_one(
    there: set[str], quarantined: set[str], recent: set[str], ranks: set[str], actors: set[str]
) -> None:
    nodes = [node(name) for name in sorted(there)]
    found = choices(nodes, Avoided(quarantined, recent, ranks, actors))
    assert all(found)
    assert all(earlier < later for earlier, later in pairwise(found))
    good = there - quarantined
    assert found[-1] == (good or there)


@given(there=sets, newcomer=st.just("new"), avoided=sets)
def test_a_node_that_comes_later_is_welcome(there: set[str], newcomer: str, avoided: set[str]) -> None:
    """It is not named in a selector that was made before: a cluster grows on demand."""
    for selector in selectors([node(name) for name in sorted(there)], ONE_GPU, {}, Avoided(avoided, avoided)):
        assert matches(node(newcomer).labels, selector)


@pytest.mark.parametrize(
    ("selector", "value", "meant"),
    [
        ("actor", "actor", True),
        ("actor", "learner", False),
        ("!actor", "learner", True),
        ("!actor", "actor", False),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", "a", False),
    ],
)
def test_selectors_mean_what_they_mean_to_ray(selector: str, value: str, meant: bool) -> None:
    assert matches({"role": value}, {"role": selector}) is meant


def test_a_node_is_in_quarantine_after_so_many_deaths_in_half_an_hour_and_for_as_long() -> None:
    deaths = Deaths(quarantine_after=3)
    assert [deaths.note("a", at) for at in (0.0, 10.0)] == [False, False]
    assert deaths.quarantined(10.0) == set()
    assert deaths.note("a", 20.0)
    assert deaths.quarantined(20.0 + QUARANTINE_S - 1) == {"a"}
    assert deaths.quarantined(20.0 + QUARANTINE_S) == set()


def test_deaths_that_are_far_apart_and_on_different_nodes_do_not_add_up() -> None:
    deaths = Deaths(quarantine_after=2)
    noted = [
        deaths.note(name, at) for name, at in (("a", 0.0), ("b", 1.0), ("a", QUARANTINE_S), ("b", QUARANTINE_S + 2))
    ]
    assert not any(noted)
    assert deaths.recent(QUARANTINE_S + RECENT_S + 1) == {"b"}


def test_the_line_counts_actors_and_says_what_they_need() -> None:
    assert waits_for_room(2, ONE_GPU, 0.0) == "waits for room: 2 actors of 1 GPU, free 0"
    assert waits_for_room(1, Bundle(1.0, 0), 0.5) == "waits for room: 1 actor of 1 CPU, free 0.5"
    assert waits_for_room(0, ONE_GPU, 0.0) == ""
