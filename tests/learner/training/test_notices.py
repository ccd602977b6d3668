"""Warnings of this program reach a file that the command reads; each kind once, and none of other programs."""

import logging
from pathlib import Path

from isentrope.learner import json_files
from isentrope.learner.records import Notice
from isentrope.learner.training.notices import noticed

LOGGER = logging.getLogger("isentrope.learner.test")


def texts(folder: Path) -> list[str]:
    return [notice.text for notice in json_files.read_lines(folder, Notice)]


def test_warnings_are_written_and_nothing_else_is(tmp_path: Path) -> None:
    LOGGER.warning("before")
    with noticed(tmp_path):
        LOGGER.info("a detail")
        LOGGER.warning("100 % at once")
        LOGGER.error("what ends the run is in its outcome")
        logging.getLogger("deepspeed").warning("of a library")
    LOGGER.warning("after")
    assert texts(tmp_path) == ["100 % at once"]


def test_of_warnings_with_other_numbers_the_first_is_written_at_each_start(tmp_path: Path) -> None:
    for start in range(2):
        with noticed(tmp_path):
            for seq in range(3):
                LOGGER.warning("seq %d abandoned", 10 * start + seq)
    assert texts(tmp_path) == [f"seq {seq} abandoned (further ones: in the learner's log)" for seq in (0, 10)]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with noticed(tmp_path / "missing"):
        LOGGER.warning("lost")
