"""The files of a run on an actor's machine: its bundle, unpacked, and the versions it loads."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from isentrope.actors.config import ActorsConfig
from isentrope.errors import ConfigError, UnreachableError
from isentrope.rollout.broker.run_view import new_boot
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.bundle import FOLDER, bundle_name, fetch_bundle
from isentrope.rollout.depot.cache import Cache
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.folder_depot import FolderDepot
from isentrope.rollout.depot.interface import Depot, open_depot
from isentrope.rollout.depot.relays import Relays
from isentrope.rollout.depot.versions import Versions
from isentrope.rollout.wire.digests import file_name
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.weights import Manifest

KEEP_BUNDLES = 2

MAX_PAUSE_S = 5.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Places of a run's files for an actor. depot: URL that takes the place of the run's own; empty: those. cache:
    folder that all actors of this machine share; the working folder unless it is set."""

    depot: str = ""
    cache: Path = Path()
    access: Access = field(default_factory=Access)

    def of(self, run: str) -> Path:
        """Return the folder of a run's files in the cache."""
        return self.cache / run


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version to fetch. manifest: as announced; None: an older version, whose manifest lies in the depot. depots:
    URLs as announced; empty: those of the run's facts."""

    version: int
    manifest: Manifest | None
    depots: Sequence[str]


class RunFiles:
    """Files of one run. An event that is given stops what is fetched for its caller."""

    def __init__(self, spec: RunSpec, places: Places, timeout_s: float, relays: Relays | None = None) -> None:
        """Fetch with the help of `relays`; try again for `timeout_s` while the depot does not answer."""
        self.spec = spec
        """The run's facts, with paths of this machine."""
        self._places = places
        self._relays = relays
        self._cache = places.of(spec.run)
        self._timeout_s = timeout_s
        self._opened: tuple[Sequence[str], Versions] | None = None

    @contextlib.contextmanager
    def unpacked(self, stop: threading.Event) -> Iterator[None]:
        """Keep the bundle unpacked, and its paths in `spec`, while the block runs; errors as `version`."""
        bundle = self.spec.bundle
        if bundle is None:
            yield
            return
        depot, cache = self._depot(self.spec.depots), Cache(self._cache / FOLDER, keep=KEEP_BUNDLES)

        def make(folder: Path) -> None:
            self._insist(lambda stopped: fetch_bundle(depot, bundle, folder, stopped), stop)

        with cache.entry(file_name(bundle.digest), make) as folder:
            self.spec = self.spec.unpacked(folder)
            yield

    @contextlib.contextmanager
    def version(self, wanted: Wanted, stop: threading.Event) -> Iterator[Manifest]:
        """Yield the manifest of a version whose files are on this machine while the block runs.

        Raises:
            StorageError: a file is not there, is damaged, or cannot be written.
            UnreachableError: the depot has not answered for `timeout_s`; FetchStopped: `stop` was set.
            AccessError: the depot refuses the credentials.
            ConfigError: none of the depots can be reached from this machine.
        """
        versions = self._versions(wanted.depots)
        manifest = wanted.manifest or self._insist(lambda stopped: versions.manifest(wanted.version), stop)
        with contextlib.ExitStack() as stack:
            yield self._insist(lambda stopped: stack.enter_context(versions.local(manifest, stopped)), stop)

    def forget(self, manifest: Manifest) -> None:
        """Delete the copy of a version that could not be loaded."""
        if self._opened is not None:
            self._opened[1].forget(manifest)

    def _versions(self, depots: Sequence[str]) -> Versions:
        depots = depots or self.spec.depots
        if self._opened is None or self._opened[0] != depots:
            self._opened = depots, Versions(self._depot(depots), self._cache, self._relays)
        return self._opened[1]

    def _depot(self, depots: Sequence[str]) -> Depot:
        """Return the first depot that this machine sees; its folder counts only if the run's bundle lies there."""
        spec, places = self.spec, self._places
        urls = [places.depot] if places.depot else [*depots] or [spec.output_dir]
        for url in urls:
            depot = open_depot(url, places.access)
            if not isinstance(depot, FolderDepot) or self._is_the_run(depot):
                return depot
        raise ConfigError(
            f"no folder {urls[0].removeprefix('file://')} of run {spec.run!r} on {socket.gethostname()}",
            where="the run's depot",
            fix="share the run's folder, or start `isentrope depot` beside it and give its URL by --depot",
        )

    def _is_the_run(self, depot: FolderDepot) -> bool:
        bundle = self.spec.bundle
        if bundle is None:
            return depot.is_here
        place = depot.path(bundle_name(bundle.digest))
        return place is not None and place.is_file()

    def _insist(self, work: Callable[[Callable[[], bool]], T], stop: threading.Event) -> T:
        """Return what `work` returns; repeat it while the depot does not answer, for `timeout_s` without progress."""
        failing_since, pause_s, asked = time.monotonic(), 0.5, 0

        def stopped() -> bool:
            nonlocal asked
            asked += 1
            return stop.is_set()

        while True:
            asked = 0
            try:
                return work(stopped)
            except FetchStopped:
                raise
            except UnreachableError as error:
                now = time.monotonic()
                if asked > 1:  # a range has come
                    failing_since, pause_s = now, 0.5
                if now - failing_since > self._timeout_s:
                    raise
                logger.warning("%s; trying again", error.what)
            if stop.wait(pause_s):
                raise FetchStopped("nothing is fetched any more: this process leaves")
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Joined:
    """A run as its actor has joined it: facts, configuration, and files on this machine."""

    spec: RunSpec
    config: ActorsConfig
    files: RunFiles
    boot: str = field(default_factory=new_boot)
    """Id of this process in the broker."""
