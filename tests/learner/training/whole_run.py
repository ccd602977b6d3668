"""A whole run of real ranks: its folder, its broker, and an actor that samples from what they publish."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from toy_actor import ToyActor
from toy_run import Launched, launch_job, make_job, rows

from isentrope.learner.training.job import LearnerJob
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView


class Run:
    """One run folder, its broker and its actor."""

    def __init__(self, url: str, name: str, model: Path, folder: Path, **learner: Any) -> None:
        self.folder = folder / "out"
        self.folder.mkdir()
        self.job: LearnerJob = make_job(name, url, model, self.folder, **learner)
        self.log = folder / "log.txt"
        self.actor = ToyActor(url, name)
        self.actor.start()
        self._launched: list[Launched] = []
        self._broker = Broker.connect(url, name)
        self.view = RunView(self._broker)

    def start(self, **environment: str) -> Launched:
        self._launched.append(launch_job(self.job, self.log, **environment))
        return self._launched[-1]

    def to_the_end(self) -> "Run":
        ranks = self.start()
        assert ranks.wait() == 0, ranks.text()
        assert self.actor.error is None
        return self

    def close(self) -> None:
        for ranks in self._launched:
            ranks.kill()
        self.actor.stop()
        self._broker.close()

    @property
    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows(self.folder / "metrics.jsonl")

    @property
    def weights(self) -> dict[str, list[float]]:
        """Of the newest version."""
        folder = self.folder / "weights" / str(self.outcome["version"])
        shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        return {name: value.tolist() for shard in shards for name, value in shard.items()}

    def accounts_for_every_group(self) -> bool:
        outcome, counters = self.outcome, self.view.counters()
        done = outcome["trained"] + sum(outcome["retired"].values())
        return outcome["issued"] == done == counters["trained"] + counters["retired"]
