"""Names that other trainers give their settings: understood in the advice for an unknown key, and nowhere else."""

from collections.abc import Mapping
from types import MappingProxyType

_LORA = "LoRA is not supported: all weights are trained"
_KL = 'the weight of a divergence is [[learner.objective.kl]] with kind = "k3" and coef = 0.01'
_EPOCHS = "a run ends by batches: learner.batches = epochs * prompts / learner.prompts_per_batch"
_CLIP = "both sides have keys of their own: learner.objective.clip.low and learner.objective.clip.high"
_MICRO = "micro-batches are filled by tokens, as many as memory holds, and accumulated: learner.micro_batch_tokens"
_BROKER = "the broker's URL may hold a password and stays out of the file: export ISENTROPE_REDIS_URL=redis://..."

HERE: Mapping[str, str] = MappingProxyType(
    {
        "num_generations": "sampling.group_size",
        "n": "sampling.group_size",
        "rollouts_per_example": "sampling.group_size",
        "max_completion_length": "sampling.max_new_tokens",
        "max_response_length": "sampling.max_new_tokens",
        "response_length": "sampling.max_new_tokens",
        "max_tokens": "sampling.max_new_tokens",
        "model_name_or_path": "model.path",
        "chat_template_kwargs": "model.chat_template_args",
        "dataset": "data.train",
        "dataset_name": "data.train",
        "train_dataset": "data.train",
        "train_files": "data.train",
        "eval_dataset": "data.eval",
        "val_files": "data.eval",
        "reward_funcs": "data.reward",
        "reward_fn": "data.reward",
        "lr": "learner.learning_rate",
        "warmup_steps": "learner.warmup_updates",
        "lr_warmup_steps": "learner.warmup_updates",
        "train_batch_size": "learner.prompts_per_batch",
        "ppo_max_token_len_per_gpu": "learner.micro_batch_tokens",
        "ppo_epochs": "learner.epochs",
        "num_iterations": "learner.epochs",
        "max_steps": "learner.batches",
        "total_training_steps": "learner.batches",
        "save_steps": "learner.checkpoint_every",
        "save_freq": "learner.checkpoint_every",
        "eval_steps": "learner.eval_every",
        "test_freq": "learner.eval_every",
        "loss_type": "learner.method",
        "adv_estimator": "learner.method",
        "epsilon_high": "learner.objective.clip.high",
        "clip_ratio_high": "learner.objective.clip.high",
        "clip_ratio_low": "learner.objective.clip.low",
        "tensor_model_parallel_size": "actors.tensor_parallel_size",
        "vllm_gpu_memory_utilization": "actors.gpu_memory_utilization",
    }
)
"""Name of another trainer -> the key that means the same here, in the same unit."""

TOLD: Mapping[str, str] = MappingProxyType(
    {
        "beta": _KL,
        "kl_coef": _KL,
        "kl_loss_coef": _KL,
        "use_kl_loss": _KL,
        "num_train_epochs": _EPOCHS,
        "total_epochs": _EPOCHS,
        "ppo_mini_batch_size": "learner.updates_per_batch = learner.prompts_per_batch / ppo_mini_batch_size",
        "per_device_train_batch_size": f"learner.prompts_per_batch counts prompts of the whole batch; {_MICRO}",
        "gradient_accumulation_steps": _MICRO,
        "epsilon": _CLIP,
        "clip_ratio": _CLIP,
        "max_prompt_length": "model.max_model_len = max_prompt_length + sampling.max_new_tokens",
        "n_gpus_per_node": "GPUs are divided: learner.ranks train, actors.count * actors.tensor_parallel_size sample",
        "url": _BROKER,
        "redis_url": _BROKER,
        "host": _BROKER,
        "entropy_coeff": "entropy control is a method: see `isentrope methods`, or [learner.objective.entropy]",
        "lora": _LORA,
        "lora_rank": _LORA,
        "lora_alpha": _LORA,
        "peft_config": _LORA,
        "use_peft": _LORA,
        "trainer": "settings of training are in [learner], those of the run in [run]",
        "algorithm": "settings of the loss are learner.method and [learner.objective]",
        "rollout": "settings of sampling are in [sampling], those of the engines in [actors]",
        "actor_rollout_ref": "training is in [learner], of the model in [model], of sampling in [sampling]",
        "use_vllm": "every actor runs vLLM: leave it out",
        "vllm_mode": "actors and learner have GPUs of their own: actors.count, learner.ranks",
        "report_to": "set learner.tensorboard = true; metrics.jsonl is written in any case",
        "logger": "set learner.tensorboard = true; metrics.jsonl is written in any case",
        "scale_rewards": 'set [learner.objective.advantage] scale = "group_std" or "none"',
        "bf16": 'set model.dtype = "bfloat16"',
        "fp16": 'set model.dtype = "bfloat16" or "float32"',
    }
)
"""Name of another trainer -> advice, where no single key means the same."""


def advice(name: str) -> str:
    """Return advice for a key that has the name of a setting of another trainer; empty: it has not."""
    name = name.lower()
    return TOLD.get(name) or (f"it is called {HERE[name]} here" if name in HERE else "")
