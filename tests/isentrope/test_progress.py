"""Every trained batch is shown once, whatever moment the file is read at; without a terminal waits are told seldom."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from run_records import make_row

from isentrope import progress
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.progress import Shown, Tail


def _line(batch: int) -> bytes:
    return json.dumps(make_row(batch).to_json()).encode() + b"\n"


@given(count=st.integers(0, 6), cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_line_is_read_once_however_the_file_grows(
    tmp_path_factory: pytest.TempPathFactory, count: int, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    path = folder / BatchRow.FILE
    text = b"".join(_line(batch) for batch in range(1, count + 1))
    tail, seen, written = Tail(folder, BatchRow, from_end=False), [], 0
    for cut in [*sorted(cuts), len(text)]:
        with path.open("ab") as file:
            file.write(text[written:cut])
        written = max(written, min(cut, len(text)))
        seen += [line.batch for line in tail.read()]
    assert seen == list(range(1, count + 1))


@given(before=st.integers(1, 6), kept=st.integers(0, 6), after=st.integers(0, 8))
def test_rewound_file_is_read_on_from_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, before: int, kept: int, after: int
) -> None:
    """A resumed learner replaces the file by its first lines and trains on; long lines follow short ones."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / BatchRow.FILE
    path.write_bytes(b"".join(_line(batch) for batch in range(before)))
    tail = Tail(folder, BatchRow, from_end=True)
    kept = min(kept, before)
    again = [_line(batch + 1_000_000) for batch in range(after)]
    path.write_bytes(b"".join(_line(batch) for batch in range(kept)) + b"".join(again))
    seen = [line.batch for line in tail.read()]
    assert seen == [batch + 1_000_000 for batch in range(after)][len(again) - len(seen) :]


def test_file_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    assert list(Tail(tmp_path, BatchRow, from_end=True).read()) == []


def _shown() -> tuple[Shown, io.StringIO]:
    out = io.StringIO()
    return Shown(Console(file=out, width=200)), out


def test_batch_is_one_line_with_what_matters() -> None:
    shown, out = _shown()
    with shown:
        shown.batch(make_row(7), 80)
    header, line = out.getvalue().splitlines()
    assert header.split() == ["batch", "reward", "entropy", "lag", "tokens/s", "mode"]
    assert line.split() == ["7/80", "0.500", "0.250", "1.0", "1,234", "async"]


def test_a_terminal_shows_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """And every line is in the log too."""
    out = io.StringIO()
    with caplog.at_level("INFO"), Shown(Console(file=out, width=200, force_terminal=True)) as shown:
        shown.waiting(["the learner starts ([cuda])"])
        shown.batch(make_row(7), 80)
        shown.note("warning: [bold]")
    assert "7/80" in out.getvalue() and "the learner starts ([cuda])" in out.getvalue()
    assert [line.split()[0] for line in caplog.messages] == ["batch", "7/80", "warning:"]


def test_evaluation_is_one_line_with_every_k() -> None:
    shown, out = _shown()
    line = EvalRow(
        batch=20,
        version=1,
        name="heldout",
        prompts=200,
        samples=8,
        pass_at={1: 0.5125, 8: 0.961},
        reward=0.5,
        rewards={},
        length_mean=9.0,
        truncated=0.0,
    )
    with shown:
        shown.evaluation(line)
    assert out.getvalue() == "  evaluation after batch 20: reward 0.500, pass@1 0.512, pass@8 0.961, 200 prompts\n"


def test_same_wait_is_told_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown, out = _shown()
    with shown:
        for _ in range(100):
            now[0] += 1.0
            shown.waiting(["the learner starts", "actor a1 is starting its engine ([cuda] error)"])
    assert len(out.getvalue().splitlines()) == 100 // progress.PLAIN_INTERVAL_S
    assert "0:08  the learner starts; actor a1 is starting its engine ([cuda] error)" in out.getvalue()


def test_notes_are_told_at_once_and_as_they_are() -> None:
    shown, out = _shown()
    with shown:
        shown.note("log: [bold]/tmp/x.log")
    assert out.getvalue() == "  log: [bold]/tmp/x.log\n"
