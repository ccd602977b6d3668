"""Log files of the processes of a run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from isentrope.rollout.wire.plain_text import inactive

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def to_file(path: Path) -> None:
    """Redirect this process and its children to `path`: logging, output, errors, also of compiled code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(level=logging.INFO, handlers=[_plain(logging.StreamHandler())], force=True)


class _Plain(logging.Formatter):
    """Formatter of lines that hold text of others: what a terminal acts on is written as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        return inactive(super().format(record))


def _plain(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(_Plain(FORMAT))
    return handler


@contextlib.contextmanager
def kept_apart(path: Path) -> Iterator[None]:
    """Redirect what libraries log or print to `path`; the console holds the terminal and is not affected."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        logging.basicConfig(level=logging.INFO, handlers=[_plain(logging.StreamHandler(file))], force=True)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            logging.basicConfig(level=logging.WARNING, format=FORMAT, force=True)
