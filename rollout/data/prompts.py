"""Prompts: from the number of a work order to the tokens of its prompt.

A prompt is a pure function of `seq`: pass `seq // n` over the n rows shuffles them by `seed + pass`. So any actor
can serve any order, and a restarted run sees the same data.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import DataError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.rows import Messages, Row, RowShape
from isentrope.rollout.data.tables import open_table
from isentrope.rollout.data.tasks import Task, open_task
from isentrope.rollout.data.tokenizer import Tokenizer

TASK = "task:"
"""Prefix that tells a built-in task from a file."""

_LISTED = 5
"""Rows named in one message."""


class PromptTooLongError(DataError):
    """The prompt leaves no room for `max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine and the reward.

    ids: [L]. prompt: as the reward receives it. columns: the row's other columns, for the reward. source: data set.
    """

    ids: NDArray[np.int32]
    prompt: str | Messages
    columns: Mapping[str, object]
    source: str


class Prompts:
    """Training rows by `seq` and held-out rows by index; opened with `open_prompts`.

    At most `eval_prompts` held-out rows are used, evenly spaced over all of them.
    """

    def __init__(self, train: "Task | _File", held_out: "Task | _File | None", eval_prompts: int) -> None:
        self._train = train
        self._held_out = held_out
        self.train_count = train.count if isinstance(train, _File) else None
        """Rows of one pass over the data; None: an endless generator."""
        self.eval_count = min(eval_prompts, held_out.eval_count) if held_out is not None else 0
        self.digest = _digest([source.digest for source in (train, held_out) if source is not None])
        """Depends on the data alone."""

    def train(self, seq: int) -> Row:
        """Return the row of work order `seq`."""
        return self._train.train(seq)

    def eval(self, index: int) -> Row:
        """Return held-out row `index`, which is below `eval_count`."""
        assert self._held_out is not None and 0 <= index < self.eval_count
        return self._held_out.eval(index * self._held_out.eval_count // self.eval_count)

    def rows(self) -> Iterator[Row]:
        """Yield every row of the files once, and the held-out rows of a task."""
        if isinstance(self._train, _File):
            yield from map(self._train.eval, range(self._train.count))
        yield from map(self.eval, range(self.eval_count))


def open_prompts(data: DataConfig, *, run_folder: Path, seed: int) -> Prompts:
    """Open and check the data that `data` names.

    Raises:
        ConfigError: the task does not exist.
        DataError: the file is missing, broken, empty or of an unsupported kind, or a row is invalid.
    """
    train = _open(data.train, data, run_folder, seed)
    held_out: Task | _File | None = None
    if data.eval:
        held_out = _open(data.eval, data, run_folder, seed)
    elif not isinstance(train, _File):
        held_out = train
    return Prompts(train, held_out, data.eval_prompts)


def tokenize(row: Row, tokenizer: Tokenizer, *, max_new_tokens: int, max_model_len: int) -> Prompt:
    """Return the tokens of `row`: text with the tokenizer's own special tokens, messages through its chat template.

    Raises:
        PromptTooLongError: fewer than `max_new_tokens` are left of `max_model_len`.
        DataError: the template refuses the messages, or the prompt has no tokens.
    """
    ids = np.asarray(_ids(row, tokenizer), dtype=np.int32)
    if not len(ids):
        raise DataError("the prompt has no tokens", where=row.where)
    if len(ids) + max_new_tokens > max_model_len:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens, and {max_new_tokens} for the response do not fit into {max_model_len}",
            where=row.where,
            fix='lower sampling.max_new_tokens, raise model.max_model_len, or set data.too_long = "skip"',
        )
    return Prompt(ids, row.prompt, row.columns, row.source)


def check_lengths(rows: Iterable[Row], tokenizer: Tokenizer, *, max_new_tokens: int, max_model_len: int) -> None:
    """Tokenize all `rows`, to find before a run the ones that `tokenize` would refuse.

    Raises:
        PromptTooLongError: lists the first rows that are too long.
        DataError: as `tokenize`.
    """
    refused: list[PromptTooLongError] = []
    for row in rows:
        try:
            tokenize(row, tokenizer, max_new_tokens=max_new_tokens, max_model_len=max_model_len)
        except PromptTooLongError as error:
            refused.append(error)
    if refused:
        places = "; ".join(error.where for error in refused[:_LISTED]) + ("; ..." if len(refused) > _LISTED else "")
        raise PromptTooLongError(
            f"{len(refused)} prompts are too long; of the first, {refused[0].what}", where=places, fix=refused[0].fix
        )


def _ids(row: Row, tokenizer: Tokenizer) -> object:
    if isinstance(row.prompt, str):
        return tokenizer.encode(row.prompt)
    try:
        return tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # templates are programs and may raise anything
        raise DataError(
            f"the tokenizer's chat template refuses the messages: {error}",
            where=row.where,
            fix="use the roles and message order of the model's template, or give the prompt as text",
        ) from error


class _File:
    """Rows of a data file."""

    def __init__(self, path: Path, data: DataConfig, seed: int) -> None:
        self._shape = RowShape(data.prompt, data.columns, path.stem, data.system_prompt)
        self._table = open_table(path, self._shape.row)
        self._order = lru_cache(maxsize=2)(self._permutation)  # orders in flight belong to this pass or the one before
        self._seed = seed
        self.count = self.eval_count = len(self._table)
        self.digest = self._table.digest

    def train(self, seq: int) -> Row:
        data_pass, position = divmod(seq, self.count)
        return self.eval(int(self._order(data_pass)[position]))

    def eval(self, index: int) -> Row:
        return self._shape.row(self._table[index], self._table.where(index))

    def _permutation(self, data_pass: int) -> NDArray[np.int64]:
        """Return [count]: sorted raw random bits, the same in every NumPy; `Generator.permutation` is not."""
        key = np.array([(self._seed + data_pass) % (1 << 64), 0], dtype=np.uint64)
        return np.argsort(np.random.Philox(key=key).random_raw(self.count), kind="stable")


def _open(name: str, data: DataConfig, run_folder: Path, seed: int) -> Task | _File:
    if name.startswith(TASK):
        return open_task(name.removeprefix(TASK), seed)
    return _File(run_folder / name, data, seed)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
