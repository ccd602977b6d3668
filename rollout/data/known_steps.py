"""Steps of reasoning whose verdict the data holds: the texts of right and of wrong steps of one prompt."""

from collections.abc import Mapping

MAX_KNOWN_STEPS = 4096
"""Most steps of one prompt."""


def read_known_steps(value: object) -> dict[str, bool]:
    """Return the verdict on each step of a prompt by its `normal` text; none for null.

    Raises:
        ValueError: they are not a list of `[text, correct]` or `{"step": text, "correct": correct}`, or two verdicts on
            one step differ.
    """
    if value is None:
        return {}
    if not isinstance(value, list) or len(value) > MAX_KNOWN_STEPS:
        raise ValueError(f"the steps of a prompt are a list, {MAX_KNOWN_STEPS:,} at most")
    known: dict[str, bool] = {}
    for entry in value:
        text, correct = _parts(entry)
        if known.setdefault(normal(text), correct) != correct:
            raise ValueError(f"{text[:60]!r} is there as a right step and as a wrong one")
    return known


def normal(text: str) -> str:
    """Return a text by which equal steps are found: without white space at its ends, and one space for any other."""
    return " ".join(text.split())


def _parts(entry: object) -> tuple[str, bool]:
    if isinstance(entry, Mapping):
        entry = [entry.get("step"), entry.get("correct")]
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"a step is [text, correct], not {str(entry)[:60]}")
    text, correct = entry
    if not isinstance(text, str) or not text.strip() or not isinstance(correct, int) or correct not in (0, 1):
        raise ValueError(f"a step is a text and true or false, not {str(entry)[:60]}")
    return text, bool(correct)
