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

from isentrope.errors import ConfigError
from isentrope.learner.intake.packing import Packed, pack_rows
from isentrope.learner.training.attention import PADDED, attention
from isentrope.learner.training.logits import require_plain_logits
from isentrope.learner.training.output_layer import widen
from isentrope.learner.training.weight_source import WeightSource
from isentrope.rollout.data.model_place import require_here

Result = TypeVar("Result")
PROBE_TOKENS = 4

ROW_TOLERANCE = 0.02
"""Largest difference of a row's hidden states among packed rows from those of the row alone, as a share of the largest:
above the rounding of bfloat16."""

logger = logging.getLogger(__name__)


class Policy(nn.Module):
    """A causal language model that computes the logits of response tokens only."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.dtype: torch.dtype = network.dtype
        self.runs_packed = network.config._attn_implementation != PADDED
        """True if rows lie end to end; else each micro-batch is a rectangle."""

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
    def settle_attention(self, device: torch.device) -> None:
        """Choose padded rows, and log why, where packed ones would see each other (layers that carry a state from token
        to token do not ask where a row starts), or need what the attention of packed rows does not have."""
        if not self.runs_packed:
            return
        first, second = [1, 0, 2, 3], [0, 1, 1]
        try:
            together = self._hidden_packed(pack_rows([first, second], device))[-len(second) + 1 :]
            alone = self._hidden_packed(pack_rows([second], device))
        except NotImplementedError as error:
            reason = str(error)
        else:
            if float((together - alone).abs().max()) <= ROW_TOLERANCE * float(alone.abs().max()):
                return
            reason = f"rows of {type(self.network).__name__} are not independent of those packed before them"
        logger.warning("rows are padded to the longest of each micro-batch: %s", reason)
        self.network.set_attn_implementation(PADDED)
        self.runs_packed = False

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
        return self._hidden_packed(packed) if self.runs_packed else self._hidden_padded(packed)

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


def load_policy(path: str, *, dtype: torch.dtype, device: torch.device, gradient_checkpointing: bool) -> Policy:
    """Load the whole policy from the folder or id `path` onto the CPU. Runs no code from the model's folder.

    Without dropout: the ratio of a policy to itself must be 1.

    Raises:
        ConfigError: there is no such model, or a weight of it is not in its files.
    """
    require_here(path)
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=PADDED, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model cannot be loaded: {reason}", where="model.path") from None
    WeightSource(network).check(Path(path))
    network.set_attn_implementation(attention(type(network), device, dtype))
    widen(network)
    network.eval()
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        for module in network.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # else it keeps its activations
                for name in [name for name in vars(module) if "dropout" in name]:
                    setattr(module, name, 0.0)  # some apply dropout themselves
    return Policy(network)
