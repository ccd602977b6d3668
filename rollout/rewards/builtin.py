"""Built-in reward functions. A file of data needs the column `answer` for them."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from isentrope.errors import RewardError

Completion = str | list[dict[str, str]]
"""The response as text, or as the assistant's one message when the prompt was a chat."""


def exact_match(completions: list[Completion], answer: list[object]) -> list[dict[str, object]]:
    """Return 1 where the response is the answer but for blanks around it, else 0."""
    return [
        {"reward": float(text_of(completion).strip() == gold), "answer": text_of(completion).strip()}
        for completion, gold in zip(completions, _golds(answer), strict=True)
    ]


def math(completions: list[Completion], answer: list[object]) -> list[dict[str, object]]:
    """Return 1 where the response's final expression equals the answer by math-verify, else 0.

    Of an answer in GSM8K's form, what follows `####` counts. A response that cannot be read or compared is wrong.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    rewards: list[dict[str, object]] = []
    for completion, gold in zip(completions, _golds(answer), strict=True):
        expected = parse(
            f"\\boxed{{{gold.rpartition('####')[2].strip()}}}", extraction_config=[LatexExtractionConfig()]
        )
        if not expected:
            raise ValueError(f"column 'answer' holds {gold!r}, in which math-verify finds no expression")
        given = parse(text_of(completion), extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()])
        rewards.append({"reward": float(verify(expected, given)), "answer": str(given[0]) if given else ""})
    return rewards


def load_builtin(name: str) -> Callable[..., object]:
    """Return the built-in called `name`, a key of `BUILTINS`; a `RewardError` if what it needs is not installed."""
    if name == "math" and find_spec("math_verify") is None:
        raise RewardError(
            "reward 'math' needs math-verify, which is not installed",
            where="data.reward",
            fix="pip install 'isentrope[math]'",
        )
    return BUILTINS[name]


def text_of(completion: Completion) -> str:
    """Return the response's text."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _golds(answer: list[object]) -> list[str]:
    for i, value in enumerate(answer):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
            raise ValueError(f"column 'answer' holds {value!r} for completion {i}; text or a number is needed")
    return [str(value).strip() for value in answer]


BUILTINS: Mapping[str, Callable[..., object]] = {"exact_match": exact_match, "math": math}
