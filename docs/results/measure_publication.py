"""Measure how long training stands while two ranks publish a model of 2 GB, when an engine serves it, and when two
receivers have fetched it.

    python docs/results/measure_publication.py            # four minutes on two quiet cores, 13 GB of memory, 15 of disk
    python docs/results/measure_publication.py --layers 1 # a smaller model, to try this script

Writes `publication.json` beside this file. The ranks train nothing: each multiplies matrices, also while a version is
written. No broker takes part: all look for the manifest. The engine verifies and loads the files where they lie; a
receiver fetches them over HTTP into a cache of its own and verifies them on the way, as an actor of another machine.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast  # noqa: E402

from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.version_writer import VersionWriter  # noqa: E402
from isentrope.learner.training.weight_source import WeightSource  # noqa: E402
from isentrope.rollout.depot.interface import open_depot  # noqa: E402
from isentrope.rollout.depot.server import Address, DepotServer  # noqa: E402
from isentrope.rollout.depot.versions import Versions  # noqa: E402
from isentrope.rollout.wire.files import write_whole  # noqa: E402
from isentrope.rollout.wire.proof import Canary  # noqa: E402
from isentrope.rollout.wire.types import version_of  # noqa: E402
from isentrope.rollout.wire.weights import MANIFEST, Manifest, version_folder  # noqa: E402

DATA = Path(__file__).with_name("publication.json")

RANKS, RECEIVERS, VERSIONS = 2, 2, 3
LAYERS = 8
TIMEOUT_S = 1200.0
POLL_S = 0.01
ANY_CANARY = 1e3
"""Limit of the canary's difference: nobody computed the log-probabilities that the versions state."""


def main() -> None:
    """Publish, receive, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--depot", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.rank:
        publish(told.rank, told.layers)
    elif told.engine:
        say({"at": asyncio.run(serve(told.engine))})
    elif told.receive:
        receive(told.receive, told.number, told.depot)
    else:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            measure(Path(folder), told.layers)


def measure(folder: Path, layers: int) -> None:
    """Start ranks, engine and receivers, and put together what they say."""
    from measure import begun  # ranks run on a safe path, without this folder

    own, which = [__file__, "--layers", str(layers)], ["--standalone", f"--nproc-per-node={RANKS}"]
    ranks = [sys.executable, "-m", "torch.distributed.run", *which, *own, "--rank", str(folder)]
    engine = [sys.executable, *own, "--engine", str(folder)]
    with DepotServer(folder, Address("127.0.0.1", 0), "") as server:
        receiver = [sys.executable, *own, "--receive", str(folder), "--depot", server.url, "--number"]
        said = _outputs([ranks, engine, *([*receiver, str(number)] for number in range(RECEIVERS))])
    published, served, *received = said
    for number, version in enumerate(published["versions"]):
        version["served_s"] = served["at"][number] - version["began"]
        version["verified_s"] = [each["at"][number] - version["began"] for each in received]
    facts = begun(DATA) | {"command": "python docs/results/measure_publication.py", **published}
    write_whole(DATA, json.dumps(facts, indent=1) + "\n", durable=False)


def publish(folder: Path, layers: int) -> None:
    """Write all versions as one of the ranks, multiplying matrices meanwhile; rank 0 says how long each step took."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    collectives = Collectives(TIMEOUT_S)
    network = _network(layers, folder / "parameters")
    if collectives.rank == 0:
        _write_model(network.config, folder / "model")
    writer = VersionWriter(WeightSource(network), collectives.background, folder, torch.device("cpu"))
    await_all([folder / "engine"])
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
        await_all(_receipt(folder, number, receiver) for receiver in range(RECEIVERS + 1))
        versions.append({"began": began, "stands_s": stood_s, "manifest_s": manifest_s, "product_s": mean_s})
    size = sum(parameter.nbytes for parameter in network.parameters())
    if collectives.rank == 0:
        say({"bytes": size, "ranks": RANKS, "product_alone_s": alone_s, "versions": versions})
    dist.destroy_process_group()


def receive(folder: Path, receiver: int, depot: str) -> None:
    """Fetch every version as soon as its manifest is there, and say when it was verified; ranks wait for it."""
    done, versions = [], Versions(open_depot(depot), folder / f"cache-{receiver}")
    for number in range(VERSIONS):
        with versions.local(_announced(folder, number)):
            done.append(time.time())
        _receipt(folder, number, receiver).touch()
    say({"at": done})


async def serve(folder: Path) -> list[float]:
    """Load every version into an engine as soon as its manifest is there, and return when each was served."""
    from isentrope.actors.engine import Engine, EngineOptions

    await asyncio.to_thread(await_all, [folder / "model" / "complete"])
    options = EngineOptions(
        str(folder / "model"), "float32", max_model_len=256, kv_cache_gib=0.25, canary_limit=ANY_CANARY
    )
    engine, done = await Engine.start(options), []
    try:
        (folder / "engine").touch()
        for number in range(VERSIONS):
            await engine.load(await asyncio.to_thread(_announced, folder, number))
            done.append(time.time())
            _receipt(folder, number, RECEIVERS).touch()
    finally:
        await engine.close()
    return done


def _announced(folder: Path, number: int) -> Manifest:
    """Wait for the manifest of a version, and return it."""
    path = version_folder(folder, version_of(1, number)) / MANIFEST
    await_all([path])
    return Manifest.model_validate_json(path.read_bytes()).model_copy(update={"folder": str(path.parent)})


def say(facts: Mapping[str, object]) -> None:
    """Print what this process has measured, on a line of its own: libraries print too."""
    sys.stdout.write(f"\n{json.dumps(facts)}\n")


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
        config = LlamaConfig(
            architectures=["LlamaForCausalLM"],
            dtype="float32",
            hidden_size=2048,
            intermediate_size=5504,
            num_hidden_layers=layers,
            num_attention_heads=16,
        )
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    size = sum(parameter.numel() for parameter in network.parameters())
    flat, begin = torch.from_file(str(path), shared=True, size=size), 0
    if dist.get_rank() == 0:
        flat.uniform_(-0.02, 0.02)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = flat[begin : begin + parameter.numel()].view(parameter.shape)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
            begin += parameter.numel()
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.zeros(buffer.shape), persistent=False)
    return network


def _write_model(config: PreTrainedConfig, folder: Path) -> None:
    """Write the configuration and a tokenizer of no use, which vLLM needs."""
    config.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"word": 0, "end": 1}, unk_token="word"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="end").save_pretrained(folder)
    (folder / "complete").touch()


def _product_s() -> float:
    """Return the seconds that a product of two matrices takes."""
    matrix, began = torch.ones(1024, 1024), time.perf_counter()
    torch.matmul(matrix, matrix)
    return time.perf_counter() - began


def _outputs(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return what commands that run at the same time say; CalledProcessError as soon as one fails."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        running = [subprocess.Popen(command, stdout=file) for command, file in zip(commands, files, strict=True)]
        for each in running:
            stack.callback(each.kill)
        deadline = time.monotonic() + TIMEOUT_S
        while any(each.poll() is None for each in running):
            for each in running:
                if each.returncode or time.monotonic() > deadline:
                    raise subprocess.CalledProcessError(each.returncode or 1, each.args)
            time.sleep(POLL_S)
        return [_last_said(file) for file in files]


def _last_said(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    found: dict[str, Any] = json.loads([line for line in file if line.startswith('{"')][-1])
    return found


if __name__ == "__main__":
    main()
