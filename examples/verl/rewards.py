"""verl's `compute_score`, as it is there, and the function that calls it here."""

from collections.abc import Mapping

Chat = list[dict[str, str]]


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, object] | None = None
) -> float:
    """Return 1 if the response's last word is the answer, else 0: verl calls it once for each response."""
    return float(solution_str.split()[-1:] == [ground_truth])


def from_verl(
    completions: list[Chat], data_source: list[str], ground_truth: list[str], extra_info: list[Mapping[str, object]]
) -> list[float]:
    """Return the score of each completion."""
    rows = zip(completions, data_source, ground_truth, extra_info, strict=True)
    return [compute_score(source, chat[-1]["content"], truth, extra) for chat, source, truth, extra in rows]
