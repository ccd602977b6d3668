"""Demonstrations: an expert's response as the tokens that the model would have had to sample.

A pure function of the row and the tokenizer, so that actors make it, and the learner checks what they made.
"""

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import DataError
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import TextTokenizer


def demonstration_tokens(row: Row, tokenizer: TextTokenizer, max_new_tokens: int) -> NDArray[np.int32] | None:
    """Return [T]: the demonstration of a row as it would follow the tokens of the prompt, with the end token behind it;
    None: the row has none.

    One of more tokens is cut off after `max_new_tokens`, as a response is, and then has no end token.

    Raises:
        DataError: the text has no tokens.
    """
    if not row.demonstration:
        return None
    ids = tokenizer.encode(row.demonstration, add_special_tokens=False)
    if not ids:
        raise DataError("the demonstration has no tokens", where=row.where, fix="set it to null, or fill it")
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return np.asarray(ids[:max_new_tokens], dtype=np.int32)
