"""The part that runs inside vLLM's own processes: receives published weights, and ends with its parent process.

`engine.py` puts a `Tether` into vLLM's configuration. Each process of the engine unpickles that configuration, and so
imports this module, before it does anything else; importing it registers the receiver with vLLM. Does not use the
engine's interface.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from isentrope.actors.die_with_parent import end_with_parent
from isentrope.rollout.wire.digests import ALGORITHM, digest_bytes
from isentrope.rollout.wire.proof import TensorFacts, parse_tensors
from isentrope.rollout.wire.tensor_bits import facts_of

Named: TypeAlias = tuple[str, torch.Tensor]

BACKEND = "isentrope"
"""Name of the receiver in vLLM's configuration."""


class Tether:
    """Object that ties every process that unpickles it to its parent; it changes nothing else about the engine."""

    def __reduce__(self) -> "tuple[Callable[[int], Tether], tuple[int]]":
        return _tie, (os.getpid(),)

    def compute_hash(self) -> str:
        """Return its part of the key of vLLM's compilation cache."""
        return ""


def _tie(pid: int) -> Tether:
    if pid != os.getpid():  # vLLM also copies its configuration within a process
        end_with_parent(pid)
    return Tether()


@dataclass
class NoInit(WeightTransferInitInfo):
    """Empty: there is no connection to set up."""


@dataclass
class Files(WeightTransferUpdateInfo):
    """All weights of one version, as safetensors files under the names of the Hugging Face model."""

    paths: list[str]
    tensors: str
    """Path of the table of all tensors, with a hash of the bits of each; empty: no learner published them."""
    algorithm: str = ALGORITHM
    """Algorithm of the table's digest, which the manifest names."""


class _Loadable(Protocol):
    """The used part of a vLLM model."""

    def load_weights(self, weights: Iterable[Named]) -> set[str]: ...


class WeightReceiver(WeightTransferEngine[NoInit, Files]):
    """Loader of a version's files into the model, in place.

    An update that fails leaves the model unfit to serve, but fit for the next update.
    """

    init_info_cls = NoInit
    update_info_cls = Files
    loaded = ""
    """Digest of the table of the tensors that were loaded at last, all of them with the bits that it says."""
    _needed: frozenset[str]

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Do nothing."""

    def start_weight_update(self) -> None:
        """Put the model into the form in which weights are loaded."""
        self.loaded = ""
        before = self._names()  # a tied one has one name here
        initialize_layerwise_reload(self.model)
        self._needed = before & self._names()  # vLLM removes what it derives from other parameters

    def receive_weights(self, update_info: Files) -> None:
        """Load all files; ValueError if they do not cover the whole model, or are not what the learner published."""
        try:
            tensors, content, table = _tensors(update_info.paths), b"", dict[str, TensorFacts]()
            if update_info.tensors:
                content = Path(update_info.tensors).read_bytes()
                table = parse_tensors(content)
                tensors = _proven(tensors, table)
            loaded = cast(_Loadable, self.model).load_weights(tensors)
            lacking = sorted(self._needed - loaded) or _incomplete(self.model)
            if lacking:
                raise ValueError(f"{len(lacking)} of the model's parameters are not in the files: {lacking[:3]}")
            if table:
                raise ValueError(f"{len(table)} tensors were published and are not in the files: {sorted(table)[:3]}")
            self.loaded = digest_bytes(content, update_info.algorithm)
        except BaseException:
            self.finish_weight_update()  # else the next update would continue with the parts of this one
            raise

    def finish_weight_update(self) -> None:
        """Put the model back into the form that computes."""
        finalize_layerwise_reload(self.model, self.model_config)
        _process_tied_heads(self.model)
        _process_experts(self.model)

    def _names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.model.named_parameters())

    def shutdown(self) -> None:
        """Do nothing."""


def _tensors(paths: Iterable[str]) -> Iterator[Named]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safetensors files have no .items())
                yield name, file.get_tensor(name)


def _proven(tensors: Iterable[Named], table: dict[str, TensorFacts]) -> Iterator[Named]:
    """Yield `tensors` and take each out of `table`; ValueError for one that is not what the learner had in memory."""
    for name, value in tensors:
        facts = table.pop(name, None)
        if facts != facts_of(value):
            raise ValueError(f"{name} is not what the learner published")
        yield name, value


def _incomplete(model: torch.nn.Module) -> list[str]:
    """Return the layers that got only a part of their weights; vLLM would leave the rest uninitialised.

    Layers of the vocabulary are padded, so they are never complete.
    """
    layers = [
        (name, get_layerwise_info(layer))
        for name, layer in model.named_modules()
        if not isinstance(layer, VocabParallelEmbedding)
    ]
    return [name for name, info in layers if info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)]


def _process_tied_heads(model: torch.nn.Module) -> None:
    """Update output layers that share their weights with the embedding.

    vLLM skips a layer that got no weights of its own; on a CPU this one would then compute with its packed copy of the
    old weights.
    """
    heads = [layer for layer in model.modules() if isinstance(layer, ParallelLMHead)]
    others = [layer for layer in model.modules() if not isinstance(layer, ParallelLMHead)]
    taken = {id(weight) for layer in others for weight in layer.parameters(recurse=False)}
    for head in heads:
        if id(head.weight) in taken:
            head.quant_method.process_weights_after_loading(head)


def _process_experts(model: torch.nn.Module) -> None:
    """Pack the experts of each layer again for the kernel that computes them.

    On a CPU vLLM packs them at the first load alone, and would go on computing with that copy.
    """
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None and hasattr(layer, "w13_weight"):
            kernel.fused_experts.process_weights_after_loading(layer)


WeightTransferEngineFactory.register_engine(BACKEND, WeightReceiver)
