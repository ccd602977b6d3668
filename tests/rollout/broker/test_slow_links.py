"""A record arrives over a link that takes longer for it than the limit of a socket, as long as it makes progress."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from links import Fault, Link
from waits import DEADLINE_S, wait_until

from isentrope.redis_server import find_binary
from isentrope.rollout.broker import connection
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.slow_links import PIECE, pieces

LIMIT_S = 1.5
COUNT = 24
"""Pieces of the record, each of which takes a tenth of the limit: all of them take more than it."""


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """A link on which a piece takes a tenth of the time limit."""
    path = tmp_path / "s"
    command = [str(find_binary()), "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the server")
    with Link(str(path), delay_s=LIMIT_S / 10, receives=PIECE) as link:
        yield link
    server.kill()
    server.wait()


def test_a_record_that_takes_longer_than_the_limit_arrives_once(
    link: Link, monkeypatch: pytest.MonkeyPatch, run_name: str
) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", LIMIT_S)
    broker = Broker.connect(f"redis://{link.place}", run_name, deadline_s=DEADLINE_S)
    record = bytes(COUNT * PIECE)
    with link.bad(Fault.DELAY):
        broker.run(lambda client: client.append(broker.keys.meta, record))
    assert broker.run(lambda client: client.strlen(broker.keys.meta)) == len(record)
    assert link.sent < 2 * len(record), "at the first try"
    broker.close()


@given(st.lists(st.binary(max_size=9).map(lambda data: data * (PIECE // 4)), max_size=4))
def test_pieces_are_the_whole_and_none_is_longer_than_one_limit_allows(command: list[bytes]) -> None:
    cut = list(pieces(command))
    assert b"".join(cut) == b"".join(command)
    assert all(len(piece) <= PIECE for piece in cut)
