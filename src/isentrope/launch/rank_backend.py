"""Ray Train's set-up of torch.distributed, after each rank's process has entered its surroundings."""

from dataclasses import dataclass

from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from isentrope.launch.surroundings import Surroundings


@dataclass
class RankConfig(TorchConfig):
    """Configuration of torch.distributed, and of the processes that it connects."""

    surroundings: Surroundings | None = None

    @property
    def backend_cls(self) -> "type[RankBackend]":
        return RankBackend


class RankBackend(Backend):
    """Ray's own backend, which imports torch and opens sockets in the ranks."""

    share_cuda_visible_devices = True

    def __init__(self) -> None:
        self._torch = TorchConfig().backend_cls()

    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        assert backend_config.surroundings is not None
        worker_group.execute(backend_config.surroundings.enter, alone=False)
        self._torch.on_start(worker_group, backend_config)

    def on_training_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        self._torch.on_training_start(worker_group, backend_config)

    def on_shutdown(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        self._torch.on_shutdown(worker_group, backend_config)
