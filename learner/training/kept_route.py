"""The kept batches of a run that led to one of its checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from isentrope.errors import ConfigError
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointStore, Claim
from isentrope.learner.training.group_store import KeptBatches, read_record
from isentrope.learner.training.kept_groups import batch_number
from isentrope.rollout.wire.types import batch_of


def lineage(store: CheckpointStore) -> list[str]:
    """Return the checkpoints from which the next learner may start, the best first."""
    if store.has_claims():
        store.claimed = Claim(store.newest_claim(), "", "")
    return list(store.lineage())


def chosen(names: Sequence[str], wanted: str, run: Path) -> str:
    """Return the checkpoint of a lineage that a name or number of batches means; empty: the newest. ConfigError if
    there is no such checkpoint."""
    for name in names:
        if not wanted or wanted in (name, str(batches_of(name))):
            return name
    there = f"of these: {', '.join(names)}" if names else "when it has written one"
    raise ConfigError(f"there is no checkpoint {wanted} in {run}" if wanted else f"{run} has no checkpoint", fix=there)


def leading_to(run: Path, goal: str, *, after: int = 0) -> tuple[Path, ...]:
    """Return the kept batches after batch `after` that led to a checkpoint, the first one first.

    Raises:
        ConfigError: there are none, or not all of them were kept.
        StorageError: the checkpoint or a kept plan cannot be read.
    """
    ledger = CheckpointStore(run / CHECKPOINTS).state(goal).ledger
    found = KeptBatches(run).leading_to(ledger.batches, ledger.chain, _learner(goal), after=after)
    batches = tuple(reversed(list(found)))
    if len(batches) != batches_of(goal) - after or not batches:
        raise _not_all_kept(run, after, goal, batches)
    return batches


def kept_from_the_beginning(run: Path, count: int) -> tuple[Path, ...]:
    """Return the kept batches that led to a run's newest checkpoint, at least `count`.

    Raises:
        ConfigError: the run has no checkpoint, fewer batches, or has not kept all of them.
        StorageError: the checkpoint or a kept plan cannot be read.
    """
    batches = leading_to(run, chosen(lineage(CheckpointStore(run / CHECKPOINTS)), "", run))
    if len(batches) < count:
        raise ConfigError(
            f"learner.batches = {count}, and {run} has kept {len(batches)} batches up to its newest checkpoint",
            where="learner.batches",
            fix=f"set it to at most {len(batches)}, or let that run go on",
        )
    return batches


def require_young(batches: Sequence[Path], oldest: int) -> None:
    """Refuse batches of which one has no token of age `oldest` or less: nothing of it could be trained.

    Raises:
        ConfigError: there is one.
        StorageError: a kept plan cannot be read.
    """
    for path in batches:
        record = read_record(path)
        newest = max(batch_of(int(group.header["version_max"])) for group in record.groups)
        if (age := record.plan.batch - 1 - newest) > oldest:
            raise ConfigError(
                f"no token of kept batch {record.plan.batch} is less than {age} batches old, and those older than "
                f"{oldest} are masked",
                where="learner.staleness.token_max_lag",
                fix=f"set it to {age} or more, with a clip or a correction that bounds what such tokens do",
            )


def batches_of(name: str) -> int:
    """Return the number of batches that a checkpoint covers."""
    return int(name.split("-")[1])


def _learner(name: str) -> int:
    return int(name.split("-")[2])


def _not_all_kept(run: Path, after: int, goal: str, batches: Sequence[Path]) -> ConfigError:
    if batches:
        what = f"of batches {after + 1} to {batch_number(batches[0]) - 1}"
    else:
        what = f"between batch {after} and {goal}"
    return ConfigError(
        f"no groups {what} are kept in {run}",
        where="learner.retain",
        fix="a run keeps what it trains while learner.retain is groups; `isentrope replay --from` begins later",
    )
