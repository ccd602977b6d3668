"""Operations that ranks of a run ask of NCCL, with known results; `nccl.sh` starts a process for each GPU."""

import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed as dist

NUMBERS = (1 << 10, 1 << 20, int(os.environ.get("NUMBERS", 1 << 28)))
"""Sizes of what is sent, in numbers of two bytes."""

REPEATS = 5


def reduced(size: int, rank: int, world: int, device: torch.device) -> torch.Tensor:
    """Sum over all ranks; return the differences from what is expected."""
    given = torch.full((size,), 1, dtype=torch.bfloat16, device=device)
    dist.all_reduce(given)
    return given - world


def scattered(size: int, rank: int, world: int, device: torch.device) -> torch.Tensor:
    """Sum over all ranks, of which each gets a part."""
    part = torch.empty(size // world, dtype=torch.bfloat16, device=device)
    dist.reduce_scatter_tensor(part, torch.full((size // world * world,), 1, dtype=torch.bfloat16, device=device))
    return part - world


def gathered(size: int, rank: int, world: int, device: torch.device) -> torch.Tensor:
    """Gather what each rank has."""
    part = size // world
    made = torch.empty(part * world, dtype=torch.bfloat16, device=device)
    dist.all_gather_into_tensor(made, torch.full((part,), rank, dtype=torch.bfloat16, device=device))
    return made - torch.arange(world, dtype=torch.bfloat16, device=device).repeat_interleave(part)


def spread(size: int, rank: int, world: int, device: torch.device) -> torch.Tensor:
    """Send from the last rank to all."""
    given = torch.full((size,), rank, dtype=torch.bfloat16, device=device)
    dist.broadcast(given, src=world - 1)
    return given - (world - 1)


OPERATIONS: dict[str, Callable[[int, int, int, torch.device], torch.Tensor]] = {
    "all_reduce": reduced,
    "reduce_scatter": scattered,
    "all_gather": gathered,
    "broadcast": spread,
}


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run all operations; return 1 if a result is wrong."""
    backend = os.environ.get("BACKEND", "nccl")
    dist.init_process_group(backend, timeout=timedelta(minutes=2))
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    tell(f"rank {rank} of {world}: {socket.gethostname()}, {device}, {name}")
    wrong = 0
    for operation, run in OPERATIONS.items():
        for size in NUMBERS:
            wrong += bool(run(size, rank, world, device).any())  # also connects, which the next ones need not
            dist.barrier()
            begin = time.perf_counter()  # with what fills and compares: the network is no slower than is told
            for _ in range(REPEATS):
                wrong += bool(run(size, rank, world, device).any())
            seconds = (time.perf_counter() - begin) / REPEATS
            if rank == 0:
                sent = 2 * size
                tell(f"{operation:15} {sent / 1e6:10.3f} MB {1000 * seconds:9.3f} ms {sent / seconds / 1e9:8.2f} GB/s")
    total = torch.tensor([wrong], device=device)
    dist.all_reduce(total)
    if rank == 0:
        tell("all results are right" if not total.item() else f"{total.item()} results are wrong")
    dist.destroy_process_group()
    return int(total.item() > 0)


if __name__ == "__main__":
    sys.exit(main())
