"""A tiny Llama as an ordinary Hugging Face folder, trained on demonstrations in seconds on one core.

Its tokens are words between blanks. It is for trying: a run file, data and a reward can be run before there is a GPU.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps to do."""

Text = tuple[list[str], list[str]]
"""Words of a prompt and of its answer."""

Messages = list[dict[str, str]]

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"

CHAT = (
    BOS + "{% for message in messages %} <{{ message.role }}> {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""Chat template whose words are separated by blanks."""


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


def make_tiny_model(folder: Path, demonstrations: Sequence[tuple[str | Messages, str]], *, steps: int = 500) -> None:
    """Write a model that has seen `demonstrations`, prompts with their answers, for `steps` batches of 64.

    It knows their words alone; prompts that are messages give it a chat template.
    """
    texts = [(_rendered(prompt).split(), answer.split()) for prompt, answer in demonstrations]
    words = sorted({word for text in texts for part in text for word in part})
    chat = any(not isinstance(prompt, str) for prompt, _ in demonstrations)
    write_skeleton(folder, (PAD, BOS, EOS, UNKNOWN, *words), CHAT if chat else "")
    order = np.random.default_rng(0)
    drawn = (texts[order.integers(len(texts))] for _ in itertools.count())
    fill(folder, drawn, WarmUp(steps=steps), seed=0)


def write_skeleton(folder: Path, words: Sequence[str], chat_template: str = "") -> None:
    """Write configuration and tokenizer; the place of a word among `words` is its id."""
    ids = {word: number for number, word in enumerate(words)}
    special = {"pad_token_id": ids[PAD], "bos_token_id": ids[BOS], "eos_token_id": ids[EOS]}
    folder.mkdir(parents=True, exist_ok=True)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(ids),
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
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
    ).save_pretrained(folder)
    GenerationConfig(**special).save_pretrained(folder)
    unknown = UNKNOWN if UNKNOWN in ids else None
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    saved = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=unknown
    )
    saved.chat_template = chat_template or None
    saved.save_pretrained(folder)


def fill(
    folder: Path,
    texts: Iterator[Text],
    plan: WarmUp,
    *,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> None:
    """Add to the skeleton in `folder` the weights that training on `texts` gives, the same every time."""
    ids = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
        warm_up(model, plan, _batches(texts, ids, plan.rows), progress)
    model.save_pretrained(folder)


def warm_up(
    model: LlamaForCausalLM, plan: WarmUp, batches: Iterator[tuple[Tensor, Tensor]], progress: Progress
) -> None:
    """Train `model` in place on `batches` of demonstrations."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay, foreach=True
    )
    model.train()
    for step in range(plan.steps):
        ids, answers = next(batches)
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


def _batches(texts: Iterator[Text], ids: dict[str, int], rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end: token ids [rows, T], and which of the T-1 predictions are of an answer [rows, T-1]."""
    while True:
        batch = [([BOS, *prompt], [*answer, EOS]) for prompt, answer in itertools.islice(texts, rows)]
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        tokens: NDArray[np.int64] = np.full((rows, width), ids[PAD], dtype=np.int64)
        answers: NDArray[np.bool_] = np.zeros((rows, width), dtype=np.bool_)
        for row, (prompt, answer) in enumerate(batch):
            end = len(prompt) + len(answer)
            tokens[row, :end] = [ids[word] for word in (*prompt, *answer)]
            answers[row, len(prompt) : end] = True
        yield torch.from_numpy(tokens), torch.from_numpy(answers[:, 1:].copy())


def _rendered(prompt: str | Messages) -> str:
    """Return a prompt as `CHAT` renders it, but for the begin of the text."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(f"<{message['role']}> {message['content']}" for message in prompt) + " <assistant>"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: sums are added in the same order every time, and a core is left for the starting engine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
