"""Depots of every kind over one folder of files, and what can happen to a reader of them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.interface import Depot, open_depot
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.depot.versions import publish
from isentrope.rollout.wire.proof import Canary, TensorFacts
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, make_manifest, shard_of, version_folder

TOKEN = "a token"
CONTENTS = (b"first shard, " * 50, b"second " * 33)


@dataclass
class Kind:
    """One depot with two sides: `write` publishes, `read` is what an actor has."""

    write: Depot
    read: Depot
    damage: Callable[[str, bytes | None], None]
    """Give a published file another content, or delete it."""


@contextlib.contextmanager
def folder_kind(root: Path) -> Iterator[Kind]:
    """A shared folder, read through ranges as if it were elsewhere."""
    depot = open_depot(str(root))
    yield Kind(depot, Elsewhere(depot), lambda name, content: change(root / name, content))


@contextlib.contextmanager
def http_kind(root: Path) -> Iterator[Kind]:
    """The folder behind the real server, with a token."""
    with DepotServer(root, Address("127.0.0.1", 0), TOKEN) as server:
        read = open_depot(server.url, Access(TOKEN))
        yield Kind(open_depot(f"file://{root}"), read, lambda name, content: change(root / name, content))


class Elsewhere:
    """A depot whose files do not lie on this machine; counts the bytes that are read."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self.url = depot.url
        self.put, self.names, self.drop = depot.put, depot.names, depot.drop
        self.read_bytes = 0
        self.before_read: Callable[[int], None] = lambda start: None

    def read(self, name: str, start: int, end: int) -> bytes:
        self.before_read(start)
        content = self._depot.read(name, start, end)
        self.read_bytes += len(content)
        return content

    def path(self, name: str) -> Path | None:
        return None


def change(path: Path, content: bytes | None) -> None:
    path.unlink()  # a link to it keeps its own content
    if content is not None:
        path.write_bytes(content)


def make_version(output_dir: Path, batch: int = 1, contents: tuple[bytes, ...] = CONTENTS) -> Manifest:
    """A version that lies complete in a run's folder."""
    version = version_of(1, batch)
    folder = version_folder(output_dir, version)
    folder.mkdir(parents=True)
    files = [f"weights-{number:05d}.safetensors" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        (folder / file).write_bytes(content + str(batch).encode())
    tensors = {"a.weight": TensorFacts("float32", (3,), "0a")}
    canary = Canary(tokens=(1, 2), logp=(-0.5,))
    shards = [shard_of(folder, file) for file in files]
    return make_manifest(folder, version=version, tensors=tensors, shards=shards, canary=canary)


def published(kind: Kind, output_dir: Path, batch: int = 1) -> Manifest:
    """A version in the depot, as its announcement states it."""
    manifest = make_version(output_dir, batch)
    publish(kind.write, manifest)
    return Manifest.model_validate_json(manifest.model_dump_json())
