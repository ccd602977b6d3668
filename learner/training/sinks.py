"""Sinks of metrics besides their file: TensorBoard and Prometheus, if the run asks for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from isentrope.errors import ConfigError
from isentrope.learner.config import LearnerConfig


class Sink(Protocol):
    """Receiver of the numbers of one batch."""

    def write(self, batch: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, batch: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, batch)

    def close(self) -> None:
        self._writer.close()


class Prometheus:
    """An endpoint on the loopback address that shows the newest batch."""

    def __init__(self, port: int) -> None:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._value = Gauge("isentrope_learner", "Metrics of the newest batch.", ["name"], registry=registry)
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be opened: {error.strerror}", where="learner.prometheus_port", fix="choose another"
            ) from None

    @property
    def address(self) -> tuple[str, int]:
        """Address at which it listens."""
        host, port, *_ = self._server.server_address
        return str(host), int(port)

    def write(self, batch: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._value.labels(name).set(value)
        self._value.labels("batch").set(batch)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_sinks(config: LearnerConfig, output_dir: Path) -> list[Sink]:
    """Return the sinks that the run asks for."""
    sinks: list[Sink] = []
    if config.tensorboard:
        sinks.append(TensorBoard(output_dir / "tensorboard"))
    if config.prometheus_port:
        sinks.append(Prometheus(config.prometheus_port))
    return sinks
