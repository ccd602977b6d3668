"""Three rewards with TRL's signature, which are added with the weights of the run file."""

import re

Chat = list[dict[str, str]]

EQUATION = re.compile(r"(\d+) \+ (\d+) = (\d+)")


def right(completions: list[Chat], answer: list[int | None], **columns: object) -> list[float | None]:
    """Return whether the response ends an equation with the answer; None for a question that has no single one."""
    found = [EQUATION.search(chat[-1]["content"]) for chat in completions]
    return [
        None if number is None else float(equation is not None and int(equation[3]) == number)
        for equation, number in zip(found, answer, strict=True)
    ]


def true(completions: list[Chat], **columns: object) -> list[bool]:
    """Return whether the response has an equation, and it holds."""
    found = [EQUATION.search(chat[-1]["content"]) for chat in completions]
    return [equation is not None and int(equation[1]) + int(equation[2]) == int(equation[3]) for equation in found]


def brief(completions: list[Chat], **columns: object) -> list[float]:
    """Return 1 for an equation's five words or fewer, and less for every word more."""
    return [min(1.0, 5 / max(1, len(chat[-1]["content"].split()))) for chat in completions]
