"""Random batches for tests of objectives, their gradient by micro-batches, and the same gradient by several
processes."""

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import forks
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from isentrope.kernels.plain import Moments
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.objective.run import open_objective
from isentrope.rollout.config import SamplingConfig

T = 9
Table = Mapping[str, object]


def objective_of(*methods: str, **own: object) -> Objective:
    """The objective of presets and own keys, without the rules."""
    learner = LearnerConfig(method=list(methods), objective=own)
    sampling = SamplingConfig(max_new_tokens=T)
    return open_objective(learner, sampling, run_folder=Path("/"), evaluates=True).objective


def random_batch(seed: int = 0, *, prompts: int = 6, group: int = 4, dtype: torch.dtype = torch.float64) -> Batch:
    """Ragged responses with every field that any stage reads: one group of one response, one without variance, one
    response without any trainable token, some stale tokens, one demonstration."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [group] * (prompts - 1) + [1]
    owner = torch.repeat_interleave(torch.arange(prompts), torch.tensor(sizes))
    n = len(owner)
    length = torch.randint(1, T + 1, (n,), generator=draw)
    length[-1] = T
    valid = torch.arange(T) < length[:, None]
    stale = torch.rand(n, T, generator=draw) < 0.1
    stale[3] = True
    correct = torch.rand(n, generator=draw) < 0.5
    correct[owner == 1] = True
    correct[owner == 0] = torch.arange(group) % 2 == 0

    def noise(scale: float) -> Tensor:
        return torch.randn(n, T, generator=draw, dtype=dtype) * scale * valid

    def positive(scale: float) -> Tensor:
        return torch.rand(n, T, generator=draw, dtype=dtype) * scale * valid

    logp_rollout = -positive(3.0)
    demonstration = torch.zeros(n, T, dtype=torch.bool)
    demonstration[0] = valid[0]
    lag = torch.randint(0, 3, (n, T), generator=draw)
    answer = torch.randint(-1, 3, (n,), generator=draw)
    logp_old, entropy_old = logp_rollout + noise(0.05), positive(2.0)
    logp_ref = logp_rollout + noise(0.3)
    return Batch(
        greedy_reward=torch.rand(prompts, generator=draw, dtype=dtype)[owner],
        step_correct=torch.rand(n, T, generator=draw) < 0.5,
        mask=valid & ~stale,
        valid=valid,
        group=owner,
        seq=owner + 100,
        index=torch.cat([torch.arange(size) for size in sizes]),
        reward=torch.where(correct, 0.97, 0.1).to(dtype),
        parts=torch.stack([correct.to(dtype), (torch.arange(n) % 3 == 0).to(dtype)], dim=1),
        part_weights=(1.0, 0.5),
        correct=correct,
        length=length,
        truncated=length == T,
        logp_rollout=logp_rollout,
        lag=lag,
        source=owner % 2,
        source_names=("easy", "hard"),
        answer=answer,
        seed=7,
        number=3,
        statistics=Moments(logp_old, entropy_old, positive(0.5), -positive(0.5)),
        logp_ref=logp_ref,
        demonstration=demonstration,
        supplied={"values": noise(0.5)},
    )


def without_demonstrations(batch: Batch) -> Batch:
    """The batch as a run without a demonstrator makes it."""
    return dataclasses.replace(batch, demonstration=None)


def current_policy(batch: Batch, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, T] and entropies [N, T] of a policy some updates after `logp_old`."""
    draw = torch.Generator().manual_seed(seed)
    logp, entropy = batch.statistics.logp, batch.statistics.entropy
    moved = torch.randn(logp.shape, generator=draw, dtype=logp.dtype) * 0.3
    return logp + moved, entropy * 1.1


def halves(batch: Batch) -> list[Tensor]:
    """Two updates of whole groups."""
    rows, group = torch.arange(len(batch.group)), batch.group
    cut = int(group.max()) // 2
    return [rows[group <= cut], rows[group > cut]]


def gradient(
    objective: Objective,
    batch: Batch,
    micro_batches: Sequence[Sequence[Tensor]],
    state: ControllerStates | None = None,
    policy: tuple[Tensor, Tensor] | None = None,
    updates: Sequence[Tensor] | None = None,
) -> tuple[Tensor, float, dict[str, float]]:
    """Gradient [2, N, T] with respect to log-probabilities and entropies, loss, and sums, over all updates.

    micro_batches: of each update, the response numbers of each micro-batch. updates: whole, if not halves.
    """
    logp, entropy = (x.clone().requires_grad_() for x in policy or current_policy(batch))
    state = objective.start() if state is None else state
    prepared = objective.prepare(batch, updates or halves(batch), state)
    total, sums = 0.0, dict[str, float]()
    for update, parts in enumerate(micro_batches):
        for rows in parts:
            part = objective.token_loss(prepared, update, rows, logp[rows], entropy[rows], state)
            part.loss.backward()
            total += float(part.loss.detach())
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    zero = torch.zeros_like(logp)
    grads = [x.grad if x.grad is not None else zero for x in (logp, entropy)]
    return torch.stack(grads), total, sums


def shared_out(updates: Sequence[Tensor], count: int, seed: int = 5) -> list[list[Tensor]]:
    """Each update's responses in `count` micro-batches at random, some of them perhaps empty."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for rows in updates:
        owner = torch.randint(0, count, (len(rows),), generator=draw)
        order = torch.randperm(len(rows), generator=draw)
        out.append([rows[order][owner[order] == place] for place in range(count)])
    return out


def gradient_by_ranks(methods: Sequence[tuple[str, ...]], ranks: int, micro_batches: int, folder: Path) -> list[Tensor]:
    """Gradient of each objective, added over as many gloo processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = folder / f"{ranks}-{micro_batches}.pt"
    forks.context()
    arguments = (list(methods), ranks, micro_batches, port, str(result))
    mp.start_processes(_rank, arguments, nprocs=ranks, start_method="forkserver")  # type: ignore[no-untyped-call]
    gradients: list[Tensor] = torch.load(result, weights_only=True)
    return gradients


def _rank(rank: int, methods: list[tuple[str, ...]], ranks: int, micro_batches: int, port: int, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    gradients = []
    for names in methods:
        batch = random_batch()
        mine = [update[rank::ranks] for update in shared_out(halves(batch), ranks * micro_batches)]
        grad, _, _ = gradient(objective_of(*names), batch, mine)
        dist.all_reduce(grad)
        gradients.append(grad)
    if rank == 0:
        torch.save(gradients, result)
    dist.destroy_process_group()
