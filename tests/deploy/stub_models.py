"""Folders of models that nothing loads, and data, in place of those that the run files of `deploy/` name."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from deploy_files import DEPLOY
from safetensors.numpy import save_file

RUNS = sorted((DEPLOY / "runs").glob("*.toml"))

REWARDS = "def reaches(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n"

_QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": "bfloat16", "hidden_act": "silu"}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _QWEN
    | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True},
    "Qwen/Qwen2.5-7B": _QWEN
    | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 131072, "tie_word_embeddings": False},
}
"""Configurations as they are published, as far as they decide memory."""


def write_stub(run: Path, folder: Path) -> list[str]:
    """Write a run file's model and data into a new folder, with prompts as long as it allows, and return the keys that
    name them."""
    from isentrope.demo.model import WEIGHTS, write_skeleton

    told = tomllib.loads(run.read_text())
    model = folder / "model"
    write_skeleton(model)
    facts = json.loads((model / "config.json").read_text())
    if published := MODELS.get(told["model"]["path"]):
        facts = {key: value for key, value in facts.items() if key.endswith("_token_id")} | published
        (model / "config.json").write_text(json.dumps(facts))
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    save_file({"weight": np.zeros(4, np.float32)}, model / WEIGHTS)
    (folder / "rewards.py").write_text(REWARDS)
    length = told["model"].get("max_model_len", facts["max_position_embeddings"])
    length -= told["sampling"]["max_new_tokens"]
    (folder / "rows.jsonl").write_text((json.dumps(_row(told, length)) + "\n") * 4)
    shutil.copy(run, folder / "run.toml")
    rows = folder / "rows.jsonl"
    return [f"model.path={model}", f"data.train={rows}", *([f"data.eval={rows}"] if "eval" in told["data"] else [])]


def _row(told: dict[str, Any], length: int) -> dict[str, object]:
    chat = "columns" in told["data"]
    text = " ".join(["7"] * (length if chat else length - 1))  # text gets a token in front
    if chat:
        return {"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": "34"}}
    return {"question": text, "prompt": text, "answer": "3 + 4 = 7\n#### 7"}
