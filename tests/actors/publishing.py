"""A learner of a tiny model that trains in steps of one size, and faults in how its versions are delivered."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from architectures import VOCABULARY, make_network, write_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from isentrope.learner.training.weight_files import write_version
from isentrope.learner.training.weight_source import WeightSource
from isentrope.rollout.wire.proof import TENSORS, Canary, parse_tensors, read_canary
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, make_manifest, shard_of, version_folder

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine

Dtype: TypeAlias = Literal["float32", "bfloat16"]

ROW = 97


class TinyLearner:
    """Trains `architecture` in fp32, and publishes it in its dtype."""

    def __init__(self, architecture: str, dtype: Dtype, root: Path) -> None:
        self.architecture = architecture
        self.dtype: Dtype = dtype
        self.model_dir = root / "model"
        self._root = root
        self._network = make_network(architecture)
        self._batch = 0
        self._network.config.save_pretrained(self.model_dir)
        write_tokenizer(self.model_dir)

    def step(self, size: float) -> None:
        """Move every weight by `size` up or down, as one update of that learning rate does."""
        torch.manual_seed(self._batch)
        with torch.no_grad():
            for parameter in self._network.parameters():
                parameter.add_(torch.randn_like(parameter).sign(), alpha=size)

    def publish(self) -> Manifest:
        """Write the present weights as the next version."""
        self._batch += 1
        network = deepcopy(self._network)
        torch.nn.Module.to(network, getattr(torch, self.dtype))
        torch.manual_seed(self._batch)
        tokens = torch.randint(0, VOCABULARY, (ROW,))
        with torch.no_grad():
            logp = network(input_ids=tokens[None]).logits[0, :-1].float().log_softmax(-1)
        canary = Canary(tokens=tuple(tokens.tolist()), logp=logp.gather(1, tokens[1:, None])[:, 0].tolist())
        version = version_of(1, self._batch)
        weights = WeightSource(network).published()
        return write_version(weights, version_folder(self._root, version), version=version, canary=canary)


def with_files(manifest: Manifest, tensors: dict[str, Tensor]) -> Manifest:
    """Let the files of a version hold other tensors than the learner had in memory; its table and canary stay."""
    folder, file = Path(manifest.folder), manifest.shards[0].file
    save_file(tensors, folder / file)
    table = parse_tensors((folder / TENSORS).read_bytes())
    return make_manifest(
        folder, version=manifest.version, tensors=table, shards=[shard_of(folder, file)], canary=read_canary(folder)
    )


def tensors_of(manifest: Manifest) -> dict[str, Tensor]:
    """Tensors in the files of a version."""
    return load_file(Path(manifest.folder, manifest.shards[0].file))


def pairs(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names of tensors that have the same shape, not in the same place of two layers."""
    seen: dict[tuple[int, ...], str] = {}
    for name, value in sorted(tensors.items()):
        shape = tuple(value.shape)
        if shape in seen:
            yield seen.pop(shape), name
        else:
            seen[shape] = name


def biases_of(tensors: dict[str, Tensor]) -> list[str]:
    """Return the biases of one kind, in all layers, that change what is computed: those of the keys may drop out of the
    softmax."""
    kinds = ("fc.bias", "fc1.bias", "v_proj.bias")
    kind = next(kind for kind in kinds if any(name.endswith(kind) for name in tensors))
    return sorted(name for name in tensors if name.endswith(kind))


@contextmanager
def label_alone(engine: "Engine") -> Iterator[None]:
    """Let the engine take the label of a new version, and not its weights."""

    async def nothing(*arguments: object) -> None:
        pass

    llm = engine._llm
    calls = {"start_weight_update": nothing, "update_weights": nothing, "finish_weight_update": nothing}
    own = vars(llm)
    own.update(calls)
    try:
        yield
    finally:
        for name in calls:
            del own[name]
