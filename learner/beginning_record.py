"""The file of a run's folder that says with which checkpoint of another run it began; `records.py` lists it with the
others."""

from isentrope.learner.json_files import FileRecord


class Beginning(FileRecord):
    """The checkpoint of another run with which this one began: `begun_from.json`. Written by rank 0 before its first
    weights are published, if `learner.begin_from` is set."""

    FILE = "begun_from.json"
    INDISPENSABLE = frozenset({"run", "checkpoint", "digest"})

    run: str
    """Folder of that run."""
    checkpoint: str
    """Name of the checkpoint."""
    digest: str
    """Digest of its manifest, which lists the digests of its files."""
