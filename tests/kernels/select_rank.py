"""One rank of a global selection: reads its share of the values from a folder, leaves what it chose there."""

from pathlib import Path

import torch
import torch.distributed as dist

from isentrope.kernels import select


def main(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    given = torch.load(folder / "in.pt")
    whole, mine = select.gather(given["values"][given["bounds"][rank] : given["bounds"][rank + 1]])
    chosen = select.top_k_mask(whole, 37)
    torch.save({"whole": chosen, "mine": chosen[mine]}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
