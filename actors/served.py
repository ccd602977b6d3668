"""Judgement of an engine: of the weights that it has loaded, and of the policy that it makes of them.

Does not import vLLM.
"""

from statistics import fmean

from isentrope.errors import StorageError
from isentrope.rollout.wire.proof import Canary, Proof
from isentrope.rollout.wire.weights import Manifest

NOISE = {"float32": 1e-5, "bfloat16": 1.5e-2}
"""Mean gap that rounding alone may reach, nats: twice the largest that was measured over 60 versions."""

FIRST = {"float32": 1e-3, "bfloat16": 1e-1}
"""Mean gap above which any version is refused, nats: an engine that leaves out a layer's bias is further off."""

TIMES = 3.0
"""Factor of the gap of the first trained batch in the limit of later ones: a larger model rounds more."""


class Judge:
    """Judgement of one engine's versions; the first with tokens of a trained batch sets the limit of other such ones.

    Arbitrary tokens round more, and a learner that was restarted publishes them again.
    """

    def __init__(self, dtype: str, limit: float | None = None) -> None:
        """Start for weights of this dtype; `limit`: of every version, None: by what is measured."""
        self._noise = NOISE[dtype] if limit is None else limit
        self._first = FIRST[dtype] if limit is None else limit
        self._trained = self._first
        self._calibrated = False

    def check_bits(self, manifest: Manifest, loaded: list[str]) -> None:
        """Raise StorageError unless every worker has loaded the tensors of `manifest`, by digests of their tables."""
        assert manifest.tensors is not None, "a version of a learner"
        if any(digest != manifest.tensors.digest for digest in loaded):
            raise StorageError(
                f"version {manifest.version} was announced and other weights are loaded",
                where=manifest.folder,
                fix="see the engine's log; the version's files may have been written by another learner",
            )

    def prove(self, manifest: Manifest, tensors: int, canary: Canary, logp: list[float], seconds: float) -> Proof:
        """Return what the engine's log-probabilities of `canary` show.

        Raises:
            StorageError: they are not those of the learner's policy.
        """
        gaps = [abs(own - other) for own, other in zip(canary.logp, logp, strict=True)]
        mean, limit = fmean(gaps), self._first if canary.arbitrary else self._trained
        if not mean <= limit:  # a NaN is not
            raise StorageError(
                f"the engine's log-probabilities of version {manifest.version} differ from the learner's by {mean:.2g} "
                f"nats on average and {max(gaps):.2g} at most, where {limit:.2g} on average is allowed",
                where=manifest.folder,
                fix="the engine computes another policy with the same weights; use another model or version of vLLM, "
                "or raise actors.canary_limit if rounding alone is so large",
            )
        if not (canary.arbitrary or self._calibrated):
            self._trained, self._calibrated = min(max(TIMES * mean, self._noise), self._first), True
        return Proof(tensors=tensors, gap_mean=mean, gap_max=max(gaps), limit=limit, seconds=seconds)
