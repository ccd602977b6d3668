"""Machines that pass versions on, each as it is on a machine of its own: no engine and no training.

python relay_ends.py learner URL RUN FOLDER   announces a version of so many bytes as each file `FOLDER/wanted-N` says
python relay_ends.py depot FOLDER             serves what the learner has written
python relay_ends.py actor URL RUN DEPOT      fetches every version and says how
"""

import json
import logging
import random
import sys
import threading
import time
from pathlib import Path

from depot_kinds import TOKEN, make_version
from wire_records import ASYNC, make_spec

from isentrope.actors.relaying import Offer, Relaying, address_towards
from isentrope.actors.run_files import Places, RunFiles, Wanted
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.depot.versions import FOLDER
from isentrope.rollout.wire.weights import verify

DEPOT_PORT = 8800

RELAY_PORT = 8801


def learn(url: str, run: str, folder: Path) -> None:
    """Announce a version of random bytes for each file that asks for one."""
    learner = LearnerPort.fence(Broker.connect(url, run), 1, 0, 0, make_spec(run), ASYNC)
    batch = 0
    while True:
        wanted = folder / f"wanted-{batch}"
        if not wanted.exists():
            time.sleep(0.05)
            continue
        content = random.Random(batch).randbytes(int(wanted.read_text()))
        learner.announce(make_version(folder, batch, (content,)))
        batch += 1


def serve(folder: Path) -> None:
    """Serve the versions in a folder."""
    with DepotServer(folder, Address("0.0.0.0", DEPOT_PORT), TOKEN):
        tell("serves")
        threading.Event().wait()


def act(url: str, run: str, depot: str) -> None:
    """Fetch every version that is announced."""
    broker, places, newest = Broker.connect(url, run), Places(depot, Path.home(), Access(TOKEN)), 0
    offer = Offer(places.of(run) / FOLDER, TOKEN, address_towards(url), RELAY_PORT)
    files = RunFiles(make_spec(run), places, 600.0, Relaying(RelayList(broker), offer))
    view = RunView(broker)
    tell("begins")
    while True:
        announced = view.announcement()
        if announced is None or announced.manifest.version == newest:
            time.sleep(0.05)
            continue
        newest = announced.manifest.version
        with files.version(Wanted(newest, announced.manifest, ()), threading.Event()) as local:
            verify(local)
            tell(json.dumps({"served": announced.manifest.batch}))


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    match sys.argv[1:]:
        case ["learner", url, run, folder]:
            learn(url, run, Path(folder))
        case ["depot", folder]:
            serve(Path(folder))
        case ["actor", url, run, depot]:
            act(url, run, depot)
