"""Relays that do to each request what a schedule says, over real HTTP."""

import threading
from collections.abc import Sequence
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


class Fault(StrEnum):
    """Answer to one request."""

    NONE = "none"
    WRONG = "wrong"
    SHORT = "short"
    LONG = "long"
    EMPTY = "empty"
    MISSING = "404"
    NOT_YET = "416"
    BROKEN = "500"
    REFUSED = "401"
    CUT = "cut"
    SILENT = "silent"
    DEAD = "dead"


class BadRelay:
    """A relay of the files in one folder, as a context manager; after its schedule it is a good one."""

    def __init__(self, folder: Path, schedule: Sequence[Fault]) -> None:
        left, over = list(schedule), threading.Event()

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fault = left.pop(0) if left else Fault.NONE
                whole = (folder / self.path.rpartition("/")[2]).read_bytes()
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                part = whole[int(first) : int(last) + 1]
                match fault:
                    case Fault.MISSING | Fault.NOT_YET | Fault.BROKEN | Fault.REFUSED:
                        self.send_error(int(fault.value))
                        return
                    case Fault.SILENT:
                        over.wait(60)
                        return
                    case Fault.DEAD:
                        left.extend([Fault.DEAD] * 1000)
                        return
                    case Fault.WRONG:
                        part = bytes([part[0] ^ 1]) + part[1:]
                    case Fault.SHORT:
                        part = part[: len(part) // 2 + 1]
                    case Fault.LONG:
                        part = whole + b"more"
                    case Fault.EMPTY:
                        part = b""
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part[: len(part) // 2] if fault is Fault.CUT else part)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass  # the base class writes a line for each request

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self._over = over
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
