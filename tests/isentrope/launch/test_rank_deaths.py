"""Which node a death of ranks counts on."""

import pytest
from ray.exceptions import RayActorError

from isentrope.launch.rank_deaths import RankDeath, blamed

NODES = ["a", "a", "b", "c"]
GONE = RayActorError()
MISSED = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "nodes"),
    [
        ({2: GONE}, {"b"}),
        ({0: MISSED, 1: MISSED, 2: GONE, 3: MISSED}, {"b"}),
        ({0: GONE, 1: GONE}, {"a"}),
        ({0: GONE, 3: GONE}, {"a", "c"}),
        ({0: MISSED, 1: MISSED}, {"a"}),
        ({0: MISSED, 2: MISSED}, set()),
        ({}, set()),
    ],
)
def test_a_death_counts_where_a_process_is_gone_or_where_alone_one_failed(
    failures: dict[int, BaseException], nodes: set[str]
) -> None:
    assert blamed(failures, NODES) == nodes


def test_ranks_whose_nodes_are_not_known_count_nowhere() -> None:
    assert blamed({0: GONE}, []) == set()


def test_an_error_without_ranks_counts_nowhere_and_names_its_last_line() -> None:
    death = RankDeath.of(ValueError("it failed:\n  File x\nValueError: no"), NODES)
    assert death.nodes == () and death.last_line == "ValueError: no"
