"""One rank of a global selection: reads its share of the values from a folder, leaves what it chose there."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")

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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
