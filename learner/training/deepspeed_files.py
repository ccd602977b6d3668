"""Files of DeepSpeed's state: durable when `save` returns, and read without running code in them.

The one module that loads pickles; a pickle that names any class but those of DeepSpeed's own state is refused.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from safetensors.torch import load_file
from safetensors.torch import save as serialize

ALLOWED = [LossScaler, ZeroStageEnum, fragment_address]
# For the whole process: the context manager of the same purpose takes names away that were there before it.
torch.serialization.add_safe_globals(ALLOWED)


class ShardFiles(CheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's storage back end. A failed write is stored in `problem` instead of raised: the other ranks would wait
    for this one in the next collective until their deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""
        """Last error of the disk; empty: none."""

    def create(self, info: CheckpointCommitInfo) -> None:
        """Prepare nothing."""

    def save(self, state_dict: Any, path: str) -> None:
        """Write and sync one file."""
        with self._tolerated(), open(path, "wb") as file:
            torch.save(state_dict, file)
            file.flush()
            os.fsync(file.fileno())

    def save_random_state(self, path: Path) -> None:
        """Write the state of this process's random generators."""
        states = {"cpu": torch.get_rng_state()}
        states |= {f"cuda-{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
        with self._tolerated():
            path.write_bytes(serialize(states))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file."""
        return torch.load(path, map_location=map_location, weights_only=True)

    def commit(self, info: CheckpointCommitInfo) -> None:
        """Do nothing: a checkpoint counts when its manifest and a pointer exist, which `CheckpointStore` writes."""

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
            self.problem = str(error)


class ComparedFiles(ShardFiles):
    """Storage back end that writes nothing: it compares what is to be saved with files that are there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.difference = ""
        """First difference, with the file and the names that lead to it; empty: none."""
        self._folder = folder

    def save(self, state_dict: Any, path: str) -> None:
        """Compare with the file of this name."""
        file = self._folder / Path(path).name
        if not self.difference:
            there = self.load(str(file), map_location="cpu") if file.exists() else None
            self.difference = first_difference(state_dict, there, file.name)


def first_difference(one: Any, other: Any, name: str) -> str:
    """Return the name of the first part of two states that differs in any bit; empty: they are equal. States are
    tensors, and what holds them: mappings, sequences, objects."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return "" if _bits(one) == _bits(other) else name
    if isinstance(one, LossScaler) and isinstance(other, LossScaler):
        return first_difference(vars(one), vars(other), name)
    parts: list[tuple[object, Any, Any]]
    if isinstance(one, Mapping) and isinstance(other, Mapping) and list(one) == list(other):
        parts = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = [(place, *pair) for place, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, Mapping | list | tuple):
        return name
    else:
        return "" if type(one) is type(other) and one == other else name
    return next((found for key, *pair in parts if (found := first_difference(pair[0], pair[1], f"{name}: {key}"))), "")


def _bits(tensor: torch.Tensor) -> tuple[object, ...]:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, content.numpy().tobytes()


def load_random_state(path: Path) -> None:
    """Restore the generators to the state that `save_random_state` wrote."""
    states = load_file(path)
    torch.set_rng_state(states.pop("cpu"))
    for name, state in states.items():
        torch.cuda.set_rng_state(state, int(name.removeprefix("cuda-")))
