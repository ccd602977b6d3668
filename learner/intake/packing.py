"""From ragged rows to tensors: packed `[M]` for the network, padded `[N, T]` for the objective, and the one index map
between both.

Every rank makes a `Batch` of its share (rank 0 of all of them), and packs its own micro-batches by `plan.py`.

N responses, T tokens of the longest, W tokens of the largest sampling mask. A packed row is a prompt and its response
without the last token, whose successor is not needed: M tokens in all, K of which predict a token of a response.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.ragged import RaggedBatch, places_of, starts_of
from isentrope.learner.objective.batch import COLUMNS, PER_TOKEN, Batch
from isentrope.rollout.wire.types import Int64


@dataclass(frozen=True, slots=True)
class Packed:
    """Some responses end to end, and the place of each of their tokens in the padded form.

    Without responses there is one dummy token in one row, and nothing is predicted.
    """

    rows: Tensor
    """[n] int64, on the CPU: the responses, by their place in the batch."""
    ids: Tensor
    """[M] int64: tokens the network sees."""
    position: Tensor
    """[M] int64: place of the token in its row; begins again with every row."""
    starts: Tensor
    """[rows + 1] int32: starts of rows, and M; the `cu_seqlens` of attention kernels."""
    source: Tensor
    """[K] int64: the packed token after which each target comes."""
    target: Tensor
    """[K] int64: tokens of the responses."""
    slot: Tensor
    """[K] int64: place of each target in the flattened `[n, T]`."""
    longest: int
    """T of the whole batch."""
    kept: Tensor | None = None
    """[K, W] int64: tokens among which each target was chosen, -1 after them; a row of -1 alone: the whole vocabulary.
    None: all were chosen from it."""

    def to_padded(self, values: Tensor) -> Tensor:
        """Return `[K]` values of targets as `[n, T]`, 0 off the responses; differentiable."""
        return _padded(values, self.slot, (len(self.rows), self.longest))

    def to_packed(self, values: Tensor) -> Tensor:
        """Return `[n, T]` values as `[K]`, one for each target; differentiable."""
        return values.reshape(-1)[self.slot]

    def rectangle(self) -> tuple[Tensor, Tensor]:
        """Return, for a network without packed attention, ids as `[rows, S]`, padded right with 0 (causal attention
        never sees that), and for each of the M packed tokens its place in the flattened rectangle."""
        lengths = self.starts.diff()
        longest = int(lengths.max())
        row = torch.repeat_interleave(torch.arange(len(lengths), device=self.ids.device), lengths)
        cell = row * longest + self.position
        ids = self.ids.new_zeros(len(lengths) * longest).index_copy(0, cell, self.ids)
        return ids.view(len(lengths), longest), cell


def make_batch(
    ragged: RaggedBatch,
    statistics: Moments,
    *,
    seed: int,
    logp_ref: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Return the batch in the objective's form, on the CPU.

    Args:
        ragged: the whole batch, or a rank's share.
        statistics: [N, T] each, of the policy before the first update.
        seed: seed of the run.
        logp_ref: [N, T], of the reference policy.
        dtype: of all floating-point columns.
    """

    def column(name: str) -> Tensor:
        values = torch.from_numpy(getattr(ragged, name))
        values = values.to(dtype) if values.is_floating_point() else values
        return pad(ragged.length, ragged.longest, values) if name in PER_TOKEN else values

    columns: dict[str, Any] = {name: column(name) for name in COLUMNS if getattr(ragged, name) is not None}
    return Batch(
        **columns,
        number=ragged.number,
        source_names=ragged.source_names,
        part_weights=ragged.part_weights,
        valid=pad(ragged.length, ragged.longest, torch.ones(int(ragged.length.sum()), dtype=torch.bool)),
        seed=seed,
        statistics=statistics,
        logp_ref=logp_ref,
    )


def pad(length: Int64, longest: int, values: Tensor) -> Tensor:
    """Return the values [S] of tokens of responses that are `length` [N] long as [N, T], 0 in the padding."""
    owner, place = places_of(length)
    return _padded(values, torch.from_numpy(owner * longest + place), (len(length), longest))


def pack(ragged: RaggedBatch, rows: Sequence[int], device: torch.device | str = "cpu") -> Packed:
    """Pack the responses `rows` of the batch, end to end in this order.

    Without rows, a rank still runs the same network and the same collectives as the others, and adds exactly zero.
    """
    chosen, longest = np.asarray(rows, np.int64), ragged.shape[1]
    if len(chosen) == 0:
        none, zero = np.zeros(0, np.int64), np.zeros(1, np.int64)
        return _packed(chosen, (zero, zero, np.array([0, 1]), none, none, none), longest, device)
    group, length = ragged.group[chosen], ragged.length[chosen]
    prompt_length, packed_length = ragged.prompt_length[group], ragged.packed_length[chosen]
    row, position = places_of(packed_length)
    after_prompt = position - prompt_length[row]
    in_prompt = after_prompt < 0
    first = np.where(in_prompt, starts_of(ragged.prompt_length)[group][row], starts_of(ragged.length)[chosen][row])
    place = first + np.where(in_prompt, position, after_prompt)
    ids = np.empty(len(row), np.int64)
    ids[in_prompt] = ragged.prompt[place[in_prompt]]
    ids[~in_prompt] = ragged.tokens[place[~in_prompt]]
    owner, token = places_of(length)
    starts = starts_of(packed_length)
    source = starts[owner] + prompt_length[owner] - 1 + token
    of_target = starts_of(ragged.length)[chosen][owner] + token
    bounds = np.append(starts, len(row))
    target, slot = ragged.tokens[of_target], owner * longest + token
    packed = _packed(chosen, (ids, position, bounds, source, target, slot), longest, device)
    return replace(packed, kept=_kept(ragged, of_target, device))


def _kept(ragged: RaggedBatch, places: NDArray[np.int64], device: torch.device | str) -> Tensor | None:
    """Return `Packed.kept` of the tokens of responses at `places`."""
    if ragged.kept is None or ragged.kept_count is None:
        return None
    count = ragged.kept_count[places].astype(np.int64)
    row, place = places_of(count)
    kept = np.full((len(places), max(1, count.max(initial=0))), -1, np.int64)
    kept[row, place] = ragged.kept[starts_of(ragged.kept_count.astype(np.int64))[places][row] + place]
    return torch.from_numpy(kept).to(device)


def pack_row(tokens: Sequence[int], device: torch.device | str = "cpu") -> Packed:
    """Pack one row of which every token but the first is to be predicted."""
    return pack_rows([tokens], device)


def pack_rows(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Packed:
    """Pack rows of which every token but the first is to be predicted."""
    length = np.array([len(tokens) - 1 for tokens in rows], np.int64)
    row, place = places_of(length)
    longest = int(length.max())
    ids = np.concatenate([np.asarray(tokens[:-1], np.int64) for tokens in rows])
    target = np.concatenate([np.asarray(tokens[1:], np.int64) for tokens in rows])
    bounds = np.append(starts_of(length), len(row))
    columns = (ids, place, bounds, np.arange(len(row)), target, row * longest + place)
    return _packed(np.arange(len(rows)), columns, longest, device)


def _packed(
    rows: NDArray[np.int64], columns: Sequence[NDArray[Any]], longest: int, device: torch.device | str
) -> Packed:
    ids, position, starts, source, target, slot = (
        torch.from_numpy(column.astype(np.int64)).to(device) for column in columns
    )
    return Packed(torch.from_numpy(rows), ids, position, starts.to(torch.int32), source, target, slot, longest)


def _padded(values: Tensor, slot: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return `values` of tokens as [rows, T], each at its `slot` of the flattened form, 0 elsewhere; differentiable."""
    rows, longest = shape
    return values.new_zeros(rows * longest).index_copy(0, slot, values).view(rows, longest)
