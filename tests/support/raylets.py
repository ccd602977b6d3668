"""Clusters of Ray on this machine, on free ports: several nodes of one machine, as several machines of one each."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADDRESS = "127.0.0.2"
"""A loopback address that Ray does not replace: of 127.0.0.1 it takes the machine's other addresses, where it then does
not listen."""

_POISON = """
import os, sys, threading, time

def watch():
    while "{module}" not in sys.modules:
        time.sleep(0.05)
    os.kill(os.getpid(), 9)

threading.Thread(target=watch, daemon=True).start()
"""


def poison(folder: Path, module: str) -> dict[str, str]:
    """Return variables of a node on which each process that imports a module is killed, as on a machine without
    memory; `folder` is made for them."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_POISON.format(module=module))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")])])}


class Raylets:
    """A running cluster."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        """`HOST:PORT`, as the command takes it."""
        return str(self._cluster.address)

    def add(self, *, cpus: int, env: Mapping[str, str] | None = None, **labels: str) -> Any:
        """Start one more node, and return its handle for `kill`; `env`: variables of its processes."""
        return self._cluster.add_node(
            num_cpus=cpus, labels=labels, node_ip_address=ADDRESS, env_vars=dict(env) if env else None
        )

    def kill(self, node: Any) -> None:
        """End a node without a farewell."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def raylets(*, head_cpus: int) -> Iterator[Raylets]:
    """Run a cluster whose head has so many processor cores, as Ray counts them."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": head_cpus, "node_ip_address": ADDRESS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Raylets(cluster)
    finally:
        cluster.shutdown()
