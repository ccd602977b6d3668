"""The demo's model: an ordinary Hugging Face folder with a tiny Llama, trained on demonstrations of digit walks.

About one answer in three is right and its entropy is still high, so that there is something to reinforce and entropy to
lose. Making it takes half a minute on one core and gives the same weights every time on one machine: the number of
steps is fixed, on one thread, from a fixed seed. The weights are cached by a digest of everything they depend on.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from isentrope import environment
from isentrope.errors import InternalError, StorageError
from isentrope.rollout.data.tasks import digit_walk
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.wire.files import replacing

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps to do."""

WEIGHTS = "model.safetensors"

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

_IDS = {word: number for number, word in enumerate(digit_walk.VOCABULARY)}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Supervised training on demonstrations. More steps would leave little to learn."""

    steps: int = 500
    rows: int = 64
    """Fresh demonstrations per step."""
    learning_rate: float = 3e-3
    ramp_steps: int = 50
    final_share: float = 0.1
    """Fraction of the learning rate, reached linearly at the last step."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: up over the ramp, then down to the last step."""
        ramp = min(1.0, (step + 1) / self.ramp_steps)
        return self.learning_rate * ramp * (1.0 - (1.0 - self.final_share) * step / self.steps)


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
    folder.mkdir(parents=True, exist_ok=True)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(_IDS),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        head_dim=32,  # the smallest that vLLM's CPU attention takes
        num_key_value_heads=1,
        intermediate_size=256,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        attention_bias=False,
        pad_token_id=_IDS[PAD],
        bos_token_id=_IDS[BOS],
        eos_token_id=_IDS[EOS],
    ).save_pretrained(folder)
    GenerationConfig(pad_token_id=_IDS[PAD], bos_token_id=_IDS[BOS], eos_token_id=_IDS[EOS]).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(_IDS))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, _IDS[BOS])])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD, bos_token=BOS, eos_token=EOS)
    tokenizer.save_pretrained(folder)
    _check_round_trip(folder)


def _cache(seed: int) -> Path:
    return environment.cache_folder() / "models" / fingerprint(seed)


def fingerprint(seed: int) -> str:
    """Return the digest of all that the weights depend on: this file, the task's, the seed, the libraries' versions."""
    digest = hashlib.blake2b(f"{seed} {torch.__version__} {transformers.__version__}".encode(), digest_size=16)
    for source in (__file__, digit_walk.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def warm_up(model: LlamaForCausalLM, plan: WarmUp, *, seed: int, progress: Progress) -> None:
    """Train `model` in place on demonstrations of training problems."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay, foreach=True
    )
    examples = _examples(plan.rows, seed)
    model.train()
    for step in range(plan.steps):
        ids, answers = next(examples)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        # the answers' positions alone: the last token of the prompt predicts the first of the answer
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][answers]
        loss = cross_entropy(model.lm_head(hidden), ids[:, 1:][answers])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
        optimizer.step()
        progress(step + 1, plan.steps)


def _fill(cached: Path, seed: int, progress: Progress) -> None:
    """Make the weights in a temporary folder, then rename it."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=cached.parent, ignore_cleanup_errors=True) as name:
            made = Path(name, "model")
            write_skeleton(made)
            with _one_thread(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = LlamaForCausalLM(LlamaConfig.from_pretrained(made))
                warm_up(model, WarmUp(), seed=seed, progress=progress)
            model.save_pretrained(made)
            made.rename(cached)
    except OSError as error:
        if not (cached / WEIGHTS).exists():  # else another process was faster
            raise StorageError(
                f"the demo's model cannot be stored: {error.strerror}",
                where=str(cached.parent),
                fix=f"set {environment.CACHE_VARIABLE} to a folder with 2 MB to spare",
            ) from error


def _examples(rows: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end: token ids [rows, T], and which of the T-1 predictions are of an answer [rows, T-1]."""
    task, rng, seq = digit_walk.DigitWalk(seed), np.random.default_rng(seed), 0
    while True:
        texts: list[tuple[list[str], list[str]]] = []
        for _ in range(rows):
            problem = task.train_problem(seq)
            seq += 1
            texts.append(([BOS, *problem.prompt.split()], [*digit_walk.demonstration(problem, rng).split(), EOS]))
        width = max(len(prompt) + len(answer) for prompt, answer in texts)
        ids: NDArray[np.int64] = np.full((rows, width), _IDS[PAD], dtype=np.int64)
        answers: NDArray[np.bool_] = np.zeros((rows, width), dtype=np.bool_)
        for row, (prompt, answer) in enumerate(texts):
            end = len(prompt) + len(answer)
            ids[row, :end] = [_IDS[word] for word in (*prompt, *answer)]
            answers[row, len(prompt) : end] = True
        yield torch.from_numpy(ids), torch.from_numpy(answers[:, 1:].copy())


def _check_round_trip(folder: Path) -> None:
    """Require that the tokenizer loaded from the folder is the saved one: for some model types transformers silently
    uses another, which splits `+3`."""
    text = " ".join(digit_walk.VOCABULARY[3:])
    ids = load_tokenizer(str(folder)).encode(text)
    if ids != [_IDS[BOS], *range(3, len(_IDS))]:
        raise InternalError("the demo's tokenizer is not the saved one after loading", where=str(folder))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: sums are added in the same order every time, and a core is left for the starting engine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
