"""A worker of vLLM that loads weights wrongly when it is told to. Its engine's own process imports this file."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from isentrope.actors import weight_receiver
from isentrope.actors.worker_canary import WorkerCanary

Change = Callable[[dict[str, torch.Tensor]], None]


class MutantWorker(WorkerCanary):
    """A worker with one fault at a time, from the next load on."""

    def isentrope_mutate(self, fault: str, names: list[str]) -> None:
        """Have no fault; `swapped`: exchange two tensors; `zeroed`: lose them; `unpacked`: keep old experts packed;
        `unproven`: compare no bits."""
        module: Any = weight_receiver
        originals = self.__dict__.setdefault("originals", (module._proven, module._process_experts))
        module._proven, module._process_experts = originals
        if fault == "unpacked":
            module._process_experts = lambda model: None
        elif fault == "unproven":
            module._proven = _unproven
        elif fault:
            module._proven = _changing(originals[0], _swap(names) if fault == "swapped" else _zero(names))


def _changing(proven: Any, change: Change) -> Any:
    """Return `proven` with tensors that change after they were compared."""

    def changed(*arguments: Any) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = dict(proven(*arguments))
        change(tensors)
        yield from tensors.items()

    return changed


def _unproven(tensors: Any, table: dict[str, Any]) -> Any:
    table.clear()
    return tensors


def _swap(names: list[str]) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        one, other = names
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return change


def _zero(names: list[str]) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: torch.zeros_like(tensors[name]) for name in names})

    return change
