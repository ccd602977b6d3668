"""Metrics of the learner in the broker, for those who watch a run from elsewhere."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

EVALUATION = "eval/"
"""Beginning of the names of an evaluation's numbers."""

SUMMED = ("tokens", "tokens_masked", "groups", "responses", "updates", "skipped")
SUMMED_BELOW = ("untrained/", "alarm/")
"""Names, and beginnings of names, of numbers that are summed over batches."""

PHASES = ("wait_s", "stats_s", "update_s", "publish_s", "evaluate_s", "checkpoint_s")
"""Activities whose seconds are summed, `time/…`; the sum `time/other_s` holds what none of them covers."""


class Broadcasted(BaseModel):
    """Numbers by their names in `metrics.jsonl`, with `/` for the dot."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    batch: dict[str, float] = {}
    """Numbers of the newest batch."""
    evaluation: dict[str, float] = {}
    """Numbers of the newest evaluation, `eval/…`, and the `batch` after which it was made."""
    sums: dict[str, float] = {}
    """Sums over all batches that any learner of the run has trained, also those that were trained again; `batches` is
    their number. They never fall."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Return what a learner has written; nothing, if that is empty or cannot be read."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return cls()
