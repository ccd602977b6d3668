"""The demo's model: a tiny Llama, trained on demonstrations of digit walks.

About one answer in three is right and its entropy is still high, so that there is something to reinforce and entropy to
lose. Making it takes half a minute on one core and gives the same weights every time on one machine: the number of
steps is fixed, on one thread, from a fixed seed. The weights are cached by a digest of everything they depend on.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers

from isentrope import environment
from isentrope.demo import warm_start
from isentrope.demo.warm_start import BOS, Progress, Text, WarmUp
from isentrope.errors import InternalError, StorageError
from isentrope.rollout.data.tasks import digit_walk
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.wire.files import replacing

WEIGHTS = "model.safetensors"


def make_model(folder: Path, *, seed: int = 0, progress: Progress = lambda done, total: None) -> None:
    """Fill `folder` with the model. Configuration and tokenizer are written at once, the weights at the end, whole.

    An engine can start from the folder while the weights are still being made.
    """
    write_skeleton(folder)
    cached = _cache(seed)
    if not is_cached(seed):
        _fill(cached, seed, progress)
    with replacing(folder / WEIGHTS, durable=False) as unfinished:
        shutil.copyfile(cached / WEIGHTS, unfinished)


def is_cached(seed: int = 0) -> bool:
    """Return True if `make_model` would only have to copy."""
    return (_cache(seed) / WEIGHTS).exists()


def write_skeleton(folder: Path) -> None:
    """Write the folder without the weights."""
    warm_start.write_skeleton(folder, digit_walk.VOCABULARY)
    _check_round_trip(folder)


def _cache(seed: int) -> Path:
    return environment.cache_folder() / "models" / fingerprint(seed)


def fingerprint(seed: int) -> str:
    """Return the digest of all that the weights depend on: the source, the seed, the versions of the libraries."""
    digest = hashlib.blake2b(f"{seed} {torch.__version__} {transformers.__version__}".encode(), digest_size=16)
    for source in (__file__, warm_start.__file__, digit_walk.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def _fill(cached: Path, seed: int, progress: Progress) -> None:
    """Make the weights in a temporary folder, then rename it."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=cached.parent, ignore_cleanup_errors=True) as name:
            made = Path(name, "model")
            write_skeleton(made)
            warm_start.fill(made, _demonstrations(seed), WarmUp(), seed=seed, progress=progress)
            made.rename(cached)
    except OSError as error:
        if not (cached / WEIGHTS).exists():  # else another process was faster
            raise StorageError(
                f"the demo's model cannot be stored: {error.strerror}",
                where=str(cached.parent),
                fix=f"set {environment.CACHE_VARIABLE} to a folder with 2 MB to spare",
            ) from error


def _demonstrations(seed: int) -> Iterator[Text]:
    """Yield training problems without end, each with a right answer."""
    task, rng, seq = digit_walk.DigitWalk(seed), np.random.default_rng(seed), 0
    while True:
        problem = task.train_problem(seq)
        yield problem.prompt.split(), digit_walk.demonstration(problem, rng).split()
        seq += 1


def _check_round_trip(folder: Path) -> None:
    """Require that the tokenizer loaded from the folder is the saved one: for some model types transformers silently
    uses another, which splits `+3`."""
    text = " ".join(digit_walk.VOCABULARY[3:])
    ids = load_tokenizer(str(folder)).encode(text)
    if ids != [digit_walk.VOCABULARY.index(BOS), *range(3, len(digit_walk.VOCABULARY))]:
        raise InternalError("the demo's tokenizer is not the saved one after loading", where=str(folder))
