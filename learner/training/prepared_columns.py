"""Results of rank 0's preparation of a batch, as bytes for the rank whose network sees some of its responses."""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor

from isentrope.learner.intake import columns
from isentrope.learner.intake.columns import Array
from isentrope.learner.intake.packing import pad
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.batch import Batch, Prepared


def to_bytes(prepared: Prepared, rows: Sequence[int]) -> bytes:
    """Return everything about responses `rows` that does not follow from their share of the batch."""
    chosen = torch.tensor(rows, dtype=torch.int64)
    valid = prepared.batch.valid[chosen]
    table = {"tokens": prepared.tokens, "reduce": prepared.reduce[:, chosen]}
    table |= {f"aux_reduce_{place}": factor[:, chosen] for place, factor in enumerate(prepared.aux_reduce)}
    per_token = {"mask": prepared.mask, "advantage": prepared.advantage, "weight": prepared.weight}
    per_token |= {f"kl_weight_{place}": weight for place, weight in enumerate(prepared.kl_weight) if weight is not None}
    per_token |= {"returns": prepared.returns} if prepared.returns is not None else {}
    table |= {name: values[chosen][valid] for name, values in per_token.items()}
    return columns.to_bytes({name: values.numpy() for name, values in table.items()})


def from_bytes(blob: bytes, ragged: RaggedBatch, batch: Batch, terms: Sequence[bool]) -> Prepared:
    """Return what `to_bytes` wrote of these responses; `terms`: which KL terms have weights. Metrics are rank 0's."""
    found = columns.from_bytes(blob)

    def padded(name: str) -> Tensor:
        return pad(ragged.length, ragged.longest, torch.from_numpy(found[name]))

    return Prepared(
        batch=batch,
        mask=padded("mask"),
        advantage=padded("advantage"),
        weight=padded("weight"),
        reduce=torch.from_numpy(found["reduce"]),
        tokens=torch.from_numpy(found["tokens"]),
        kl_weight=tuple(padded(f"kl_weight_{place}") if weighs else None for place, weighs in enumerate(terms)),
        aux_reduce=tuple(torch.from_numpy(found[name]) for name in _numbered(found, "aux_reduce")),
        metrics={},
        returns=padded("returns") if "returns" in found else None,
    )


def _numbered(found: Mapping[str, Array], name: str) -> list[str]:
    return list(takewhile(found.__contains__, (f"{name}_{place}" for place in count())))
