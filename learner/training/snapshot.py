"""A copy of this rank's share of the weights, from which a version is written while training goes on.

Where every rank has whole parameters (ZeRO 0 to 2), each copies its share of them. Under ZeRO-3 each copies its piece
of every parameter, as it is: nothing is gathered while training stands. The pieces of a parameter meet later, in memory
of the CPU, on the rank that writes it.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isentrope.errors import StorageError
from isentrope.learner.training.collectives import Channel
from isentrope.learner.training.weight_source import Part, WeightSource
from isentrope.rollout.wire.tensor_bits import bits_of

ALIGNMENT = 64
"""Bytes of which every copy begins at a multiple, whatever its dtype."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """Place of one tensor, or of this rank's piece of it, in the buffer."""

    part: Part
    flat: Tensor


class Snapshot:
    """The copy of one rank. Its memory is kept: as much as the weights have bytes, divided by the ranks."""

    def __init__(self, source: WeightSource, channel: Channel, device: torch.device) -> None:
        """Prepare the memory, pinned if `device` is an accelerator, and touch all of it: page faults take as long as
        several copies."""
        self._source = source
        self._channel = channel
        self._device = device
        self._owner = _owners(source, channel.size)
        held = [
            part
            for target, parts in source.groups.items()
            for part in parts
            if _is_divided(part.value) or self._owner[target] == channel.rank
        ]
        size = sum(_aligned(_own(part.value).nbytes) for part in held)
        self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type != "cpu").zero_()
        self._copies = self._placed(held)
        self._bits: dict[str, str] = {}
        """Hash of each live tensor by its name in memory; empty where the copy is made by the CPU itself."""

    @torch.no_grad()
    def take(self) -> None:
        """Copy the present weights; what is yielded by `published` of the former copy must not be used any more."""
        for name, copy in self._copies.items():
            live = _own(copy.part.value)
            copy.flat.copy_(live, non_blocking=True)
            if self._device.type != "cpu":
                self._bits[name] = bits_of(live)
        if self._device.type != "cpu":
            torch.accelerator.synchronize()

    def check(self) -> None:
        """Raise StorageError if a copy does not have the bits that its original had on the accelerator."""
        for name, bits in self._bits.items():
            if bits_of(self._copies[name].flat) != bits:
                raise StorageError(f"the copy of {name} is not what the accelerator had in memory")

    def published(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that this rank is to write, whole, as `WeightSource.published` would; collective on the
        channel, so every rank must read to the end."""
        for target, parts in self._source.groups.items():
            owner = self._owner[target]
            values = [self._whole(part, owner) for part in parts]
            if owner == self._channel.rank:
                yield from self._source.converted(target, [value for value in values if value is not None])

    def _placed(self, held: list[Part]) -> dict[str, _Copy]:
        copies, begin = {}, 0
        for part in held:
            own = _own(part.value)
            flat = self._buffer[begin : begin + own.nbytes].view(own.dtype)
            copies[part.name] = _Copy(part, flat)
            begin += _aligned(own.nbytes)
        return copies

    def _whole(self, part: Part, owner: int) -> Tensor | None:
        """Return the copy of a whole tensor, on rank `owner` alone."""
        if not _is_divided(part.value):
            return self._copies[part.name].flat.view(part.value.shape) if owner == self._channel.rank else None
        joined = self._channel.joined(self._copies[part.name].flat, owner)
        shape = _shape(part.value)
        return None if joined is None else joined[: shape.numel()].view(shape)


def _owners(source: WeightSource, ranks: int) -> Mapping[str, int]:
    """Return the rank that writes each group of parts: the largest first, to the rank with the fewest bytes; alike on
    every rank."""
    size = {target: sum(_bytes_of(part.value) for part in parts) for target, parts in source.groups.items()}
    heap = [(0, rank) for rank in range(ranks)]
    owners: dict[str, int] = {}
    for target in sorted(size, key=lambda target: (-size[target], target)):
        taken, owners[target] = heap[0]
        heapq.heapreplace(heap, (taken + size[target], owners[target]))
    return owners


def _is_divided(value: Tensor) -> bool:
    """Return True for a parameter of ZeRO-3, of which every rank has a piece."""
    return hasattr(value, "ds_tensor")


def _own(value: Tensor) -> Tensor:
    """Return what this rank has of a tensor, flat."""
    own: Tensor = getattr(value, "ds_tensor", value)
    return own.detach().reshape(-1)


def _shape(value: Tensor) -> torch.Size:
    return torch.Size(getattr(value, "ds_shape", value.shape))


def _bytes_of(value: Tensor) -> int:
    return _shape(value).numel() * value.itemsize


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
