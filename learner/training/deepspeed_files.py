"""How DeepSpeed's state is put into files: durable when `save` returns, and read without running what they hold.

The one module that loads pickles; a pickle that names anything but what DeepSpeed's own state needs is refused.
"""

import os
from collections.abc import Iterator
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


class ShardFiles(CheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's storage back end. A failed write is kept in `problem` instead of raised: the other ranks are already
    on their way to the next collective, where they would wait for this one until their deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""
        """What the disk refused last; empty: nothing."""

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing to prepare."""

    def save(self, state_dict: Any, path: str) -> None:
        """Write and sync one file."""
        with self._tolerated(), open(path, "wb") as file:
            torch.save(state_dict, file)
            file.flush()
            os.fsync(file.fileno())

    def save_random_state(self, path: Path) -> None:
        """Keep the state of this process's random generators."""
        states = {"cpu": torch.get_rng_state()}
        states |= {f"cuda-{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
        with self._tolerated():
            path.write_bytes(serialize(states))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file."""
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location=map_location, weights_only=True)

    def commit(self, info: CheckpointCommitInfo) -> None:
        """A checkpoint counts when its manifest and a pointer exist, which is not DeepSpeed's business."""

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # the latter is how torch reports a short write
            self.problem = str(error)


def load_random_state(path: Path) -> None:
    """Take the generators back to where `save_random_state` found them."""
    states = load_file(path)
    torch.set_rng_state(states.pop("cpu"))
    for name, state in states.items():
        torch.cuda.set_rng_state(state, int(name.removeprefix("cuda-")))
