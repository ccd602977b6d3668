"""A checkpoint for another number of ranks than wrote it, in DeepSpeed's universal form: weights, masters and moments
of every parameter, whole. It is made in a process of its own, which may take minutes, and deleted when it is loaded.

Weights, masters and moments are carried over to the bit. Sums over ranks have another order from then on, so the run is
no longer that of one number of ranks to the bit.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from isentrope.errors import StorageError
from isentrope.learner.training.checkpoint_store import CRITIC
from isentrope.long_waits import waiting_for
from isentrope.rollout.wire.files import UNFINISHED

CONVERTED = "converted"
"""Folder of universal forms, beside the checkpoints."""

RANDOM = re.compile(r"random-\d+\.safetensors")
"""Names of the files with a rank's random state; there is one for each rank that wrote a checkpoint."""

_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_POLL_S = 0.2

CONVERT_S = 3600.0
"""Longest conversion of a checkpoint: it copies each tensor once."""


def ranks_of(files: Iterable[str]) -> int:
    """Return how many ranks wrote a checkpoint of these files."""
    return sum(RANDOM.fullmatch(name) is not None for name in files)


def convert(checkpoint: Path, idle: Callable[[], None]) -> Path:
    """Return the folder of the universal form of a verified checkpoint; `idle` is called while it is made.

    Raises:
        StorageError: it cannot be made, with the last line of the reason, or not within `CONVERT_S`.
    """
    discard(checkpoint.parent)
    folder = checkpoint.parent / CONVERTED / checkpoint.name
    unfinished = folder.with_name(folder.name + UNFINISHED)
    folder.parent.mkdir()
    command = [sys.executable, "-m", __name__, str(checkpoint), str(unfinished)]
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {_ONLY_WEIGHTS: "1"},
        ) as process,
        waiting_for(f"{checkpoint.name} to be converted for another number of ranks"),
    ):
        errors = _errors(process, idle)
    if process.returncode:
        reason = next(iter(errors.strip().splitlines()[-1:]), f"exit code {process.returncode}")
        discard(checkpoint.parent)
        raise StorageError(
            f"the checkpoint cannot be converted for another number of ranks: {reason}",
            where=str(checkpoint),
            fix="continue with as many ranks as before, or make room on the disk: it takes 1.4 times the checkpoint",
        )
    unfinished.replace(folder)
    return folder


def _errors(process: "subprocess.Popen[str]", idle: Callable[[], None]) -> str:
    """Return what a process has written as its errors, once it has ended or was ended as late; call `idle`
    meanwhile."""
    late_at = time.monotonic() + CONVERT_S
    while time.monotonic() <= late_at:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_POLL_S)[1]
        idle()
    process.kill()
    return f"not done within {CONVERT_S:.0f} s"


def discard(checkpoints: Path) -> None:
    """Delete the universal forms that are there."""
    shutil.rmtree(checkpoints / CONVERTED, ignore_errors=True)


@contextlib.contextmanager
def only_weights() -> Iterator[None]:
    """Let no file that is loaded here run code, whatever the library asks for."""
    before = os.environ.get(_ONLY_WEIGHTS)
    os.environ[_ONLY_WEIGHTS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ONLY_WEIGHTS]
        else:
            os.environ[_ONLY_WEIGHTS] = before


def main(checkpoint: Path, target: Path) -> None:
    """Write the universal form of a checkpoint. `convert` starts this module."""
    from types import SimpleNamespace

    from deepspeed.checkpoint import ds_to_universal

    from isentrope.learner.training import deepspeed_files  # registers what its files may name

    assert deepspeed_files.ALLOWED
    for part in filter(lambda name: (checkpoint / name).is_dir(), ("", CRITIC)):
        with _linked(checkpoint / part) as source:
            ds_to_universal.main(
                SimpleNamespace(
                    input_folder=source,
                    output_folder=str(target / part),
                    num_extract_workers=1,  # more are processes, which would not know what may be loaded
                    num_merge_workers=1,
                    keep_temp_folder=False,
                    strict=False,
                    inject_missing_state=True,  # stages 1 and 2 do not write the names of their parameters' patterns
                )
            )


@contextlib.contextmanager
def _linked(folder: Path) -> Iterator[str]:
    """Yield a folder with links to the files of `folder` and without those below it, among which DeepSpeed would look
    for shards too."""
    with tempfile.TemporaryDirectory(prefix="isentrope-") as links:
        for path in filter(Path.is_file, folder.iterdir()):
            Path(links, path.name).symlink_to(path.absolute())
        yield links


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
