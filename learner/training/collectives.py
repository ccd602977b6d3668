"""Collectives of the learner's ranks: broadcast, gather, deal, report, sum, and a roll call.

How calls behave: every method is collective, i.e. all ranks call it, or its counterpart, in the same order. They run on
their own gloo group, with their own deadline, so that they work beside the training engine's group. When a rank is
missing, the others get a RuntimeError at the deadline (at once if its process is gone), and `roll_call` logs which. One
group serves one thread of each rank: the calls of two threads would meet each other.
No message holds code: bytes are bytes, and everything else is JSON.
"""

import json
import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import get_node_local_rank

from isentrope.learner.training.rank_beats import open_beats

ROLL_CALL_S = 5.0

logger = logging.getLogger(__name__)


class Channel:
    """One thread of this process in a group of one thread of each rank."""

    def __init__(self, timeout_s: float) -> None:
        """Join the other ranks; each call waits for them at most `timeout_s`."""
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._group = _new_group(timeout_s)

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON-able `value` of every rank, on every rank."""
        text = json.dumps(value).encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(text)]), group=self._group)
        longest = max(int(size) for size in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(texts, torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8), group=self._group)
        return [json.loads(bytes(text.numpy())) for text in texts]

    def joined(self, piece: Tensor, owner: int) -> Tensor | None:
        """Return the pieces of all ranks end to end, on rank `owner`; None on the others.

        piece: [n] on the CPU, of the same length and dtype on every rank.
        """
        content = piece.view(torch.uint8)
        whole = content.new_empty(self.size, len(content)) if self.rank == owner else None
        dist.gather(content, None if whole is None else list(whole.unbind()), owner, self._group)
        return None if whole is None else whole.view(-1).view(piece.dtype)


class Collectives(Channel):
    """The main thread of this process in the group of ranks. `torch.distributed` is initialised by the launcher."""

    def __init__(self, timeout_s: float) -> None:
        """Join the other ranks; each call waits for them at most `timeout_s`."""
        super().__init__(timeout_s)
        self._absent_group = _new_group(ROLL_CALL_S)
        self.background = Channel(timeout_s)
        """Channel of the threads that write versions."""
        self.device = torch.device("cpu")
        """Device of this rank's network."""
        if torch.cuda.is_available():
            self.device = torch.device("cuda", get_node_local_rank())
            torch.cuda.set_device(self.device)
        self.beats = open_beats(self.rank, self.size)
        self.places = [str(place) for place in self.gather(f"{socket.gethostname()}, pid {os.getpid()}")]

    def broadcast(self, message: bytes = b"") -> bytes:
        """Return rank 0's message, on every rank."""
        size = torch.tensor([len(message)])
        dist.broadcast(size, 0, group=self._group)
        buffer = bytearray(message) if self.rank == 0 else bytearray(int(size))
        if buffer:
            dist.broadcast(torch.frombuffer(buffer, dtype=torch.uint8), 0, group=self._group)
        return bytes(buffer)

    def deal(self, part_of: Callable[[int], bytes]) -> None:
        """Send every other rank its part; the others call `dealt`."""
        for rank in range(1, self.size):
            part = part_of(rank)
            dist.send(torch.tensor([len(part)]), rank, self._group)
            if part:
                dist.send(torch.frombuffer(bytearray(part), dtype=torch.uint8), rank, self._group)

    def dealt(self) -> bytes:
        """Return what rank 0 deals to this rank."""
        size = torch.zeros(1, dtype=torch.int64)
        dist.recv(size, 0, self._group)
        part = torch.empty(int(size), dtype=torch.uint8)
        if len(part):
            dist.recv(part, 0, self._group)
        return part.numpy().tobytes()

    def report(self, values: Tensor) -> None:
        """Send rank 0 values on the CPU; rank 0 calls `reported`."""
        dist.send(values.contiguous(), 0, self._group)

    def reported(self, rank: int, blank: Tensor) -> Tensor:
        """Return what another rank reports, of the shape and dtype of `blank`, which it fills."""
        dist.recv(blank, rank, self._group)
        return blank

    def sum(self, values: Tensor) -> Tensor:
        """Sum CPU tensors of one shape over the ranks, in place."""
        dist.all_reduce(values, dist.ReduceOp.SUM, group=self._group)
        return values

    def roll_call(self, doing: str) -> None:
        """Log which ranks are missing, after a collective has failed."""
        try:
            dist.monitored_barrier(self._absent_group, timeout=timedelta(seconds=ROLL_CALL_S), wait_all_ranks=True)
        except RuntimeError as error:
            if self.rank == 0:
                places = "; ".join(f"rank {rank}: {place}" for rank, place in enumerate(self.places))
                logger.error("ranks missing while %s: %s (%s)", doing, error, places)


def _new_group(timeout_s: float) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert isinstance(group, dist.ProcessGroup), "every rank is in it"
    return group
