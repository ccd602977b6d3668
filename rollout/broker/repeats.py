"""Texts of a learner, and requests of operators, that a broker gets again when it came back empty."""

from isentrope.rollout.broker.fenced import FencedBroker
from isentrope.rollout.broker.news import Topic, wake
from isentrope.rollout.broker.run_view import RunView


class Repeats:
    """The texts that one learner has written, and the requests as of its last heartbeat.

    Each may be repeated where nothing was lost: a text is its learner's alone, and a request is known by its id. One
    that came after that heartbeat is lost with the broker: whoever makes it waits for the answer, and makes it again.
    """

    def __init__(self, fenced: FencedBroker, view: RunView) -> None:
        """Start without any."""
        self._fenced = fenced
        self._view = view
        self._texts: dict[tuple[str, str], str] = {}
        self._requests: dict[tuple[Topic, str], dict[str, bytes]] = {}

    def show(self, key: str, field: str, text: str) -> None:
        """Write a text into a hash, or for the field "" as a string, in place of the one before."""
        self.note(key, field, text)
        self._fenced.call("set", "", field, text, keys=[key])

    def note(self, key: str, field: str, text: str) -> None:
        """Take a text over that was written otherwise."""
        self._texts[key, field] = text

    def note_requests(self) -> None:
        """Read what operators ask for now."""
        keys = self._fenced.broker.keys
        asked = ((Topic.REQUEST, keys.request), (Topic.REQUEST, keys.requeue), (Topic.DESIRED, keys.desired))
        self._requests = {(topic, key): self._view.fields(key) for topic, key in asked}

    def repeat(self) -> None:
        """Write all texts, and the requests that are not there."""
        broker = self._fenced.broker
        for (key, field), text in self._texts.items():
            self._fenced.call("set", "", field, text, keys=[key])
        for (topic, key), fields in self._requests.items():
            if fields and not self._view.fields(key):
                broker.call("ask", topic, *(part for pair in fields.items() for part in pair), keys=[key])
        wake(broker)
