"""verl's function is called once for each response, with its row's values."""

import runpy

from isentrope.init import EXAMPLES


def test_each_response_is_scored_with_its_own_row() -> None:
    rewards = runpy.run_path(str(EXAMPLES / "verl" / "rewards.py"))
    chats = [[{"role": "assistant", "content": text}] for text in ("3 + 4 = 7", "3 + 4 = 8", "", "7")]
    truths = ["7", "7", "7", "8"]
    assert rewards["from_verl"](chats, ["sums"] * 4, truths, [{}] * 4) == [1.0, 0.0, 0.0, 0.0]
