"""The peers' kernels as `aot.Kernel`s, in the specialisation that their own wrappers launch for one real vocabulary.

Matrix-multiplying kernels have no count of instructions per logit: their loop is over the hidden size.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from isentrope.kernels.bench import peers
from isentrope.kernels.bench.aot import Kernel, types_of

VOCABULARY = 151936


def peer_kernels() -> tuple[list[Kernel], dict[str, str]]:
    """Return the kernels of the installed peers, and the reason why each other is missing."""
    kernels: list[Kernel] = []
    missing: dict[str, str] = {}
    for name, load in _LOADERS.items():
        try:
            kernels.extend(load())
        except ImportError as error:
            missing[name] = str(error)
    return kernels, missing


def _trl() -> Iterable[Kernel]:
    module = peers.trl_logits()
    strides = "logits_batch_stride:i32 logits_row_stride:i32 index_batch_stride:i32 index_row_stride:i32"
    strides += " mask_batch_stride:i32 mask_row_stride:i32 rows_per_batch:i32"
    constants = {"n_cols": VOCABULARY, "TEMPERATURE": 1.0, "HAS_MASK": False, "BLOCK_SIZE": 1024}
    # without a batch dimension its strides are 0, which is a multiple of 16 as well
    places = ("logits_ptr", "logits_row_stride", "logits_batch_stride")
    aligned = frozenset({*places, *(f"grad_{place}" for place in places)})
    outputs = "logprobs_ptr:*fp32 entropy_ptr:*fp32 log_z_ptr:*fp32 expected_logit_ptr:*fp32"
    types = types_of(f"logits_ptr:*bf16 index_ptr:*i64 row_mask_ptr:*i64 {outputs} {strides}")
    forward = module._forward_kernel
    yield Kernel("forward", forward, types, constants, aligned & types.keys(), 4, "bf16", (("", 1024),), provider="trl")
    inputs = "log_z_ptr:*fp32 expected_logit_ptr:*fp32 grad_logprobs_ptr:*fp32 grad_entropy_ptr:*fp32"
    types = types_of(
        f"logits_ptr:*bf16 index_ptr:*i64 row_mask_ptr:*i64 {inputs} grad_logits_ptr:*bf16 {strides}"
        " grad_logits_batch_stride:i32 grad_logits_row_stride:i32"
    )
    constants = constants | {"HAS_LOGPROB_GRAD": True, "HAS_ENTROPY_GRAD": True}
    backward = module._backward_kernel
    yield Kernel("backward", backward, types, constants, aligned, 4, "bf16", program=1024, provider="trl")


def _liger() -> Iterable[Kernel]:
    module = peers.liger_logits()
    absent = dict.fromkeys(("REF_LOGP", "COMPLETION_MASK", "VLLM_IS_RATIO", "PHI_SEQ", "KL"))
    settings: dict[str, Any] = {"TEMPERATURE": 1.0, "BETA": 0.0, "EPS_LOW": 0.2, "EPS_HIGH": 0.2, "LOSS_TYPE": 0}
    settings |= {"SAPO_TEMP_POS": 1.0, "SAPO_TEMP_NEG": 1.05, "DELTA": 0.0, "USE_BIAS_CORRECTION_KL": False}
    settings |= {"L": 1024, "N": VOCABULARY}
    common = "LOGITS:*bf16 OLD_LOGP:*fp32 INPUT_IDS:*i64 ADVANTAGES:*fp32 VLLM_IS_RATIO_STRIDE:i32 LSE:*fp32"
    for name, extra, block, warps in (
        ("fwd", "LOSS:*fp32 IS_CLIPPED:*fp32", 2048, 1),
        ("bwd", "DLOSS:*fp32 DLOGITS:*bf16 loss_stride0:i32 loss_stride1:i32", 4096, 16),
    ):
        function = getattr(module, f"_grpo_loss_{name}_kernel")
        constants = {k: v for k, v in (absent | settings | {"BLOCK_N": block}).items() if k in function.arg_names}
        yield Kernel(
            "forward" if name == "fwd" else "backward", function, types_of(f"{common} {extra}"), constants,
            frozenset({"LOGITS", "DLOGITS"} & set(function.arg_names)), warps, "bf16", (("", block),), provider="liger",
        )  # fmt: skip


def _trl_linear() -> Iterable[Kernel]:
    module = peers.trl_linear()
    fixed = "mm_ptr:*bf16 mm_stride:i32 targets_ptr:*i64 vocab_start:i32 n_cols:i32 logit_scale:fp32 softcap:fp32"
    fixed += " inv_t:fp32"
    sums = "max_ptr sum_exp_ptr x_sum_exp_ptr sq_sum_exp_ptr z_sum_ptr max_before_target_ptr target_logit_ptr"
    flags: Mapping[str, object] = {
        "HAS_SOFTCAP": False, "HAS_ENTROPY": True, "HAS_LOG_SUM_SQ_PROBS": False, "HAS_MEAN_LOGITS": False,
        "HAS_IS_TOP1": False, "BLOCK_SIZE": module._BLOCK_SIZE,
    }  # fmt: skip
    aligned = frozenset({"mm_ptr", "mm_stride", "n_cols"})
    types = types_of(fixed) | dict.fromkeys(sums.split(), "*fp32")
    size = module._BLOCK_SIZE
    forward = module._forward_kernel
    yield Kernel("linear_forward", forward, types, flags, aligned, 4, "bf16", (("", size),), provider="trl")
    gradients = "log_z_ptr entropy_ptr grad_logprobs_ptr grad_entropy_ptr"
    types = types_of(fixed) | dict.fromkeys(gradients.split(), "*fp32")
    flags = {"HAS_SOFTCAP": False, "HAS_LOGPROB_GRAD": True, "HAS_ENTROPY_GRAD": True, "BLOCK_SIZE": size}
    backward = module._backward_kernel
    yield Kernel("linear_backward", backward, types, flags, aligned, 4, "bf16", program=size, provider="trl")


def _verl() -> Iterable[Kernel]:
    function = peers.verl_kernels().efficient_entropy_kernel_general_mainloop.fn
    types = types_of(
        "rank:i32 hidden_ptr:*bf16 weight_ptr:*bf16 labels_ptr:*i64 num_tokens:i32 hidden_size:i32 vocab_size:i32"
        " vocab_per_split:i32 stride_hidden_m:i64 stride_weight_n:i64 max_ptr:*fp32 stride_max_m:i64 accu_ptr:*fp32"
        " stride_accu_m:i64 entropy_b_ptr:*fp32 stride_entropy_b_m:i64 global_logprobs_ptr:*fp32"
        " stride_global_logprobs:i64 global_logprobs_scalar_ptr:*fp32 rcp_temperature:fp32"
    )
    units = ("stride_hidden_k", "stride_weight_k", "stride_max_n", "stride_accu_n", "stride_entropy_b_n")
    tile = {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 32, "USE_TMA": False}
    aligned = frozenset({"hidden_ptr", "weight_ptr", "hidden_size", "stride_hidden_m", "stride_weight_n"})
    constants = {name: value for name, value in (dict.fromkeys(units, 1) | tile).items() if name in function.arg_names}
    yield Kernel("linear_forward", function, types, constants, aligned, 8, "bf16", provider="verl")


def _cce() -> Iterable[Kernel]:
    """Yield the forward alone, log-sum-exp without entropy, with the block sizes it uses without autotuning."""
    function = peers.cce_forward()
    types = types_of(
        "E:*bf16 C:*bf16 LSE:*fp32 Locks:*u32 B:i32 V:i32 D:i32 stride_eb:i32 stride_cv:i32 num_locks:i32 B_BIN:i32"
    )
    absent = dict.fromkeys(("LA", "Valids", "softcap"))
    units = dict.fromkeys(("stride_ed", "stride_cd", "stride_lse_b", "stride_vb"), 1)
    flags = {"HAS_VALIDS": False, "EVEN_D": True, "HAS_SOFTCAP": False, "HAS_LA": False, "DOT_PRECISION": "ieee"}
    tile = {"BLOCK_B": 256, "BLOCK_V": 128, "BLOCK_D": 32, "GROUP_B": 8}
    aligned = frozenset({"E", "C", "LSE", "D", "stride_eb", "stride_cv"})
    yield Kernel("linear_forward", function, types, absent | units | flags | tile, aligned, 8, "bf16", provider="cce")


_LOADERS: Mapping[str, Callable[[], Iterable[Kernel]]] = {
    "trl": _trl,
    "liger": _liger,
    "trl linear": _trl_linear,
    "verl": _verl,
    "cce": _cce,
}
