"""The judge of the example, as a server on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from runpy import run_path


@contextmanager
def judge(folder: Path) -> Iterator[None]:
    """Run the stub of the example in `folder` on a free port, and tell the example's reward."""
    stub = run_path(str(folder / "stub_judge.py"))
    with ThreadingHTTPServer(("127.0.0.1", 0), stub["Judge"]) as server:
        rewards = folder / "rewards.py"
        rewards.write_text(rewards.read_text().replace("8001", str(server.server_port)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()
