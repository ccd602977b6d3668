"""An engine whose worker can have faults, with the learner that it serves."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from publishing import TinyLearner

from isentrope.rollout.wire.proof import Proof, read_canary
from isentrope.rollout.wire.weights import Manifest

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine

STEP = 1e-6
"""Step of a real learning rate."""


@dataclass
class ServedModel:
    """An engine and its learner."""

    learner: TinyLearner
    engine: "Engine"
    runner: asyncio.Runner

    def load(self, manifest: Manifest) -> Proof:
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

    def recover(self) -> None:
        """Let the worker have no fault, and serve a version."""
        self.mutate("")
        self.load(self.next())

    @property
    def limit(self) -> float:
        """Mean gap above which the next version is refused, nats."""
        return self.engine._judge._trained

    def gap(self, manifest: Manifest) -> float:
        """Mean gap of what is loaded now, while nothing is served, to the log-probabilities of a version, nats."""
        canary = read_canary(Path(manifest.folder))
        logp = self.runner.run(self.engine._logp(canary.tokens))
        return fmean(abs(own - other) for own, other in zip(canary.logp, logp, strict=True))


@contextmanager
def start_engine(learner: TinyLearner, runner: asyncio.Runner) -> Iterator[ServedModel]:
    """Start an engine of the learner's model; it has no weights yet."""
    from isentrope.actors import engine_host
    from isentrope.actors.engine import Engine, EngineOptions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_host, "EXTENSION", "mutant_worker.MutantWorker")
        engine = runner.run(Engine.start(EngineOptions(str(learner.model_dir), learner.dtype, kv_cache_gib=0.1)))
    try:
        yield ServedModel(learner, engine, runner)
    finally:
        runner.run(engine.close())
