"""The peers' kernels, loaded from their installed wheels without the frameworks around them.

A wheel's top-level `__init__` would import transformers, ray, vllm and more. Instead an empty package with the wheel's
folder as its path replaces it, so that the modules below import each other as usual. The loaded code is the wheel's
own, unchanged.
"""

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

DISTRIBUTIONS = {
    "trl": "trl",
    "liger": "liger-kernel",
    "verl": "verl",
    "cce": "cut-cross-entropy",
}
"""Peers and the wheels they come from."""


def versions() -> dict[str, str]:
    """Return the version of each peer; "missing" for a wheel that is not installed."""
    found = {name: importlib.metadata.Distribution.discover(name=wheel) for name, wheel in DISTRIBUTIONS.items()}
    return {name: next((each.version for each in wheels), "missing") for name, wheels in found.items()}


def trl_logits() -> ModuleType:
    """Return TRL's fused log-prob and entropy of logits."""
    _hollow("trl", "trl.kernels")
    return importlib.import_module("trl.kernels.logprob_entropy")


def trl_linear() -> ModuleType:
    """Return TRL's chunked log-prob and entropy of hidden states."""
    _hollow("trl", "trl.kernels")
    if importlib.util.find_spec("transformers") is None:
        _stand_in("transformers.utils", is_triton_available=lambda: True)
    _hollow("trl", "trl.trainer")
    _stand_in("trl.trainer.utils", maybe_gather_lm_head_ctx=lambda *_, **__: contextlib.nullcontext())  # for ZeRO-3
    return importlib.import_module("trl.kernels.chunked_logprob")


def liger_logits() -> ModuleType:
    """Return Liger's GRPO loss of logits."""
    _hollow("liger_kernel", "liger_kernel.ops")
    return importlib.import_module("liger_kernel.ops.grpo_loss")


def liger_linear() -> ModuleType:
    """Return Liger's GRPO loss of hidden states."""
    _hollow("liger_kernel", "liger_kernel.chunked_loss")
    return importlib.import_module("liger_kernel.chunked_loss.grpo_loss")


def verl_linear() -> ModuleType:
    """Return verl's fused log-prob and entropy of hidden states."""
    _verl()
    return importlib.import_module("verl.utils.kernel.linear_cross_entropy")


def verl_kernels() -> ModuleType:
    """Return the Triton kernels that `verl_linear` launches."""
    _verl()
    return importlib.import_module("verl.utils.kernel.kernels")


def verl_kl_cov() -> Callable[..., tuple[torch.Tensor, dict[str, Any]]]:
    """Return verl's KL-Cov loss: its module imports half of verl, so the functions are taken from its source."""
    root = _folder("verl")
    helpers = _functions(root / "utils/torch_functional.py", ("masked_sum", "masked_mean"), {})
    scope = {"verl_F": SimpleNamespace(**helpers), "AlgoConfig": type("AlgoConfig", (), {})}
    names = ("agg_loss", "compute_policy_loss_kl_cov")
    function: Callable[..., tuple[torch.Tensor, dict[str, Any]]] = _functions(
        root / "trainer/ppo/core_algos.py", names, scope
    )["compute_policy_loss_kl_cov"]
    return function


def cce() -> ModuleType:
    """Return Apple's cut cross-entropy."""
    return importlib.import_module("cut_cross_entropy")


def cce_forward() -> Any:
    """Return the Triton kernel of its log-sum-exp, without the wrappers that choose its block sizes."""
    return importlib.import_module("cut_cross_entropy.cce_lse_forward")._cce_lse_forward_kernel.fn.fn


def _verl() -> None:
    _hollow("verl", "verl.utils", "verl.utils.kernel")
    cuda = torch.cuda.is_available()
    _stand_in(
        "verl.utils.device",
        get_device_capability=torch.cuda.get_device_capability,
        get_device_name=lambda: "cuda" if cuda else "cpu",
        get_torch_device=lambda: torch.cuda,
        is_cuda_available=cuda,
    )


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _hollow(*packages: str) -> None:
    """Register empty packages with the folders of the real ones."""
    root = _folder(packages[0])
    for name in packages:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            module.__spec__ = importlib.util.spec_from_loader(name, None, is_package=True)
            assert module.__spec__ is not None
            module.__spec__.submodule_search_locations = module.__path__
            sys.modules[name] = module


def _stand_in(name: str, **attributes: object) -> None:
    """Register a module with these attributes, and the packages above it."""
    parent, _, _ = name.rpartition(".")
    if parent and parent not in sys.modules:
        sys.modules[parent] = ModuleType(parent)
    module = ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _functions(path: Path, names: tuple[str, ...], scope: Mapping[str, object]) -> dict[str, Any]:
    """Return functions of a module without running its imports, decorators and annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    for function in wanted:
        function.decorator_list, function.returns = [], None
        for argument in (*function.args.args, *function.args.kwonlyargs):
            argument.annotation = None
    namespace: dict[str, Any] = {"torch": torch, **scope}
    exec(compile(ast.Module([*wanted], []), str(path), "exec"), namespace)
    return {name: namespace[name] for name in names}
