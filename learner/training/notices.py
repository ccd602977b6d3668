"""Warnings of the learner, written where the command finds them: its log is a file that nobody watches."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from isentrope.learner.records import Notice
from isentrope.learner.training.journal import Journal


@contextlib.contextmanager
def noticed(folder: Path) -> Iterator[None]:
    """Write the warnings of this program to `notices.jsonl` of a run folder."""
    logger, handler = logging.getLogger("isentrope"), _Notices(folder)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notices(logging.Handler):
    """Handler of warnings. Of those that differ in their arguments only, it writes the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self._journal = Journal(folder, Notice)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning. Errors end the run, and the command shows its outcome."""
        if record.levelno > logging.WARNING or record.msg in self._seen:
            return
        self._seen.add(record.msg)
        further = " (further ones: in the learner's log)" if record.args else ""
        try:
            self._journal.append(Notice(at=record.created, text=record.getMessage() + further))
        except OSError:
            self.handleError(record)
