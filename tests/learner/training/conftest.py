"""One rank alone, for what needs a process group but no company; a small model on the disk; whole runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toy_run import make_model
from whole_run import Run

from isentrope.learner.training.collectives import Collectives


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that was not trained."""
    return make_model(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The one process group of this process: DeepSpeed keeps the first it sees."""
    meeting = f"file://{tmp_path_factory.mktemp('group') / 'store'}"
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=meeting)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(process_group: None) -> Iterator[Collectives]:
    """A group of one, computing with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Collectives(30.0)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def new_run(
    redis_server: str, toy_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Run]]:
    """Makes runs, and ends what they have left."""
    made: list[Run] = []

    def make(**learner: Any) -> Run:
        folder = tmp_path_factory.mktemp("run")
        made.append(Run(redis_server, f"{folder.name}-{os.getpid()}", toy_model, folder, **learner))
        return made[-1]

    yield make
    for run in made:
        run.close()
