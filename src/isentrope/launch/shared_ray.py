"""A Ray of the command's own for several runs, one after another: started once, with what ends its processes.

Ray reads its token once in a process, so a second Ray in the same process would refuse the command.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isentrope.launch import logs
from isentrope.launch.cluster import Resources, cluster
from isentrope.launch.guard import Guard
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.temporary import delete_left


@dataclass(frozen=True, slots=True)
class SharedRay:
    """A running Ray."""

    resources: Resources
    interrupts: Interrupts
    """Interrupts that come while no run goes on."""


@contextlib.contextmanager
def shared_ray(log: Path) -> Iterator[SharedRay]:
    """Run a Ray on this machine until the block ends, and leave no process; what it says goes to `log`."""
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.callback(delete_left)
        stack.callback(Guard().close)
        with logs.kept_apart(log):
            resources = stack.enter_context(cluster("", {}))
        interrupts.renew()  # Ray handles SIGTERM by an abort
        yield SharedRay(resources, interrupts)
