"""The reference policy: a copy of the network that is not trained, whole on every rank, and the files of its weights
after it has been refreshed from the policy.

    <output_dir>/reference/<batch>/    weights of the reference refreshed after that batch, with their manifest
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from isentrope.errors import StorageError
from isentrope.learner.intake.packing import Packed
from isentrope.learner.training.model import Policy
from isentrope.learner.training.token_statistics import logp_at
from isentrope.learner.training.weight_files import write_version
from isentrope.rollout.wire.files import UNFINISHED
from isentrope.rollout.wire.weights import MANIFEST, Manifest, verify

KEPT = 2
"""References on the disk: a checkpoint from before the last refresh still finds its own."""


class ReferencePolicy:
    """One reference policy."""

    def __init__(self, policy: Policy, temperature: float, device: torch.device) -> None:
        """Take over `policy`, which is whole; `temperature` is that of sampling."""
        self._policy = policy.requires_grad_(False).to(device)
        self._temperature = temperature

    @torch.no_grad()
    def logp(self, packed: Packed) -> Tensor:
        """Return the log-probabilities of the responses' tokens: [n, T], on the CPU, 0 off the responses."""
        return packed.to_padded(self._policy(packed, logp_at(self._temperature, packed.kept))).cpu()

    @torch.no_grad()
    def refreshed(self, parameters: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Copy every value, and yield it again; must be read to its end."""
        own = dict(self._policy.network.named_parameters())
        for name, value in parameters:
            own[name].copy_(value)
            yield name, value

    def load(self, folder: Path) -> None:
        """Load the weights that `write` has written; StorageError if they are missing or damaged."""
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"the reference's weights cannot be read: {error}", where=str(folder)) from None
        shards = verify(manifest.model_copy(update={"folder": str(folder)}))
        tensors = (item for path in shards for item in load_file(path).items())
        for _ in self.refreshed(tensors):
            pass


def reference_folder(output_dir: Path, batch: int) -> Path:
    """Return the folder of the reference refreshed after `batch`."""
    return output_dir / "reference" / str(batch)


def write(parameters: Iterator[tuple[str, Tensor]], folder: Path, *, version: int) -> None:
    """Write a refreshed reference to `folder`, whole or not at all, and delete all but the newest ones.

    `parameters` is read to its end even after an error.

    Raises:
        StorageError: it could not be written.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    write_version(parameters, unfinished, version=version)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
    finished = sorted((int(path.name) for path in folder.parent.iterdir() if path.name.isdecimal()), reverse=True)
    for batch in finished[KEPT:]:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder.with_name(str(batch)))
