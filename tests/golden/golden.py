"""Reference vectors: what published implementations gave for fixed random inputs, from `data/` or `$GOLDEN_DIR`.

Knows their layout (`data/README.md`), not what is computed from them.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

OWN = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("GOLDEN_DIR") or OWN)
Computed = dict[str, Tensor | float]


@dataclass(frozen=True)
class Case:
    """One call of one reference."""

    folder: Path
    family: str
    name: str
    ref: str
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, Any]
    notes: str

    @property
    def id(self) -> str:
        return f"{self.family}:{self.name}"

    @property
    def set(self) -> str:
        """Input set that the arguments come from, "" if the case stores its own."""
        return next((_key(value).partition("/")[0] for value in self.inputs.values()), "")

    def shared(self, name: str) -> Tensor:
        """A tensor of the case's input set."""
        return torch.from_numpy(_arrays(self.folder, "inputs")[f"{self.set}/{name}"])

    def has(self, name: str) -> bool:
        """Whether the case's input set holds it."""
        return f"{self.set}/{name}" in _arrays(self.folder, "inputs")

    def __getitem__(self, argument: str) -> Tensor:
        """The tensor given for an argument of the reference, or one stored with the case."""
        if argument in self.inputs:
            value = torch.from_numpy(_arrays(self.folder, "inputs")[_key(self.inputs[argument])])
            return value[:, 0] if "first column" in self.inputs[argument] else value
        expected = self.expected(argument)
        assert isinstance(expected, Tensor), argument
        return expected

    def expected(self, output: str) -> Tensor | float:
        """What the reference gave."""
        value = self.outputs[output]
        if isinstance(value, dict):
            return torch.from_numpy(_arrays(self.folder, self.family)[value["npz"]])
        return float(value)

    @property
    def tolerance(self) -> float:
        """Relative; looser where the reference works in float32 inside."""
        given = _arrays(self.folder, "inputs")
        if any(given[_key(value)].dtype == np.float32 for value in self.inputs.values()):
            return 2e-5
        stored = {value["dtype"] for value in self.outputs.values() if isinstance(value, dict)}
        return 2e-5 if "float32" in self.notes or "float32" in stored else 1e-9


def families(folder: Path = FOLDER) -> list[str]:
    """Every family in the folder."""
    return sorted(path.stem for path in folder.glob("*.json"))


@cache
def load(family: str, folder: Path = FOLDER) -> tuple[Case, ...]:
    """Every case of a family."""
    manifest = json.loads((folder / f"{family}.json").read_text(encoding="utf-8"))
    keys = ("case", "ref", "inputs", "params", "outputs", "notes")
    return tuple(Case(folder, family, *(entry[key] for key in keys)) for entry in manifest["cases"])


def every_case(folder: Path = FOLDER) -> Iterator[Case]:
    """All cases of all families."""
    for family in families(folder):
        yield from load(family, folder)


def compare(case: Case, computed: Computed, tolerance: float, rows: Tensor | None = None) -> None:
    """Assert that what was computed is what the reference gave; of values per token, only in `rows` [B] bool.

    Gradients count everywhere, other values per token on the mask only. Differences are measured against the largest
    value: a sum of terms of both signs has no relative accuracy of its own.
    """
    mask = case.shared("mask").bool() if case.has("mask") else None
    if mask is not None and rows is not None:
        mask = mask & rows[:, None]
    for name, value in computed.items():
        expected = torch.as_tensor(case.expected(name), dtype=torch.float64)
        found = torch.as_tensor(value, dtype=torch.float64).detach()
        assert found.shape == expected.shape, f"{case.id} {name}: {tuple(found.shape)}, not {tuple(expected.shape)}"
        if mask is not None and found.shape == mask.shape and "grad" not in name:
            found, expected = found[mask], expected[mask]
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        worst = float((found - expected).abs().max()) if expected.numel() else 0.0
        assert worst <= tolerance * scale + 1e-15, f"{case.id} {name}: off by {worst:.3g} of {scale:.3g}"


def _key(given: str) -> str:
    """The key into `inputs.npz` of an argument as a manifest has it: `inputs.npz:s1/adv_seq (first column)`."""
    return given.partition(":")[2].partition(" ")[0]


@cache
def _arrays(folder: Path, family: str) -> Mapping[str, Any]:
    with np.load(folder / f"{family}.npz", allow_pickle=False) as table:
        return {key: table[key] for key in table.files}


Adapter = Callable[[Case], Computed]
