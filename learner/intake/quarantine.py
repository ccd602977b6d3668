"""Actors whose records are refused: after a few of them an actor is in quarantine, and nothing that it sends is taken.

Plain state and rules, as in `buffer.py`. An actor is known by its id, which it writes into its records itself: one that
lies can have another put in quarantine. It costs that one its leases and its id, and no group. The process goes on
under another id of the same name (`a1`, `a1.2`); the second id in quarantine puts the name there, until another learner
starts.
"""

import re
from collections import Counter

from isentrope.learner.intake.retirement import detail_of

MAX_REFUSED = 3
"""Refused records that put an actor in quarantine. An honest one sends none: it checks each by the same rules."""

MAX_IDS = 2
"""Ids of one name in quarantine that put the name there: what is wrong is not over when the process joins anew."""

MAX_TOLD = 16
"""Actors in quarantine that a heartbeat tells of, the newest."""


class Quarantine:
    """The actors that one learner does not take records from."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """Reason for which each actor is in quarantine, by its id."""
        self._refused: Counter[str] = Counter()
        self._names: Counter[str] = Counter()  # ids in quarantine for their records
        self._turned_away = False

    def refused(self, actor: str, why: str) -> bool:
        """Count a record that was refused; return True if its actor is in quarantine because of it."""
        self._refused[actor] += 1
        if self._refused[actor] != MAX_REFUSED:
            return False
        self.reasons[actor] = f"{MAX_REFUSED} of its records were refused, the last for {why}"
        self._names[_name(actor)] += 1
        return True

    def turns_away(self, actor: str) -> bool:
        """Return True if a record of an actor is not taken; its order is then to be given out again."""
        if self._names[_name(actor)] >= MAX_IDS:
            self.reasons.setdefault(actor, f"{MAX_IDS} ids of the same name are")
        found = actor in self.reasons
        self._turned_away |= found
        return found

    def told(self) -> dict[str, str]:
        """Return the newest reasons, all in printable text."""
        return {detail_of(actor): self.reasons[actor] for actor in [*self.reasons][-MAX_TOLD:]}

    def take_turned_away(self) -> bool:
        """Return True if a record was turned away since the last call."""
        found, self._turned_away = self._turned_away, False
        return found


def _name(actor: str) -> str:
    """Return what all ids of one process begin with."""
    return re.sub(r"\.\d+$", "", actor)
