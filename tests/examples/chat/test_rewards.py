"""The three rewards of the chat, and what they are together."""

from pathlib import Path

import pytest

from isentrope.config import Config
from isentrope.init import EXAMPLES
from isentrope.rollout.rewards.functions import Score, load_rewards
from isentrope.runfile import read, validate


@pytest.mark.parametrize(
    ("response", "answer", "parts", "total"),
    [
        ("3 + 4 = 7", 7, {"right": 1.0, "true": 1.0, "brief": 1.0}, 2.0),
        ("3 + 3 = 6", 7, {"right": 0.0, "true": 1.0, "brief": 1.0}, 1.0),
        ("3 + 3 = 7", 7, {"right": 1.0, "true": 0.0, "brief": 1.0}, 1.5),
        ("3 + 3 = 6", None, {"true": 1.0, "brief": 1.0}, 1.0),
        ("Well , I think 3 + 4 = 7 .", 7, {"right": 1.0, "true": 1.0, "brief": 0.5}, 1.75),
        ("", 7, {"right": 0.0, "true": 0.0, "brief": 1.0}, 0.5),
    ],
)
def test_a_response_is_worth_the_weighted_sum_of_what_applies(
    tmp_path: Path, response: str, answer: int | None, parts: dict[str, float], total: float
) -> None:
    """As the run file names and weighs them. `right` has no say where a question has no single answer."""
    module = f"chat_rewards_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text((EXAMPLES / "chat" / "rewards.py").read_text())
    data = validate(read(EXAMPLES / "chat" / "run.toml"), Config).data
    names = [name.replace("rewards:", f"{module}:") for name in data.reward]
    rewards = load_rewards(data.model_copy(update={"reward": names}), run_folder=tmp_path)
    (score,) = rewards([[{"role": "user", "content": "?"}]], [response], {"answer": [answer]})
    assert isinstance(score, Score)
    assert {name.partition(":")[2]: value for name, value in score.parts.items()} == pytest.approx(parts)
    assert score.reward == pytest.approx(total)
    rewards.close()
