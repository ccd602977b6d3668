"""The language model for training: logits at the response positions of a micro-batch only.

M packed tokens, K targets, D hidden, V vocabulary.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.import_utils import is_flash_attn_2_available

from isentrope.errors import ConfigError
from isentrope.learner.intake.packing import Packed
from isentrope.learner.training.logits import require_plain_logits
from isentrope.learner.training.weight_source import WeightSource
from isentrope.rollout.data.model_place import require_here

Result = TypeVar("Result")
PROBE_TOKENS = 4

FLASH = "flash_attention_2"
PADDED = "sdpa"

logger = logging.getLogger(__name__)


class Policy(nn.Module):
    """A causal language model that computes the logits of response tokens only."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.dtype: torch.dtype = network.dtype
        self._runs_packed = network.config._attn_implementation == FLASH

    def forward(self, packed: Packed, use: Callable[[Tensor, Tensor], Result]) -> Result:
        """Return `use(logits [K, V], targets [K])`, called here because ZeRO-3 has the parameters only while the
        network runs."""
        return use(self._head(self._hidden(packed)), packed.target)

    @property
    def _head(self) -> nn.Module:
        head: nn.Module | None = self.network.get_output_embeddings()
        assert head is not None, "a causal language model has an output layer"
        return head

    @torch.no_grad()
    def check_head(self, device: torch.device) -> None:
        """Raise ConfigError for an architecture that changes logits after the output layer: `forward` does not."""
        require_plain_logits(self.network.config.get_text_config(), "model.path")
        ids = torch.arange(PROBE_TOKENS, device=device)[None]
        whole = self.network(input_ids=ids, use_cache=False).logits
        hidden = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if not torch.allclose(whole, self._head(hidden)):
            raise ConfigError(
                f"{type(self.network).__name__} changes its logits after the output layer, which is not supported",
                where="model.path",
            )

    def _hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states at the places before the targets: [K, D]."""
        return self._hidden_packed(packed) if self._runs_packed else self._hidden_padded(packed)

    def _hidden_padded(self, packed: Packed) -> Tensor:
        """Return [K, D]. Rows padded on the right need no mask. For many short responses on a CPU this is 1.2 (16
        responses) to 4 times (128) as fast as one packed row, whose attention costs M * M."""
        ids, cell = packed.rectangle()
        hidden: Tensor = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[cell[packed.source]]

    def _hidden_packed(self, packed: Packed) -> Tensor:
        """Return [K, D], by attention that gets the starts of rows."""
        longest = int(packed.starts.diff().max())
        hidden: Tensor = self.network.base_model(
            input_ids=packed.ids[None],
            position_ids=packed.position[None],
            use_cache=False,
            cu_seq_lens_q=packed.starts,
            cu_seq_lens_k=packed.starts,
            max_length_q=longest,
            max_length_k=longest,
        ).last_hidden_state
        return hidden[0, packed.source]


def attention(device: torch.device, dtype: torch.dtype) -> str:
    """Return the implementation of attention: packed rows where flash-attn is, else padded ones, and log why.

    Transformers is asked for it: a module `flash_attn` may also be another package's, with nothing that it can use.
    """
    if device.type != "cuda":
        return PADDED
    if dtype != torch.bfloat16:
        reason = f"packed ones need bfloat16, and model.dtype is {str(dtype).removeprefix('torch.')}"
    elif not is_flash_attn_2_available():
        reason = "flash-attn 2 is not installed: pip install --no-build-isolation 'isentrope[flash]', which compiles it"
    else:
        logger.info("rows are trained packed, by flash-attn")
        return FLASH
    logger.info("rows are padded to the longest of each micro-batch: %s", reason)
    return PADDED


def load_policy(path: str, *, dtype: torch.dtype, device: torch.device, gradient_checkpointing: bool) -> Policy:
    """Load the whole policy from the folder or id `path` onto the CPU. Runs no code from the model's folder.

    Without dropout: the ratio of a policy to itself must be 1.

    Raises:
        ConfigError: there is no such model, or a weight of it is not in its files.
    """
    require_here(path)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention(device, dtype), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model cannot be loaded: {reason}", where="model.path") from None
    WeightSource(network).check(Path(path))
    network.eval()
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        for module in network.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # else it keeps its activations
                for name in [name for name in vars(module) if "dropout" in name]:
                    setattr(module, name, 0.0)  # some apply dropout themselves
    return Policy(network)
