"""Signs of life of the learner's ranks: each counts up in the store that their launcher has opened; rank 0 looks.

A collective tells only at its deadline that a rank is missing. A rank that is stopped, or whose machine is cut off,
stops counting at once.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

BEAT_S = 1.0


class RankBeats:
    """This rank's sign of life, and rank 0's view of the others."""

    def __init__(self, store: Store, rank: int, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start to count on ranks 1 and higher, until the store is gone or the process ends.

        Args:
            store: the ranks' own; a connection of its own, because a call of another thread may wait in it.
            rank: this rank.
            size: number of ranks.
            clock: seconds, of any origin.
        """
        self._store = store
        self._clock = clock
        self._seen = [("", clock())] * size
        if rank:
            threading.Thread(target=self._count, args=(str(rank),), name="beats", daemon=True).start()

    def silent_s(self) -> list[float]:
        """Return for each rank the seconds since it was seen to count; 0 for rank 0, which asks."""
        now = self._clock()
        for rank in range(1, len(self._seen)):
            with contextlib.suppress(RuntimeError):  # the store is gone: the ranks end, and say so themselves
                found = self._store.get(str(rank)).decode() if self._store.check([str(rank)]) else ""
                if found != self._seen[rank][0]:
                    self._seen[rank] = found, now
        return [0.0, *(now - at for _, at in self._seen[1:])]

    def _count(self, name: str) -> None:
        with contextlib.suppress(RuntimeError):
            for number in range(1 << 62):
                self._store.set(name, str(number))
                time.sleep(BEAT_S)


def open_beats(rank: int, size: int) -> RankBeats:
    """Return the signs of life of the ranks of `torch.distributed`, which is initialised."""
    shared = dist.distributed_c10d._get_default_store()
    store = shared.clone()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not in torch's stub
    return RankBeats(PrefixStore("isentrope_beats", store), rank, size)
