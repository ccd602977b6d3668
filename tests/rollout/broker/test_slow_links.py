"""A record arrives over a link that takes longer for it than the limit of a socket, as long as it makes progress."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waits import DEADLINE_S, wait_until

from isentrope.redis_server import find_binary
from isentrope.rollout.broker import connection
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.slow_links import PIECE, pieces

LIMIT_S = 1.5
COUNT = 24
"""Pieces of the record, each of which takes a tenth of the limit: all of them take more than it."""


class SlowLink:
    """A proxy that takes at most one piece of what a client sends in a tenth of the time limit."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._closed = threading.Event()
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._server))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(*ends, ends[0] is near), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, slowly: bool) -> None:
        try:
            while data := source.recv(PIECE):
                if slowly and len(data) > PIECE // 2:
                    self._closed.wait(LIMIT_S / 10)
                target.sendall(data)
                self.passed += len(data) if slowly else 0
        except OSError:
            pass
        finally:
            target.close()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SlowLink]:
    path = tmp_path / "s"
    command = [str(find_binary()), "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the server")
    link = SlowLink(path)
    yield link
    link.close()
    server.kill()
    server.wait()


def test_a_record_that_takes_longer_than_the_limit_arrives_once(
    link: SlowLink, monkeypatch: pytest.MonkeyPatch, run_name: str
) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", LIMIT_S)
    broker = Broker.connect(link.url, run_name, deadline_s=DEADLINE_S)
    record = bytes(COUNT * PIECE)
    broker.run(lambda client: client.append(broker.keys.meta, record))
    assert broker.run(lambda client: client.strlen(broker.keys.meta)) == len(record)
    assert link.passed < 2 * len(record), "at the first try"
    broker.close()


@given(st.lists(st.binary(max_size=9).map(lambda data: data * (PIECE // 4)), max_size=4))
def test_pieces_are_the_whole_and_none_is_longer_than_one_limit_allows(command: list[bytes]) -> None:
    cut = list(pieces(command))
    assert b"".join(cut) == b"".join(command)
    assert all(len(piece) <= PIECE for piece in cut)
