"""Prompts: from the number of a work order to the tokens of its prompt.

A prompt is a pure function of `seq`: pass `seq // n` over the n rows shuffles them by `seed + pass`. So any actor
can serve any order, and a restarted run sees the same data.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import ConfigError, DataError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.rows import Messages, Row, RowShape
from isentrope.rollout.data.survey import Example, Survey, most_tokens
from isentrope.rollout.data.tables import open_named, source_name
from isentrope.rollout.data.tasks import Task, open_task
from isentrope.rollout.data.tokenizer import Tokenizer

TASK = "task:"
"""Prefix that tells a built-in task from a file."""

_TASK_ROWS = 256
"""Training rows of a task that `row` knows."""


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
        self._train_rows = _TASK_ROWS if self.train_count is None else self.train_count
        self.digest = _digest([source.digest for source in (train, held_out) if source is not None])
        """Depends on the data alone."""

    def train(self, seq: int) -> Row:
        """Return the row of work order `seq`."""
        return self._train.train(seq)

    def eval(self, index: int) -> Row:
        """Return held-out row `index`, which is below `eval_count`."""
        assert self._held_out is not None and 0 <= index < self.eval_count
        return self._held_out.eval(index * self._held_out.eval_count // self.eval_count)

    @property
    def count(self) -> int:
        """Rows that `row` knows: those of the training data, the first ones of a task, and the held-out ones."""
        return self._train_rows + self.eval_count

    def row(self, index: int) -> Row:
        """Return a row of the data in its own order: training rows, then held-out ones."""
        if index >= self._train_rows:
            return self.eval(index - self._train_rows)
        return self._train.eval(index) if isinstance(self._train, _File) else self._train.train(index)

    def most_tokens(self) -> NDArray[np.int64]:
        """Return [count]: an upper bound of the tokens of each row's prompt."""
        known = self._train.survey.most_tokens if isinstance(self._train, _File) else ()
        rest = [most_tokens(self.row(index).prompt) for index in range(len(known), self.count)]
        return np.array([*known, *rest], dtype=np.int64)

    def examples(self) -> list[Example]:
        """Return one training row for each kind of value that a column holds; none of a task."""
        return list(self._train.survey.examples()) if isinstance(self._train, _File) else []


def open_prompts(data: DataConfig, *, run_folder: Path, seed: int) -> Prompts:
    """Open and check the data that `data` names.

    Raises:
        ConfigError: the task does not exist.
        DataError: the file is missing, broken, empty or of an unsupported kind, or a row is invalid.
    """
    train = _open("data.train", data, run_folder, seed)
    held_out: Task | _File | None = None
    if data.eval:
        held_out = _open("data.eval", data, run_folder, seed)
    elif not isinstance(train, _File):
        held_out = train
    return Prompts(train, held_out, data.eval_prompts)


def tokenize(row: Row, tokenizer: Tokenizer, *, max_new_tokens: int, max_model_len: int) -> Prompt:
    """Return the tokens of `row`: text with the tokenizer's own special tokens, messages through its chat template.

    Raises:
        PromptTooLongError: fewer than `max_new_tokens` are left of `max_model_len`.
        DataError: the template refuses the messages, or the prompt has no tokens.
    """
    ids = encode(row, tokenizer)
    if len(ids) + max_new_tokens > max_model_len:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens, and {max_new_tokens} for the response do not fit into {max_model_len}",
            where=row.where,
            fix='lower sampling.max_new_tokens, raise model.max_model_len, or set data.too_long = "skip"',
        )
    return Prompt(ids, row.prompt, row.columns, row.source)


def encode(row: Row, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return the tokens of `row`, of whatever length; DataError as `tokenize`."""
    ids = np.asarray(_ids(row, tokenizer), dtype=np.int32)
    if not len(ids):
        raise DataError("the prompt has no tokens", where=row.where, fix="remove the row or fill the prompt")
    return ids


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

    def __init__(self, name: str, data: DataConfig, run_folder: Path, seed: int) -> None:
        self._shape = RowShape(data.prompt, data.columns, source_name(name), data.system_prompt)
        self.survey = Survey()
        self._table = open_named(name, run_folder, lambda raw, where: self.survey.add(self._shape.row(raw, where)))
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


def _open(key: str, data: DataConfig, run_folder: Path, seed: int) -> Task | _File:
    """Open what the configuration's `key` names; errors say the key, and where in the data they are."""
    name = data.train if key == "data.train" else data.eval
    try:
        if name.startswith(TASK):
            return open_task(name.removeprefix(TASK), seed)
        return _File(name, data, run_folder, seed)
    except (ConfigError, DataError) as error:
        where = f"{key} ({error.where})" if error.where else key
        raise type(error)(error.what, where=where, fix=error.fix) from error


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
