"""The network of a run that trains nothing: to publish and to measure, without optimizer and gradient, whole on every
rank."""

from collections.abc import Sequence
from pathlib import Path

import torch

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import Packed, pack_row
from isentrope.learner.training.model import Policy
from isentrope.learner.training.token_statistics import logp_at, moments_at
from isentrope.learner.training.weight_source import WeightSource


class FrozenEngine:
    """The part of a `TrainingEngine` that does not train. Methods are not collective: every rank has the whole."""

    def __init__(self, policy: Policy, temperature: float, device: torch.device) -> None:
        """Take over `policy`, which is whole; `temperature` is that of sampling."""
        self.device = device
        self.policy = policy.requires_grad_(False).to(device)
        self.policy.settle_attention(device)
        self.policy.check_head(device)
        self._temperature = temperature

    @torch.no_grad()
    def statistics(self, packed: Packed) -> Moments:
        """Return statistics of the policy: [n, T] each, on the CPU, 0 off the responses."""
        moments = self.policy(packed, moments_at(self._temperature, packed.kept))
        return Moments(*(packed.to_padded(values).cpu() for values in moments))

    @torch.no_grad()
    def logp(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of every token but the first at temperature 1."""
        values: list[float] = self.policy(pack_row(tokens, self.device), logp_at(1.0)).tolist()
        return values

    def forget_moments(self) -> None:
        """Do nothing: there are none."""

    @property
    def weights(self) -> WeightSource:
        """The weights, to be written or copied."""
        return WeightSource(self.policy.network)

    def save(self, folder: Path) -> str:
        """Write nothing: a checkpoint of this run is its state alone. Return the error of the disk: none."""
        return ""
