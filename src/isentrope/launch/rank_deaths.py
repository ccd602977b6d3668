"""Deaths of ranks: how a group of ranks has ended before its time, and on which nodes that began."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NODES = "ranks.json"
"""File of the logs that says on which node each rank is."""


@dataclass(frozen=True, slots=True)
class RankDeath:
    """End of a group of ranks that may be started again."""

    why: str
    nodes: tuple[str, ...] = ()
    """Ids of the nodes that it began on; empty: it cannot be told."""
    late: bool = False
    """True: the ranks had not opened the run in time, and were ended."""

    @classmethod
    def of(cls, error: BaseException, nodes: Sequence[str]) -> "RankDeath":
        """Return the death that Ray Train's `error` tells of. nodes: the node of each rank, as far as it is known."""
        return cls(str(error), tuple(sorted(blamed(getattr(error, "worker_failures", {}), nodes))))

    @property
    def last_line(self) -> str:
        """The line of the reason that names it; those of a traceback before it are indented."""
        return [line for line in self.why.splitlines() if line and not line[0].isspace()][-1]


def blamed(failures: Mapping[int, BaseException], nodes: Sequence[str]) -> set[str]:
    """Return the nodes on which ranks failed first. failures: what each failed rank ended by.

    A process that is gone is a cause. One that raised an error may only have missed another one, unless all that raised
    are on one node.
    """
    from ray.exceptions import RayActorError

    known = {rank: error for rank, error in failures.items() if rank < len(nodes)}
    gone = {nodes[rank] for rank, error in known.items() if isinstance(error, RayActorError)}
    raised = {nodes[rank] for rank in known}
    return gone or (raised if len(raised) == 1 else set())


def nodes_of(log_folder: Path) -> list[str]:
    """Return the id of each rank's node; none: the ranks have no processes yet, or the file cannot be read."""
    try:
        found = json.loads((log_folder / NODES).read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    return list(map(str, found)) if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class RankLogs:
    """The logs of ranks, by which those that have come up since are told from those that have not."""

    folder: Path
    touched: tuple[int, ...]
    """Time at which each was last written, by the clock of its disk; 0: it was not there."""

    @classmethod
    def now(cls, folder: Path, ranks: int) -> Self:
        """Return the logs as they are now."""
        return cls(folder, tuple(_touched(folder, rank) for rank in range(ranks)))

    def late_death(self, limit_s: float, hosts: Mapping[str, str]) -> RankDeath:
        """Return the death of ranks that were awaited for `limit_s`. hosts: host of each node."""
        nodes = nodes_of(self.folder)
        if not nodes:
            return RankDeath(f"no rank has got a process for {limit_s:.0f} s", late=True)
        up = {rank for rank, before in enumerate(self.touched) if _touched(self.folder, rank) != before}
        missing = [rank for rank in range(len(nodes)) if rank not in up]
        late = missing or list(range(len(nodes)))
        names = ", ".join(f"rank {rank} ({hosts.get(nodes[rank], nodes[rank])})" for rank in late)
        what = "not come up" if missing else "come up, but not opened the run"
        why = f"{names} {'has' if len(late) == 1 else 'have'} {what} for {limit_s:.0f} s"
        return RankDeath(why, tuple(sorted({nodes[rank] for rank in missing})), late=True)


def _touched(folder: Path, rank: int) -> int:
    try:
        return (folder / f"learner-{rank}.log").stat().st_mtime_ns
    except OSError:
        return 0
