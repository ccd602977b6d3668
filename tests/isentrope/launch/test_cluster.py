"""What Ray cannot give is refused in one sentence before anything is placed on it."""

from pathlib import Path

import pytest

from isentrope.config import Config, load
from isentrope.errors import ConfigError, UnreachableError
from isentrope.launch.broker import Place
from isentrope.launch.cluster import Resources, cluster, require_broker_for_all, require_gpus


@pytest.fixture
def config(run_file: Path) -> Config:
    return load(run_file, ["actors.count=2", "actors.tensor_parallel_size=2", "learner.ranks=4"])[0]


def test_machine_with_too_few_gpus_is_refused_with_the_numbers(config: Config) -> None:
    with pytest.raises(ConfigError, match="2 actors of 2 and 4 ranks need 8 GPUs, there are 7"):
        require_gpus(Resources(gpus=7, nodes=1, local=True), config)


def test_one_gpu_is_too_few_for_the_smallest_run_and_the_advice_can_be_followed(run_file: Path) -> None:
    with pytest.raises(ConfigError, match="take a machine with two"):
        require_gpus(Resources(gpus=1, nodes=1, local=True), load(run_file)[0])


@pytest.mark.parametrize(
    "resources",
    [
        Resources(gpus=8, nodes=1, local=True),
        Resources(gpus=0, nodes=1, local=True),  # works on the CPU
        Resources(gpus=7, nodes=2, local=False),  # may grow
    ],
)
def test_enough_gpus_none_at_all_or_a_cluster_are_accepted(config: Config, resources: Resources) -> None:
    require_gpus(resources, config)


def test_private_broker_is_refused_on_several_machines(config: Config) -> None:
    several = Resources(gpus=8, nodes=2, local=False)
    with pytest.raises(ConfigError, match="Ray has 2 machines"):
        require_broker_for_all(several, config, Place("unix:///x", socket="/x"))
    require_broker_for_all(several, config, Place("redis://host", socket=""))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "nowhere:ray"])
def test_address_without_ray_is_refused_at_once(address: str) -> None:
    with pytest.raises(UnreachableError, match=f"no Ray at {address}"), cluster(address):
        pass
