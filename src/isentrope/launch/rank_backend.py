"""Ray Train's set-up of torch.distributed, after each rank's process has entered its surroundings."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from isentrope.launch.surroundings import Surroundings
from isentrope.rollout.wire.files import write_whole

logger = logging.getLogger(__name__)


@dataclass
class RankConfig(TorchConfig):
    """Configuration of torch.distributed, and of the processes that it connects."""

    surroundings: Surroundings | None = None
    nodes: Path | None = None
    """File of the command's machine that says on which node each rank is."""

    @property
    def backend_cls(self) -> "type[RankBackend]":
        return RankBackend


class RankBackend(_TorchBackend):
    """Ray's own backend, which imports torch and opens sockets in the ranks: each then knows its interface."""

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, RankConfig) and backend_config.surroundings is not None
        if backend_config.nodes is not None:
            _note(backend_config.nodes, worker_group.execute(_node_id))
        worker_group.execute(backend_config.surroundings.enter, alone=False)
        super().on_start(worker_group, backend_config)


def _note(file: Path, nodes: list[str]) -> None:
    """Write the nodes; without them, a death blames none. The command may read meanwhile."""
    try:
        write_whole(file, json.dumps(nodes), durable=False)
    except OSError as error:
        logger.warning("%s cannot be written: %s", file, error)


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
