"""A judge over real HTTP: points in order, as many requests at once as allowed, and failures that are never rewards."""

import itertools
import json
import runpy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from waits import DEADLINE_S

from isentrope.errors import RewardError
from isentrope.init import EXAMPLES
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.functions import RewardSet, Score, load_rewards

STUB = runpy.run_path(str(EXAMPLES / "judge" / "stub_judge.py"))
JUDGE: type[BaseHTTPRequestHandler] = STUB["Judge"]
AT_ONCE = 8
"""As the example has it."""

Verdict = Callable[[str], str]
"""Reply to a request's text."""


@contextmanager
def served(verdict: Verdict) -> Iterator[int]:
    """Run the example's stub with another rule on a free port, which is yielded."""

    class Handler(JUDGE):  # type: ignore[misc, valid-type]  # a class that is only known when the file has run
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                reply = verdict(json.loads(raw)["messages"][-1]["content"])
            except ConnectionError:
                self.send_error(503)
                return
            body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": reply}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_numbers = itertools.count()


@contextmanager
def rewards(folder: Path, port: int, timeout_s: float = DEADLINE_S, function: str = "judged") -> Iterator[RewardSet]:
    """The example's reward, which asks another port, as a run loads it."""
    text = (EXAMPLES / "judge" / "rewards.py").read_text()
    assert "8001" in text and "TIMEOUT_S = 10.0" in text and f"AT_ONCE = {AT_ONCE}\n" in text
    module = f"judge_rewards_{next(_numbers)}"
    changed = text.replace("8001", str(port)).replace("TIMEOUT_S = 10.0", f"TIMEOUT_S = {timeout_s}")
    (folder / f"{module}.py").write_text(changed)
    loaded = load_rewards(DataConfig(train="train.jsonl", reward=f"{module}:{function}"), run_folder=folder)
    yield loaded
    loaded.close()


def response(content: str) -> str:
    """Return the response that a request asks about."""
    return content.partition("Response: ")[2].partition("\n")[0]


def values(outcomes: list[Any]) -> list[float | None]:
    """Return the rewards; None for a response that has none."""
    return [outcome.reward if isinstance(outcome, Score) else None for outcome in outcomes]


def test_the_stub_gives_points_for_sums(tmp_path: Path) -> None:
    with served(STUB["verdict"]) as port, rewards(tmp_path, port) as judged:
        outcomes = judged(["What is 3 + 4 ?"] * 4, ["7", "8", "1", "seven"], {})
    assert values(list(outcomes)) == pytest.approx([1.0, 0.7, 0.0, 0.0])


def test_points_keep_their_order_and_requests_their_limit(tmp_path: Path) -> None:
    """No request is answered before as many are there as may be; one more would break the barrier's count."""
    together = threading.Barrier(AT_ONCE, timeout=DEADLINE_S)
    lock, here, most = threading.Lock(), 0, 0

    def verdict(content: str) -> str:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        together.wait()
        with lock:
            here -= 1
        return response(content)

    given = [str(number % 11) for number in range(3 * AT_ONCE)]
    with served(verdict) as port, rewards(tmp_path, port) as judged:
        outcomes = judged(["?"] * len(given), given, {})
    assert values(list(outcomes)) == pytest.approx([int(points) / 10 for points in given])
    assert most == AT_ONCE


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    refused = set[str]()

    def verdict(content: str) -> str:
        if content not in refused:
            refused.add(content)
            raise ConnectionError
        return "5"

    with served(verdict) as port, rewards(tmp_path, port) as judged:
        assert values(list(judged(["?"] * 2, ["a", "b"], {}))) == [0.5, 0.5]


@pytest.mark.parametrize("reply", ["I like it", "11", "-1", "", "nan", "7/10"])
def test_a_reply_that_is_not_points_fails_that_response_alone(tmp_path: Path, reply: str) -> None:
    with served(lambda content: reply if response(content) == "b" else "8") as port, rewards(tmp_path, port) as judged:
        assert values(list(judged(["?"] * 3, ["a", "b", "c"], {}))) == [0.8, None, 0.8]


def test_a_request_that_hangs_fails_that_response_alone(tmp_path: Path) -> None:
    over = threading.Event()

    def verdict(content: str) -> str:
        if response(content) == "b":
            over.wait(DEADLINE_S)
        return "8"

    with served(verdict) as port, rewards(tmp_path, port, timeout_s=2.0) as judged:
        outcomes = values(list(judged(["?"] * 2, ["a", "b"], {})))
        over.set()
    assert outcomes == [0.8, None]


def test_a_step_is_correct_if_both_verdicts_say_so_of_a_judge_that_delays_fails_and_disagrees(tmp_path: Path) -> None:
    over, asked = threading.Event(), set[str]()
    replies = {"3 + 4 = 7": ("yes", "No."), "so 8": ("no", "yes"), "perhaps 9": ("yes", "yes"), "slow": ("yes", "no")}

    def verdict(content: str) -> str:
        if "\nStep: " not in content:
            return "5"
        step = content.partition("\nStep: ")[2].partition("\n")[0]
        if step == "slow":
            over.wait(DEADLINE_S)
        if content not in asked:
            asked.add(content)
            raise ConnectionError
        return replies[step]["mistake" in content]

    text = "3 + 4 = 7\n\nso 8\n\nperhaps 9\n\nslow"
    with served(verdict) as port, rewards(tmp_path, port, timeout_s=2.0, function="stepwise") as judged:
        (outcome,) = judged(["?"], [text], {})
        over.set()
    assert isinstance(outcome, Score) and outcome.reward == 0.5 and outcome.steps is not None
    assert [(text[start:end], correct) for start, end, correct in outcome.steps] == [
        ("3 + 4 = 7", True),
        ("so 8", False),
        ("perhaps 9", False),
        ("slow", False),
    ]


def test_no_answer_at_all_is_an_error_and_not_a_reward(tmp_path: Path) -> None:
    with served(lambda content: "8") as port:
        pass
    with (
        rewards(tmp_path, port) as judged,
        pytest.raises(RewardError, match=f"the judge at http://127.0.0.1:{port}/v1"),
    ):
        judged(["?"] * 2, ["a", "b"], {})
