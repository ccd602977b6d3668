"""Measure how long training stands while two ranks publish a model of 2 GB, and when two receivers have verified it.

    python docs/results/measure_publication.py            # a minute on two quiet cores, 7 GB of memory, 6 of the disk
    python docs/results/measure_publication.py --layers 1 # a smaller model, to try this script

Writes `publication.json` beside this file. The ranks train nothing: each multiplies matrices, also while a version is
written. No broker and no engine takes part: a receiver looks for a manifest, and then reads and verifies all files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel  # noqa: E402

from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.version_writer import VersionWriter  # noqa: E402
from isentrope.learner.training.weight_source import WeightSource  # noqa: E402
from isentrope.rollout.wire.files import write_whole  # noqa: E402
from isentrope.rollout.wire.proof import Canary  # noqa: E402
from isentrope.rollout.wire.types import version_of  # noqa: E402
from isentrope.rollout.wire.weights import MANIFEST, Manifest, verify, version_folder  # noqa: E402

DATA = Path(__file__).with_name("publication.json")

RANKS, RECEIVERS, VERSIONS = 2, 2, 3
LAYERS = 8
TIMEOUT_S = 600.0
POLL_S = 0.01


def main() -> None:
    """Publish, receive, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.rank:
        publish(told.rank, told.layers)
    elif told.receive:
        receive(told.receive, told.number)
    else:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            measure(Path(folder), told.layers)


def measure(folder: Path, layers: int) -> None:
    """Start ranks and receivers, and put together what they say."""
    from measure import begun  # ranks run on a safe path, without this folder

    own, which = [__file__, "--layers", str(layers)], ["--standalone", f"--nproc-per-node={RANKS}"]
    ranks = [sys.executable, "-m", "torch.distributed.run", *which, *own, "--rank", str(folder)]
    receiver = [sys.executable, *own, "--receive", str(folder), "--number"]
    said = _outputs([ranks, *([*receiver, str(number)] for number in range(RECEIVERS))])
    published = json.loads(said[0].splitlines()[-1])
    received = [json.loads(text.splitlines()[-1]) for text in said[1:]]
    for number, version in enumerate(published["versions"]):
        version["verified_s"] = [each[number] - version["began"] for each in received]
    facts = begun(DATA) | {"command": "python docs/results/measure_publication.py", **published}
    write_whole(DATA, json.dumps(facts, indent=1) + "\n", durable=False)


def publish(folder: Path, layers: int) -> None:
    """Write all versions as one of the ranks, multiplying matrices meanwhile; rank 0 says how long each step took."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    collectives = Collectives(TIMEOUT_S)
    network = _network(layers, folder / "parameters")
    writer = VersionWriter(WeightSource(network), collectives.background, folder, torch.device("cpu"))
    alone_s, versions = _product_s(), []
    for number in range(VERSIONS):
        collectives.gather(None)
        began = time.time()
        written = writer.begin(version_of(1, number), Canary(tokens=(0, 1), logp=(0.0,)))
        stood_s = time.time() - began
        products = [_product_s()]
        while not written.done():
            products.append(_product_s())
        written.result()
        manifest_s = time.time() - began
        mean_s = sum(products) / len(products)
        await_all(_receipt(folder, number, receiver) for receiver in range(RECEIVERS))
        versions.append({"began": began, "stands_s": stood_s, "manifest_s": manifest_s, "product_s": mean_s})
    size = sum(parameter.nbytes for parameter in network.parameters())
    if collectives.rank == 0:
        facts = {"bytes": size, "ranks": RANKS, "product_alone_s": alone_s, "versions": versions}
        sys.stdout.write(json.dumps(facts))
    dist.destroy_process_group()


def receive(folder: Path, receiver: int) -> None:
    """Verify every version as soon as its manifest is there, and say when it was; ranks wait for it."""
    done = []
    for number in range(VERSIONS):
        path = version_folder(folder, version_of(1, number)) / MANIFEST
        await_all([path])
        manifest = Manifest.model_validate_json(path.read_bytes())
        verify(manifest.model_copy(update={"folder": str(path.parent)}))
        done.append(time.time())
        _receipt(folder, number, receiver).touch()
    sys.stdout.write(json.dumps(done))


def await_all(paths: Iterable[Path]) -> None:
    """Wait until all files are there."""
    for path in paths:
        while not path.is_file():
            time.sleep(POLL_S)


def _receipt(folder: Path, number: int, receiver: int) -> Path:
    return folder / f"received-{number}-{receiver}"


def _network(layers: int, path: Path) -> PreTrainedModel:
    """Return a network whose parameters lie in one mapped file, so that all ranks have them in memory once."""
    with torch.device("meta"):
        config = LlamaConfig(hidden_size=2048, intermediate_size=5504, num_hidden_layers=layers, num_attention_heads=16)
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    size = sum(parameter.numel() for parameter in network.parameters())
    flat, begin = torch.from_file(str(path), shared=True, size=size), 0
    if dist.get_rank() == 0:
        flat.uniform_()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = flat[begin : begin + parameter.numel()].view(parameter.shape)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
            begin += parameter.numel()
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.zeros(buffer.shape), persistent=False)
    return network


def _product_s() -> float:
    """Return the seconds that a product of two matrices takes."""
    matrix, began = torch.ones(1024, 1024), time.perf_counter()
    torch.matmul(matrix, matrix)
    return time.perf_counter() - began


def _outputs(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return what commands that run at the same time have printed."""
    running: list[subprocess.Popen[str]] = []
    try:
        running += [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        said: list[Any] = [each.communicate(timeout=TIMEOUT_S)[0] for each in running]
        return said
    finally:
        for each in running:
            each.kill()


if __name__ == "__main__":
    main()
