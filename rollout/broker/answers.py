"""The errors of a server: those that another moment or connection would not give, and the meaning of the others.

A script of a server before 7.0 wraps the error of a command in a text of its own, so words are looked for anywhere in
it.
"""

import re
import ssl

import redis
from redis import exceptions

from isentrope.errors import AccessError, InternalError, IsentropeError, StorageError, UnreachableError

PASSING = {
    "LOADING": "it loads its data",
    "BUSY": "a script keeps it busy",
    "READONLY": "it is a read-only replica",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster moves keys",
    "NOREPLICAS": "it has too few replicas",
    "UNBLOCKED": "it became a replica",
}
"""Words that begin errors which another moment or another connection would not give, with what they mean."""

SPOILED = {
    "WRONGTYPE": "a key of another type than the run's processes give it",
    "exhausted": "a stream whose last possible id was used",
    "invalid start ID": "a stream whose last possible id was used",
}
"""Words of errors that a learner's next fence ends, with what it deletes."""

_KINDS: dict[type[redis.RedisError], str] = {
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
}
"""Errors from whose text the client takes the word."""

_WORDS = re.compile(rf"(?:^|[\s-])({'|'.join([*PASSING, *SPOILED])})\s")


class BrokerFullError(StorageError):
    """The broker refused a write because memory or disk is full; nothing was changed."""


class FencedReply(InternalError):
    """A script found another incarnation in the broker than its caller's; `held` is the one it found."""

    def __init__(self, held: int) -> None:
        super().__init__(f"incarnation {held} holds the run")
        self.held = held


class MissingScript(InternalError):
    """The server does not know a script's digest."""


def passing(error: redis.RedisError) -> bool:
    """Return True for an error that another moment, or another connection, would not give."""
    if _refused(error) or _certificate_error(error):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError) or bool(_word(error))


def spoiled_by(error: redis.RedisError) -> str:
    """Return what an actor has made unusable, if that is the error; empty: it is not."""
    return SPOILED.get(_word(error), "")


def translate(error: redis.RedisError, place: str, run: str, deadline_s: float, user: str = "") -> IsentropeError:
    """Return our error for one of the client at `place`, which has lasted for `deadline_s` if it is a passing one.

    `user` is the one that the client's URL names; empty: none, so the server takes `default`.
    """
    text = str(error)
    if isinstance(error, exceptions.NoScriptError):
        return MissingScript(text)
    if _refused(error):
        return AccessError(
            f"the broker at {place} refuses user {user or 'default'!r} or its password",
            fix="compare the user of the URL, and the password of the URL or its file, with the broker's access rules",
        )
    if _certificate_error(error):
        return AccessError(
            f"TLS to the broker at {place} failed: {text}", fix="name its authority by redis.ca_file or --ca"
        )
    if spoiled := spoiled_by(error):
        return UnreachableError(
            f"redis at {place} has had {spoiled} for {deadline_s:.0f} s: {text}", where=run, fix="start the learner"
        )
    if word := _word(error):
        return UnreachableError(
            f"redis at {place} has not served for {deadline_s:.0f} s: {PASSING[word]} ({word})",
            fix="give the primary's address" if word in ("READONLY", "MASTERDOWN") else "see the server's log",
        )
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return UnreachableError(
            f"cannot reach redis at {place} for {deadline_s:.0f} s: {text}", fix="is the server running?"
        )
    if "NOPERM" in text or isinstance(error, exceptions.NoPermissionError) or "The user executing" in text:
        return AccessError(
            f"the broker at {place} does not allow user {user or 'default'!r} what run {run!r} needs: {text}",
            fix="take the user of the right role, with access rules for this run and of this version: "
            "deploy/redis/make-acl.sh makes them",
        )
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in text or "MISCONF" in text:
        return BrokerFullError(f"the broker at {place} is full: {text}", fix="raise maxmemory, or free its disk")
    if text.startswith("FENCED "):
        return FencedReply(int(text.split()[1]))
    return InternalError(f"the broker at {place} answered: {text}", where=run)


def _word(error: redis.RedisError) -> str:
    """Return the word of `PASSING` or `SPOILED` that an error has; empty: none."""
    for kind, word in _KINDS.items():
        if isinstance(error, kind):
            return word
    found = _WORDS.search(str(error))
    return found[1] if found else ""


def _refused(error: redis.RedisError) -> bool:
    return isinstance(error, redis.AuthenticationError | exceptions.AuthorizationError)


def _certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "CERTIFICATE" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
