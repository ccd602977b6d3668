"""A watch of what a command needs of Ray: its control store (GCS) and this machine's part (raylet).

A process that has lost the store is ended by Ray after a minute, without a word; without its raylet nothing new starts.
"""

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil

from isentrope.environment import variable
from isentrope.long_waits import waiting_for

ASK_S = 1.0
"""Pause between two questions."""

ANSWER_S = 4.0
"""Time limit of an answer."""

STORE = "gcs_server"
"""Name of the store's process."""

RAY_GIVES_UP_S = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Variable of Ray: the time without its store after which it ends a process; 60 seconds unless it is set."""


def allowed_tries() -> int:
    """Return the number of questions in a row without an answer after which the store counts as lost: they take a
    third of the time that Ray leaves if each waits for its answer to the end, and the pauses alone if each is refused
    at once. The rest is for an orderly end."""
    return max(1, int(float(variable(RAY_GIVES_UP_S) or 60) / 3 / (ASK_S + ANSWER_S)))


class RayWatch:
    """A thread that asks Ray while it is entered."""

    def __init__(self, ask: Callable[[float], object], place: str, pause_s: float = ASK_S) -> None:
        """Take the question, a function of the time limit that raises an error without an answer, and where Ray is, in
        words."""
        self.place = place
        self._ask = ask
        self._pause_s = pause_s
        self._tries = allowed_tries()
        self._unanswered = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)

    @property
    def is_lost(self) -> bool:
        """True if Ray has not answered several times in a row."""
        return self._unanswered >= self._tries

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with waiting_for("an answer of Ray"):
            self._thread.join(2 * ANSWER_S)
        if self.is_lost:
            _end_store()

    def _watch(self) -> None:
        while not self._closed.wait(self._pause_s):
            try:
                self._ask(ANSWER_S)
            except Exception:  # whatever Ray raises
                self._unanswered += 1
            else:
                self._unanswered = 0


def _end_store() -> None:
    """End the store of a Ray of this command's own: leaving Ray waits without a limit for one that hangs."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name() == STORE:
                child.kill()


def ask_ray(timeout_s: float) -> None:
    """Ask the Ray that this process has joined; raises an error if its store does not answer in time, or this machine
    is not part of it any more."""
    from ray._private.worker import global_worker

    store = vars(global_worker)["gcs_client"]
    (is_here,) = store.check_alive([global_worker.current_node_id], timeout_s)
    if not is_here:
        raise ConnectionError("this machine is not a node of Ray any more")
