"""Ray for one command: a local one, or a running cluster. The only module that starts and stops Ray.

A local Ray has no dashboard, a small object store (nothing large passes through it) and a temporary folder that is
deleted when it stops. Its parts die with the thread that started it, so this must be the main thread. Some of its ports
listen on all interfaces, so it wants a token, which lies in that folder: whoever may write its store runs code.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isentrope.config import Config
from isentrope.environment import gpu_count, has_gpu, variable, with_variables
from isentrope.errors import ConfigError, UnreachableError
from isentrope.launch.config import ClusterConfig
from isentrope.launch.temporary import own_folder

OBJECT_STORE_BYTES = 80 << 20
"""The minimum that Ray accepts."""

CONNECT_S = 10.0

MIN_GPUS = 2
"""GPUs of the smallest run: one actor and one rank."""

MAX_FOLDER = 40
"""Maximum bytes of its temporary folder's path: Ray's sockets add 66, and the kernel allows 107."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that Ray has now."""

    gpus: int
    machines: int
    head: str = ""
    """Host of the cluster's head; empty: Ray is the command's own, on this machine."""

    @property
    def local(self) -> bool:
        """True if all processes are on this machine, and it gets no others."""
        return not self.head

    def cpu_only(self, config: ClusterConfig) -> bool:
        """Return True if processes must work as on a machine without a GPU."""
        return self.gpus == 0 if config.gpus == "auto" else not config.gpus


@contextlib.contextmanager
def cluster(address: str, env: Mapping[str, str]) -> Iterator[Resources]:
    """Connect to Ray at `address`, or start a local one if that is empty; UnreachableError if there is none.

    env: variables of all processes in a running cluster.
    """
    assert threading.current_thread() is threading.main_thread()
    with contextlib.ExitStack() as stack:
        if address:
            import ray

            stack.callback(ray.shutdown)
            _join(address, env)
        else:
            private = stack.enter_context(own_folder("ray"))
            folder = os.path.join(private, "r")  # Ray lets everybody into its own
            if len(os.fsencode(folder)) > MAX_FOLDER:
                raise ConfigError(f"{folder} is too long a path for Ray's sockets", fix="set TMPDIR to a shorter one")
            stack.enter_context(_token(Path(private, "token")))
            import ray

            stack.callback(ray.shutdown)
            _start(folder)
        machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        yield Resources(_gpus(), len(machines), _head() if address else "")


@contextlib.contextmanager
def _token(path: Path) -> Iterator[None]:
    """Write a token of this command's own, and let Ray want it from everybody; before Ray is imported, which reads the
    variables once."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    with with_variables({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}):
        yield


def _start(folder: str) -> None:
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_gpus=None if has_gpu() else 0,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # what Ray raises if its parts do not answer in its time
        raise UnreachableError(
            f"Ray does not start on this machine: {str(error).splitlines()[0]}",
            fix="try again when less runs here; a machine with little memory left may have ended its parts",
        ) from error


def _join(address: str, env: Mapping[str, str]) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()  # Ray itself would try for minutes
        ray.init(address, runtime_env={"env_vars": dict(env)}, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"no Ray at {address}: {str(error).splitlines()[0]}", fix="give the head node's address as HOST:PORT"
        ) from None


def _head() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address).rpartition(":")[0]


def require_broker_for_all(resources: Resources, config: Config) -> None:
    """Raise ConfigError if there are machines that cannot reach a private broker."""
    if resources.machines > 1 and not variable(config.redis.url_env):
        raise ConfigError(
            f"Ray has {resources.machines} machines, and a private broker can be reached from one",
            fix=f"start a Redis that all machines can reach, and set {config.redis.url_env} to its URL",
        )


def _gpus() -> int:
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def require_gpus(config: Config) -> None:
    """Raise ConfigError if this machine, with a Ray of the command's own, has GPUs, but too few; a cluster may grow."""
    actors, ranks, here = config.actors, config.learner.ranks, gpu_count()
    needed = actors.count * actors.tensor_parallel_size + ranks
    wanted = config.cluster.gpus if isinstance(config.cluster.gpus, bool) else here > 0
    if wanted and needed > here:
        lower = "lower actors.count, actors.tensor_parallel_size or learner.ranks"
        alone = "actors and learner need GPUs of their own: take a machine with two, or CUDA_VISIBLE_DEVICES= for none"
        raise ConfigError(
            f"{actors.count} actors of {actors.tensor_parallel_size} and {ranks} ranks need {needed} GPUs, there are "
            f"{here}",
            fix=lower if needed > MIN_GPUS else alone,
        )
