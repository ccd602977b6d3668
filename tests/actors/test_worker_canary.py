"""Every fault in how a version is served is noticed before it is served, on a real vLLM: one engine of each
architecture after the other, each with all faults.

Steps are those of a real learning rate, 1e-6. A fault of delivery is seen in the bits; one of what the engine makes of
the right bits, in its log-probabilities.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from publishing import TinyLearner, label_alone, pairs, tensors_of, with_files

from isentrope.errors import StorageError
from isentrope.rollout.wire.tensor_bits import facts_of
from isentrope.rollout.wire.weights import Manifest

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine
    from isentrope.rollout.wire.proof import Proof

pytestmark = pytest.mark.slow

STEP = 1e-6
NOISE = {"float32": 1e-5, "bfloat16": 1.5e-2}
"""Mean difference of log-probabilities, nats, that no served version may exceed."""

IN_TEST = [
    *((name, "float32") for name in ("llama", "qwen3", "gemma3", "gpt2", "qwen3_moe", "mixtral")),
    *((name, "bfloat16") for name in ("qwen3", "qwen3_moe")),
]


@dataclass
class Served:
    """An engine and its learner."""

    architecture: str
    learner: TinyLearner
    engine: "Engine"
    runner: asyncio.Runner

    def load(self, manifest: Manifest) -> "Proof":
        """Load a version, and return what proves it."""
        self.runner.run(self.engine.load(manifest))
        assert self.engine.proof is not None
        return self.engine.proof

    def next(self, step: float = STEP) -> Manifest:
        """Publish the weights after one more step."""
        self.learner.step(step)
        return self.learner.publish()

    def mutate(self, fault: str, *names: str) -> None:
        """Let the engine's worker have a fault."""
        self.runner.run(self.engine._on_workers("isentrope_mutate", fault, list(names)))


@pytest.fixture(scope="module", params=IN_TEST, ids="-".join)
def served(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One architecture with an engine of its own; a version is loaded."""
    from isentrope.actors import engine_host
    from isentrope.actors.engine import Engine, EngineOptions

    architecture, dtype = request.param
    learner = TinyLearner(architecture, dtype, tmp_path_factory.mktemp(architecture))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_host, "EXTENSION", "mutant_worker.MutantWorker")
        engine = runner.run(Engine.start(EngineOptions(str(learner.model_dir), dtype, kv_cache_gib=0.1)))
    try:
        served = Served(architecture, learner, engine, runner)
        served.load(learner.publish())
        yield served
    finally:
        runner.run(engine.close())


def test_what_was_trained_is_served(served: Served, request: pytest.FixtureRequest) -> None:
    limit = NOISE[request.node.callspec.params["served"][1]]
    for step in (STEP, 1e-4, 1e-3):
        manifest = served.next(step)
        proof = served.load(manifest)
        assert proof.tensors == len(tensors_of(manifest))
        assert proof.gap_mean is not None and proof.gap_mean < limit
        assert served.engine.version == manifest.version


def refused(served: Served, manifest: Manifest, reason: str) -> None:
    """Assert that a version is refused for this reason, and that the next good one is served."""
    with pytest.raises(StorageError, match=reason):
        served.load(manifest)
    assert served.engine.version == 0 and served.engine.proof is None
    served.mutate("")
    served.load(served.next())


def test_a_stale_quarter_of_the_tensors_is_seen_in_the_bits(served: Served) -> None:
    old, manifest = tensors_of(served.learner.publish()), served.next()
    new = tensors_of(manifest)
    stale = sorted(new)[1::4]
    assert any(not new[name].equal(old[name]) for name in stale)
    refused(
        served, with_files(manifest, new | {name: old[name] for name in stale}), "is not what the learner published"
    )


def test_another_dtype_of_the_same_bits_is_seen() -> None:
    from isentrope.actors.weight_receiver import _proven

    value = torch.ones(4, 8, dtype=torch.bfloat16)
    assert [name for name, _ in _proven([("w", value)], {"w": facts_of(value)})] == ["w"]
    with pytest.raises(ValueError, match="is not what the learner published"):
        list(_proven([("w", value.view(torch.float16))], {"w": facts_of(value)}))


def test_a_label_without_weights_is_seen_in_the_bits(served: Served) -> None:
    manifest = served.next()
    with label_alone(served.engine), pytest.raises(StorageError, match="other weights are loaded"):
        served.load(manifest)
    served.load(served.next())


def test_swapped_tensors_are_seen_in_the_bits(served: Served) -> None:
    manifest = served.next()
    tensors = tensors_of(manifest)
    one, other = next(pairs(tensors))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    refused(served, with_files(manifest, tensors), "is not what the learner published")


def test_tensors_that_the_engine_swaps_are_seen_in_its_log_probabilities(served: Served) -> None:
    manifest = served.next()
    matrices = {name: value for name, value in tensors_of(manifest).items() if value.ndim > 1}
    served.mutate("swapped", *next(pairs(matrices)))
    refused(served, manifest, "log-probabilities of version")


def test_a_tensor_that_was_not_published_is_refused(served: Served) -> None:
    """A missing bias, where there are any."""
    manifest = served.next()
    tensors = tensors_of(manifest)
    del tensors[next((name for name in sorted(tensors) if name.endswith("bias")), min(tensors))]
    refused(served, with_files(manifest, tensors), "are not in the files")


@pytest.mark.parametrize("served", [("gpt2", "float32")], indirect=True, ids="-".join)
def test_a_bias_that_the_engine_leaves_out_is_seen_in_its_log_probabilities(served: Served) -> None:
    served.mutate("zeroed", "transformer.h.0.mlp.c_fc.bias")
    refused(served, served.next(), "log-probabilities of version")


@pytest.mark.parametrize(
    "served",
    [each for each in IN_TEST if each[0] in ("qwen3_moe", "mixtral")],
    indirect=True,
    ids="-".join,
)
def test_experts_that_are_not_packed_again_are_seen_in_the_log_probabilities(served: Served) -> None:
    served.mutate("unpacked")
    refused(served, served.next(1e-3), "log-probabilities of version")
