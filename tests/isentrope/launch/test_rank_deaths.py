"""Which node a death of ranks counts on."""

import os
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from isentrope.launch.rank_deaths import NODES, RankDeath, RankLogs, blamed

PLACES = ["a", "a", "b", "c"]
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
    assert blamed(failures, PLACES) == nodes


def test_ranks_whose_nodes_are_not_known_count_nowhere() -> None:
    assert blamed({0: GONE}, []) == set()


def test_an_error_without_ranks_counts_nowhere_and_names_its_last_line() -> None:
    death = RankDeath.of(ValueError("it failed:\n  File x\nValueError: no"), PLACES)
    assert death.nodes == () and death.last_line == "ValueError: no"


@pytest.mark.parametrize(
    ("up", "nodes", "why", "blamed_nodes"),
    [
        ({0, 1}, "", "no rank has got a process for 60 s", ()),
        ({0}, '["a", "b"]', "rank 1 (host-b) has not come up for 60 s", ("b",)),
        ({0, 1}, '["a", "b', "no rank has got a process for 60 s", ()),
        (set(), '["a", "c"]', "rank 0 (host-a), rank 1 (c) have not come up for 60 s", ("a", "c")),
        ({0, 1}, '["a", "b"]', "rank 0 (host-a), rank 1 (host-b) have come up, but not opened the run for 60 s", ()),
    ],
)
def test_late_ranks_are_named_by_what_each_has_written_since(
    tmp_path: Path, up: set[int], nodes: str, why: str, blamed_nodes: tuple[str, ...]
) -> None:
    (tmp_path / "learner-0.log").write_text("of an earlier start\n")
    os.utime(tmp_path / "learner-0.log", (0, 1))
    logs = RankLogs.now(tmp_path, 2)
    for rank in up:
        (tmp_path / f"learner-{rank}.log").write_text("up\n")
    if nodes:
        (tmp_path / NODES).write_text(nodes)
    assert logs.late_death(60.0, {"a": "host-a", "b": "host-b"}) == RankDeath(why, blamed_nodes, late=True)
