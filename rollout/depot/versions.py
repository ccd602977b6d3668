"""Versions of weights on the way from a depot to the files that an engine loads."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pydantic import ValidationError

from isentrope.errors import StorageError
from isentrope.rollout.depot.cache import Cache
from isentrope.rollout.depot.fetching import Promised, fetch
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.depot.relays import NoRelays, RelayedVersion, Relays
from isentrope.rollout.wire.digests import file_name
from isentrope.rollout.wire.weights import MANIFEST, Manifest, Shard

FOLDER = "weights"
"""Folder of a cache that holds versions."""

MAX_MANIFEST_BYTES = 16 << 20

KEEP = 2
"""Newest versions in a machine's cache, beside those that are being loaded."""


logger = logging.getLogger(__name__)


class Versions:
    """Published versions as files of this machine."""

    def __init__(self, depot: Depot, cache: Path, relays: Relays | None = None) -> None:
        """Fetch from `depot` into `cache`, unless the depot is a folder of this machine, with the help of `relays`."""
        self._depot = depot
        self._relays = relays or NoRelays()
        self._cache = Cache(cache / FOLDER, keep=KEEP)

    def manifest(self, version: int) -> Manifest:
        """Return the manifest of a version that may be older than the announced one; StorageError if it is gone."""
        name = f"weights/{version}/{MANIFEST}"
        content = self._depot.read(name, 0, MAX_MANIFEST_BYTES)
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            raise StorageError(
                f"{name} is not a manifest: {error.error_count()} fields are wrong", where=self._depot.url
            ) from None

    @contextlib.contextmanager
    def local(self, manifest: Manifest, stopped: Callable[[], bool] = lambda: False) -> Iterator[Manifest]:
        """Yield the manifest with the folder of its files on this machine, where they stay while the block runs.

        Raises:
            StorageError: a file is not there, is not as the manifest says, or cannot be written.
            UnreachableError: the depot does not answer, or `stopped` returned True.
            AccessError: the depot refuses the credentials.
        """
        prefix = f"weights/{manifest.version}"
        here = self._depot.path(f"{prefix}/{MANIFEST}")
        if here is not None:
            yield manifest.model_copy(update={"folder": str(here.parent)})
            return

        made = False

        def make(folder: Path) -> None:
            nonlocal made
            made = True
            source = RelayedVersion(self._depot, self._relays, manifest.digest, stopped)
            for shard in files_of(manifest):
                promised = Promised(f"{prefix}/{shard.file}", shard.size_bytes, shard.digest)
                fetch(self._depot, promised, folder / shard.file, stopped, source)
            logger.info(
                "version %d: %d bytes from the depot, %d from relays", manifest.version, source.direct, source.relayed
            )

        with self._cache.entry(file_name(manifest.digest), make) as folder:
            if not made:
                self._relays.having(manifest.digest)
            yield manifest.model_copy(update={"folder": str(folder)})

    def forget(self, manifest: Manifest) -> None:
        """Delete a version's files from the cache: they could not be loaded."""
        self._cache.forget(file_name(manifest.digest))


def publish(depot: Depot, manifest: Manifest) -> None:
    """Put a version that lies complete in `manifest.folder` into a depot, its manifest last; errors as the depot's."""
    for name in (*(shard.file for shard in files_of(manifest)), MANIFEST):
        depot.put(Path(manifest.folder, name), f"weights/{manifest.version}/{name}")


def withdraw(depot: Depot, keep: Collection[int]) -> None:
    """Delete the versions older than the newest of `keep` and not among them, each from its manifest on."""
    for name in sorted(depot.names("weights"), key=lambda name: not name.endswith(MANIFEST)):
        version = int(name.split("/")[1])
        if version not in keep and version < max(keep, default=0):
            depot.drop(name)


def files_of(manifest: Manifest) -> list[Shard]:
    """Return all files of a version but the manifest itself."""
    return [*manifest.shards, *(each for each in (manifest.tensors, manifest.canary) if each is not None)]
