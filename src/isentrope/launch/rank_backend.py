"""Ray Train's set-up of torch.distributed, after each rank's process has entered its surroundings."""

from dataclasses import dataclass

from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from isentrope.launch.surroundings import Surroundings


@dataclass
class RankConfig(TorchConfig):
    """Configuration of torch.distributed, and of the processes that it connects."""

    surroundings: Surroundings | None = None

    @property
    def backend_cls(self) -> "type[RankBackend]":
        return RankBackend


class RankBackend(_TorchBackend):
    """Ray's own backend, which imports torch and opens sockets in the ranks: each then knows its interface."""

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, RankConfig) and backend_config.surroundings is not None
        worker_group.execute(backend_config.surroundings.enter, alone=False)
        super().on_start(worker_group, backend_config)
