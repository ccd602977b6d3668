"""Sinks of metrics besides their file: the broker, and TensorBoard if the run asks for it."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from isentrope.learner.broadcasted import EVALUATION, PHASES, SUMMED, SUMMED_BELOW, Broadcasted
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.feeder import Feeder

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Receiver of the numbers of one batch."""

    def write(self, batch: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder. What the disk refuses costs only them."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer: SummaryWriter | None = None
        with self._optional():
            self._writer = SummaryWriter(str(folder))

    def write(self, batch: int, numbers: Mapping[str, float]) -> None:
        with self._optional():
            for name, value in numbers.items():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, batch)

    def close(self) -> None:
        with self._optional():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _optional(self) -> Iterator[None]:
        """Go on without the files once they cannot be written."""
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning("no more files for TensorBoard in %s: %s", self._folder, error.strerror)


class Broadcast:
    """Numbers of the newest batch and sums over all, in the broker, where whoever watches the run finds them."""

    def __init__(self, show: Callable[[str], None], before: str) -> None:
        """Write by `show`; the sums go on from `before`, what an earlier learner of the run has written."""
        self._show = show
        self._shown = Broadcasted.of(before)
        self._elapsed_s = 0.0

    def write(self, batch: int, numbers: Mapping[str, float]) -> None:
        if any(name.startswith(EVALUATION) for name in numbers):
            self._shown = self._shown.model_copy(update={"evaluation": {**numbers, "batch": batch}})
        else:
            self._shown = self._shown.model_copy(update={"batch": dict(numbers), "sums": self._summed(numbers)})
        self._show(self._shown.model_dump_json())

    def close(self) -> None:
        """Do nothing: a run that has ended may be looked at."""

    def _summed(self, numbers: Mapping[str, float]) -> dict[str, float]:
        new = {name: value for name, value in numbers.items() if name in SUMMED or name.startswith(SUMMED_BELOW)}
        spent = {name: numbers.get(f"time/{name}", 0.0) for name in PHASES}
        elapsed_s = numbers.get("time/seconds_total", 0.0)
        spent["other_s"] = max(0.0, elapsed_s - self._elapsed_s - sum(spent.values()))
        self._elapsed_s = elapsed_s
        new |= {f"time/{name}": value for name, value in spent.items()} | {"batches": 1.0}
        sums = self._shown.sums
        return sums | {name: sums.get(name, 0.0) + value for name, value in new.items()}


def open_sinks(config: LearnerConfig, output_dir: Path, feeder: Feeder) -> list[Sink]:
    """Return the broker, and the sinks that the run asks for."""
    before = feeder.call(lambda port: port.view.metrics())
    sinks: list[Sink] = [Broadcast(lambda text: feeder.call(lambda port: port.show(text)), before)]
    if config.tensorboard:
        sinks.append(TensorBoard(output_dir / "tensorboard"))
    return sinks
