"""Notes about how training prompts are chosen and mixed: what `data.keep` leaves, and how often files repeat."""

from collections.abc import Iterator

from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts


def notes(data: DataConfig, prompts: Prompts) -> Iterator[str]:
    """Yield a note for each file of which rows are left out, and one about a mixture."""
    for name, file in zip(data.train_files, prompts.files, strict=True):
        if file.count < file.whole:
            which = f" of {name}" if name else ""
            yield f"data.keep: {file.count:,} of {file.whole:,} prompts{which} are used"
    if len(prompts.files) > 1:
        whole = sum(data.mixture.values())
        passes = [
            f"{name} in {file.count * whole / data.mixture[name]:,.0f}"
            for name, file in zip(data.train_files, prompts.files, strict=True)
        ]
        yield f"data.mixture: a pass over each file ends after this many prompts: {', '.join(passes)}"
