"""One optimizer update over any number of micro-batches, through a DeepSpeed engine of any ZeRO stage.

The loss is a sum with global denominators already in it, so the gradient must be the plain sum over micro-batches and
ranks. DeepSpeed divides by the ranks, hence the factor; and by accumulation steps, of which it is configured with one
while the boundary between updates is set by hand. The only module that uses DeepSpeed's engine.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from isentrope.kernels.plain import Moments
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.packing import Packed, pack_row
from isentrope.learner.objective.batch import LossParts
from isentrope.learner.training.deepspeed_files import ComparedFiles, ShardFiles, load_random_state
from isentrope.learner.training.micro_batch import Loss
from isentrope.learner.training.model import Policy
from isentrope.learner.training.rank_change import only_weights
from isentrope.learner.training.token_statistics import logp_at, moments_at
from isentrope.learner.training.weight_source import WeightSource

BUCKET_ELEMENTS = 50_000_000

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
"""Counters of DeepSpeed's engine that it saves, and raises for an update that it discards too."""


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """Measurements of one update: of this rank from the engine, of all ranks from the trainer."""

    applied: bool
    """False: loss or gradient was not finite, and the weights are unchanged on every rank."""
    grad_norm: float
    sums: dict[str, float]
    """`LossParts.sums`, added up."""
    maxima: dict[str, float]
    """`LossParts.maxima`, the largest of each."""


class TrainingEngine:
    """The network and its optimizer in a DeepSpeed engine. All methods are collective."""

    def __init__(
        self,
        policy: Policy,
        temperature: float,
        config: LearnerConfig,
        device: torch.device,
        *,
        loads_universal: bool = False,
    ) -> None:
        """Wrap `policy`, which is whole and on the CPU; `temperature` is that of sampling. loads_universal: `load` will
        be given the universal form of a checkpoint."""
        self.device = device
        self.dtype = policy.dtype
        self.updates = 0
        """Updates so far; decide the learning rate."""
        self.rate_factor = 1.0
        """Factor on the learning rate of the next update."""
        self._temperature = temperature
        self._config = config
        self._engine = _initialize(policy, config, device, loads_universal=loads_universal)
        self.policy.settle_attention(device)
        self.policy.check_head(device)

    @property
    def policy(self) -> Policy:
        """The module itself; under ZeRO-3 its parameters are empty outside of the engine's calls."""
        module: Policy = self._engine.module
        return module

    @torch.no_grad()
    def statistics(self, packed: Packed) -> Moments:
        """Return statistics of the present policy, without gradient: [n, T] each, on the CPU, 0 off the responses."""
        moments = self._engine(packed, moments_at(self._temperature, packed.kept))
        return Moments(*(packed.to_padded(values).cpu() for values in moments))

    @torch.no_grad()
    def logp(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of every token but the first at temperature 1, whatever that of sampling is."""
        values: Tensor = self._engine(pack_row(tokens, self.device), logp_at(1.0))
        return values.tolist()

    def update(self, micro_batches: Sequence[Packed], loss: Loss) -> UpdateFacts:
        """Accumulate the gradient of all micro-batches of all ranks, equally many on each, and apply it once, or leave
        every bit of the state as it was."""
        rates, counts = self._rates(), [getattr(self._engine, name) for name in COUNTERS]
        self._set_rates([self._learning_rate()] * len(rates))
        parts: list[LossParts] = []
        for place, packed in enumerate(micro_batches):
            self._engine.set_gradient_accumulation_boundary(place == len(micro_batches) - 1)
            value, part = self._engine(packed, self._guarded(loss, packed))
            self._engine.backward(value * dist.get_world_size(), scale_wrt_gas=False)
            parts.append(part)
        applied, norm = self._apply()
        self.updates += applied
        if not applied:  # a checkpoint would tell of it, and a batch that is skipped has no part in the run
            self._set_rates(rates)
            for name, count in zip(COUNTERS, counts, strict=True):
                setattr(self._engine, name, count)
            if hasattr(self._engine.optimizer, "overflow"):
                self._engine.optimizer.overflow = False
        return UpdateFacts(applied, norm, _added([part.sums for part in parts]), _largest([p.maxima for p in parts]))

    def forget_moments(self) -> None:
        """Reset the optimizer's state; its parameters stay."""
        for state in self._engine.basic_optimizer.state.values():
            for value in state.values():
                value.zero_()

    @property
    def weights(self) -> WeightSource:
        """The weights, to be written or copied; what it yields is whole on every rank."""
        return WeightSource(self.policy.network, self._whole)

    def save(self, folder: Path) -> str:
        """Write this rank's part of the full state into the existing `folder`; return the error of the disk, or ""."""
        files = ShardFiles()
        self._engine.checkpoint_engine = files
        state = {"updates": self.updates}
        self._engine.save_checkpoint(folder.parent, tag=folder.name, client_state=state, save_latest=False)
        files.save_random_state(folder / _random_file())
        return files.problem

    def difference(self, folder: Path) -> str:
        """Return where this rank's part of the full state differs from the checkpoint in `folder`, of as many ranks,
        in any bit; empty: nowhere. Writes nothing."""
        files = ComparedFiles(folder)
        self._engine.checkpoint_engine = files
        state = {"updates": self.updates}
        self._engine.save_checkpoint(folder.parent, tag=folder.name, client_state=state, save_latest=False)
        return files.difference

    def load(self, folder: Path) -> None:
        """Continue where `save` was called: exactly, with equally many ranks. Only once, before the first update.

        With another number of ranks, `folder` is the checkpoint's universal form, except at stage 0. A rank that has no
        random state there keeps its own: nothing that is trained reads it.
        """
        self._engine.checkpoint_engine = ShardFiles()
        with only_weights():
            path, state = self._engine.load_checkpoint(folder.parent, tag=folder.name)
        assert path is not None, "the manifest was checked"
        self.updates = state["updates"]
        if (random := folder / _random_file()).exists():
            load_random_state(random)

    def _guarded(self, loss: Loss, packed: Packed) -> Callable[[Tensor, Tensor], tuple[Tensor, LossParts]]:
        def guarded(logits: Tensor, targets: Tensor) -> tuple[Tensor, LossParts]:
            value, part = loss(packed, self._temperature, logits, targets)
            # A loss that is not finite must spoil the gradient on every rank, or only some would skip the update.
            return value * torch.where(value.detach().isfinite(), 1.0, math.nan), part

        return guarded

    def _apply(self) -> tuple[bool, float]:
        """Apply the update. DeepSpeed discards non-finite gradients, except with stage 0's optimizer in fp32."""
        if self._config.zero_stage == 0 and self.dtype == torch.float32:
            gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if not norm.isfinite():
                self._engine.zero_grad()
                return False, float(norm)
            self._engine.step()
            return True, float(norm)
        self._engine.step()
        return self._engine.was_step_applied(), float(self._engine.get_global_grad_norm())

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self._engine.optimizer.param_groups]

    def _set_rates(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._engine.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _learning_rate(self) -> float:
        warmup = self._config.warmup_updates
        return self.rate_factor * self._config.learning_rate * min(1.0, (self.updates + 1) / warmup if warmup else 1.0)

    def _whole(self, parameters: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
        if self._config.zero_stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
        return gathered


def divide(policy: Policy, settings: dict[str, Any]) -> None:
    """Divide the parameters among the ranks, one after another: no rank ever has a whole model of its own, neither in
    its machine's memory nor on its device. Collective; their values become those of rank 0."""
    import deepspeed

    deepspeed.zero.Init(module=_OneByOne(policy), config_dict_or_path=settings, dtype=policy.dtype)


class _OneByOne(torch.nn.Module):
    """A module whose parameters are copied into the same memory, each when it is its turn to be divided.

    Until then they lie in the model's files, which all ranks of a machine have mapped. A rank that received a value
    there would get a copy of the file's pages, and keep it as long as any parameter lies in that file.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._module = module

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        parameters = list(self._module.parameters(recurse))
        memory = torch.empty(max(each.nbytes for each in parameters), dtype=torch.uint8)
        for each in parameters:
            own = memory[: each.nbytes].view(each.dtype).view(each.shape)
            each.data = own.copy_(each.data)
            yield each


def _added(sums: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    names = sorted(sums[0])
    total = torch.stack([torch.stack([each[name].double() for name in names]) for each in sums]).sum(0)
    return dict(zip(names, total.tolist(), strict=True))


def _largest(maxima: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    return {name: float(torch.stack([each[name].double() for each in maxima]).amax()) for name in sorted(maxima[0])}


def _random_file() -> str:
    return f"random-{dist.get_rank()}.safetensors"


def _initialize(policy: Policy, config: LearnerConfig, device: torch.device, *, loads_universal: bool) -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import groups

    if device.type == "cpu":
        # Otherwise `init_distributed` calls a compiler to learn which operations it could compile, and compiles one for
        # inference, under a lock that a killed process leaves behind: the next one would wait for it for ever. For
        # DeepSpeed 0.19; remove when that can be refused by configuration.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    deepspeed.init_distributed(verbose=False, auto_mpi_discovery=False)
    # DeepSpeed works on a group of its own, which it makes with PyTorch's default deadline: half an hour for gloo.
    own_group: Any = groups._clone_world_group()
    _set_pg_timeout(timedelta(seconds=config.collective_timeout_s), own_group)
    size = sum(parameter.numel() for parameter in policy.parameters())
    settings = _settings(config, policy.dtype, min(size, BUCKET_ELEMENTS))
    if config.zero_stage == 3:
        divide(policy, settings)
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=config.learning_rate,
        betas=config.adam_betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    settings["checkpoint"]["load_universal"] = loads_universal
    engine: Any
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=settings)
    # DeepSpeed 0.19 copies a script beside the shards. It is not needed, and a failed copy raises on rank 0 alone,
    # while the others wait in the next collective.
    engine._copy_recovery_script = lambda save_path: None
    return engine


def _settings(config: LearnerConfig, dtype: torch.dtype, bucket: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration. Bucket sizes are fixed to keep a run bitwise repeatable."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # a formality: the plan decides sizes
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"tag_validation": "Ignore"},
    }
    if dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32" if config.zero_stage else "bf16"}
    if config.zero_stage:
        settings["zero_optimization"] = {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        }
    return settings
