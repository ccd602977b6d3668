"""Deaths of ranks: how a group of ranks has ended before its time, and on which nodes that began."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankDeath:
    """End of a group of ranks that may be started again."""

    why: str
    nodes: tuple[str, ...] = ()
    """Ids of the nodes that it began on; empty: it cannot be told."""

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
