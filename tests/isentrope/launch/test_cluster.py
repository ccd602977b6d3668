"""What Ray cannot give is refused in one sentence before anything is started."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from isentrope.config import Config, load
from isentrope.errors import ConfigError, UnreachableError
from isentrope.launch import cluster as module
from isentrope.launch.cluster import Resources, cluster, require_broker_for_all, require_gpus


@pytest.fixture
def config(run_file: Path) -> Config:
    return load(run_file, ["actors.count=2", "actors.tensor_parallel_size=2", "learner.ranks=4"])[0]


def _gpus(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu_count", lambda: number)


def test_machine_with_too_few_gpus_is_refused_with_the_numbers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(7, monkeypatch)
    with pytest.raises(ConfigError, match="2 actors of 2 and 4 ranks need 8 GPUs, there are 7"):
        require_gpus(config)


def test_one_gpu_is_too_few_for_the_smallest_run_and_the_advice_can_be_followed(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(1, monkeypatch)
    with pytest.raises(ConfigError, match="take a machine with two"):
        require_gpus(load(run_file)[0])


@pytest.mark.parametrize("gpus", [8, 0])
def test_enough_gpus_and_none_at_all_are_accepted(config: Config, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(gpus, monkeypatch)
    require_gpus(config)


def test_a_run_that_wants_gpus_does_not_begin_on_the_processor(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(0, monkeypatch)
    with pytest.raises(ConfigError, match="need 2 GPUs, there are 0"):
        require_gpus(load(run_file, ["cluster.gpus=true"])[0])


def test_a_run_without_gpus_needs_none(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(1, monkeypatch)
    require_gpus(config.model_copy(update={"cluster": config.cluster.model_copy(update={"gpus": False})}))


@pytest.mark.parametrize(
    ("asked", "there", "cpu_only"),
    [("auto", 0, True), ("auto", 8, False), ("true", 0, False), ("true", 8, False), ("false", 8, True)],
)
def test_a_cluster_that_gets_its_gpus_later_is_one_of_gpus_if_the_run_file_says_so(
    run_file: Path, asked: str, there: int, cpu_only: bool
) -> None:
    config = load(run_file, [f"cluster.gpus={asked}"])[0].cluster
    assert Resources(gpus=there, machines=1, head="head").cpu_only(config) is cpu_only


def test_private_broker_is_refused_on_several_machines(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    several = Resources(gpus=8, machines=2, head="head")
    monkeypatch.delenv(config.redis.url_env, raising=False)
    with pytest.raises(ConfigError, match="Ray has 2 machines"):
        require_broker_for_all(several, config)
    monkeypatch.setenv(config.redis.url_env, "redis://host")
    require_broker_for_all(several, config)


def test_a_ray_that_does_not_start_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def time_out(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen.")

    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(UnreachableError, match=r"Ray does not start on this machine: .* timed out"), cluster("", {}):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "nowhere:ray"])
def test_address_without_ray_is_refused_at_once(address: str) -> None:
    with pytest.raises(UnreachableError, match=f"no Ray at {address}"), cluster(address, {}):
        pass


OWNER = """
import sys
from isentrope.launch.cluster import cluster
with cluster("", {}):
    import ray
    print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(lambda: "a task").remote()), flush=True)
    sys.stdin.read()
"""

STRANGER = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_put(b"key", b"value", True, None)
"""


@pytest.mark.slow
def test_the_store_of_a_local_ray_is_written_with_its_token_alone() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdin is not None and owner.stdout is not None
    with owner:
        address, _, done = owner.stdout.readline().strip().partition(" ")
        assert done == "a task"
        token = _token_of(owner.pid)
        assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o777 == 0o700
        assert token.read_text() not in _told_to_everybody(owner.pid)
        stranger = _write_store(address, {})
        assert stranger.returncode and "nauthenticated" in stranger.stderr
        assert not _write_store(address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}).returncode
        owner.stdin.close()
        assert owner.wait(60) == 0


def _write_store(address: str, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.run(
        [sys.executable, "-c", STRANGER, address], capture_output=True, text=True, timeout=120, env=clean | variables
    )


def _token_of(process: int) -> Path:
    children = psutil.Process(process).children(recursive=True)
    return Path(next(found for child in children if (found := child.environ().get("RAY_AUTH_TOKEN_PATH"))))


def _told_to_everybody(process: int) -> str:
    children = psutil.Process(process).children(recursive=True)
    return "\n".join(" ".join(child.cmdline()) for child in children)
