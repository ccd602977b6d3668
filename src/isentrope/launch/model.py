"""A model whose weights are made in another process while everything else starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isentrope.errors import InternalError, IsentropeError
from isentrope.launch import logs


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The model to make."""

    file: Path
    """File whose existence means that the model is complete."""
    make: Callable[[], None]


def _make(make: Callable[[], None], log: Path) -> None:
    logs.to_file(log)
    make()


class Making:
    """The process that makes the model; ends with Ray at the latest."""

    def __init__(self, plan: ModelPlan, log: Path) -> None:
        import ray

        self._log = log
        remote: Any = ray.remote(num_cpus=0, max_retries=0)(_make)
        self._future = remote.remote(plan.make, log)

    def is_done(self) -> bool:
        """Return True if the model exists; raise the error that prevents it."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        done, _ = ray.wait([self._future], timeout=0)
        if not done:
            return False
        try:
            ray.get(self._future)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, IsentropeError):
                raise cause from None
            raise InternalError(f"the model could not be made: {cause}", where=str(self._log)) from None
        return True
