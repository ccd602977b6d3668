"""The weights of a network under the names, in the form and with the buffers that `save_pretrained` would write.

Since version 5 transformers keeps some weights in memory in another form than in files: the experts of a layer are one
tensor in memory, and one tensor each in files. Engines and other tools know the names of files alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from isentrope.errors import ConfigError

Gathered: TypeAlias = Callable[[Sequence[Tensor]], AbstractContextManager[Any]]
"""Function that returns a context in which the given parameters are whole on this rank."""

SHOWN = 3
"""Names that a message shows."""


def _whole(parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor in memory that a group of published ones is made of."""

    name: str
    pattern: str | None
    """Pattern of the conversion that takes it; None: it is only renamed."""
    value: Tensor


class WeightSource:
    """Reader of a network's weights, for everything that writes them: published versions, exports, copies.

    To write them, read `published` to its end on every rank, and copy each value before asking for the next, since
    under ZeRO-3 its memory is used again:

        for name, value in source.published():
            shards.add(name, value)
    """

    def __init__(self, network: PreTrainedModel, gathered: Gathered = _whole) -> None:
        """Read `network`; without `gathered` its parameters are whole."""
        self._network = network
        self._gathered = gathered

    def published(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and whole values as `save_pretrained` would write them, buffers included, on the device.

        Collective where parameters are divided: every rank must read to the end.
        """
        for target, parts in self.groups.items():
            with self._gathered([part.value for part in parts if isinstance(part.value, torch.nn.Parameter)]):
                yield from self.converted(target, [part.value.detach() for part in parts])

    def in_memory(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names as in the network's memory and whole parameters, on the device; collective like `published`.

        A copy of the same network is loaded by these names.
        """
        for name, parameter in self._network.named_parameters():
            with self._gathered([parameter]):
                yield name, parameter.detach()

    @cached_property
    def names(self) -> frozenset[str]:
        """Published names. Not collective."""
        found: set[str] = set()
        for target, parts in self.groups.items():
            empty = [torch.empty(getattr(part.value, "ds_shape", part.value.shape), device="meta") for part in parts]
            found.update(name for name, _ in self.converted(target, empty))
        return frozenset(found)

    def check(self, model_dir: Path) -> None:
        """Raise ConfigError if a published name is not in the files that the network was loaded from.

        Files that are not safetensors are not looked at.
        """
        prefix = f"{self._network.base_model_prefix}."  # files of a model without its output layer lack it
        there = names_in_files(model_dir)
        if not there:
            return
        strange = sorted(name for name in self.names if not {name, name.removeprefix(prefix)} & there)
        if strange:
            raise ConfigError(
                f"{len(strange)} of {len(self.names)} weights of {type(self._network).__name__} are not in the model's "
                f"files, such as {', '.join(strange[:SHOWN])}",
                where=str(model_dir),
                fix="use a complete checkpoint of a causal language model, written by a recent transformers",
            )

    @cached_property
    def _conversions(self) -> tuple[list[WeightRenaming], list[WeightConverter]]:
        """The conversions from memory to files, as transformers' `revert_weight_conversion` chooses them."""
        chosen = getattr(self._network, "_weight_conversions", None)  # set by `from_pretrained`; has no public name
        if chosen is None:
            mapping = get_model_conversion_mapping(self._network, add_legacy=False)
            chosen = [each for each in mapping if not isinstance(each, PrefixChange)]
        back = [each.reverse_transform() for each in chosen[::-1]]
        renamings = [each for each in back if isinstance(each, WeightRenaming)]
        return renamings, [each for each in back if isinstance(each, WeightConverter)]

    @cached_property
    def groups(self) -> Mapping[str, list[Part]]:
        """Parts of each conversion's target, in the order of files. Not collective: parameters may be divided."""
        network, (renamings, converters) = self._network, self._conversions
        state: dict[str, Tensor] = network.state_dict(keep_vars=True)
        tied = {name for name, source in network.all_tied_weights_keys.items() if state.get(name) is state.get(source)}
        groups: dict[str, list[Part]] = {}
        for name in sorted(state.keys() - tied - set(network._keys_to_ignore_on_save or ()), key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, reverse=True)
            groups.setdefault(target, []).append(Part(name, pattern, state[name]))
        return groups

    def converted(self, target: str, values: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield what the parts of `target`, which have these whole values, are in a file; views of them where possible.

        Not collective.
        """
        parts = self.groups[target]
        by_pattern = {pattern: each for each in self._conversions[1] for pattern in each.source_patterns}
        first = parts[0]
        step: Any = deepcopy(by_pattern[first.pattern]) if first.pattern else WeightRenaming(first.name, target)
        for part, value in zip(parts, values, strict=True):
            step.add_tensor(target, part.name, part.pattern or part.name, value)
        for name, value in step.convert(target, model=self._network, config=self._network.config).items():
            yield name, value[0] if isinstance(value, list) else value


def names_in_files(model_dir: Path) -> frozenset[str]:
    """Return the names of all tensors in a folder's safetensors files; empty if it has none.

    Raises:
        ConfigError: a file cannot be read.
    """
    index, whole = model_dir / SAFE_WEIGHTS_INDEX_NAME, model_dir / SAFE_WEIGHTS_NAME
    try:
        if index.is_file():
            return frozenset(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if whole.is_file():
            with safe_open(whole, framework="pt") as file:
                return frozenset(file.keys())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"the model's files cannot be read: {error}", where=str(model_dir)) from None
    return frozenset()
