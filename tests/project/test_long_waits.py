"""Whatever the program waits for is told within ten seconds: each wait has its line, or a reason to need none."""

import ast
import re
from collections.abc import Iterator
from textwrap import dedent

import pytest
from source_files import Source

LINES = {"waiting_for", "working"}
"""Calls that begin a block whose wait is told. Rank 0's own waits are told by `Wait.tick`."""

WAITS = {
    *("sleep", "wait", "wait_for", "wait_procs", "until", "join", "flock", "select", "poll", "communicate"),
    *("recv", "barrier", "monitored_barrier"),
}
"""Last names of calls that wait for something else."""

WHOLE = {"ray.get", "ray.wait", "subprocess.run"}

TIME = re.compile(r"_s\b|_S\b")
"""End of the names of seconds."""

LIFE = "what the process is there for: it ends with the run, by a signal, or with whoever asked"
SHORT = "a few seconds at most, by a limit beside it or because what it waits for has happened"
CALLER = "one slice of a wait, or a wait of a given length, which the caller tells"
LOGGED = "the line is logged or shown at once, with the id, before the wait begins"

QUIET = {
    "actors/actor.py: Actor._after_failure": LOGGED,
    "actors/actor.py: Actor._beat": LOGGED,
    "actors/actor.py: Actor._follow": LIFE,
    "actors/actor.py: Actor._lease": LIFE,
    "actors/actor.py: Actor._watch_drain": LIFE,
    "actors/actor.py: Actor.serve": LIFE,
    "actors/broker_calls.py: BrokerCaller.__call__": LOGGED,
    "actors/engine.py: Engine._call": "loads tell it; a response takes what it takes, and `_until_dead` asks meanwhile",
    "actors/engine.py: Engine._until_dead": LIFE,
    "actors/engine_host.py: EngineHost.run": LIFE,
    "actors/orders.py: Changes.until": CALLER,
    "actors/orders.py: Orders._make": "the fetch and the load of the version tell it",
    "actors/reward_keeper.py: _end_all": SHORT,
    "actors/reward_keeper.py: _wait": LIFE,
    "actors/reward_process.py: RewardProcess._await_end": LIFE,
    "actors/reward_process.py: RewardProcess.ask": CALLER,
    "actors/run_files.py: RunFiles._insist": LOGGED,
    "kernels/bench/aot.py: _tool": "a measurement, which prints each step",
    "learner/intake/feeder.py: Feeder._meet_again": LOGGED,
    "learner/intake/feeder.py: Feeder.call": LOGGED,
    "learner/intake/feeder.py: Feeder.next_batch": CALLER,
    "learner/intake/feeder.py: Feeder.stop": LOGGED,
    "learner/training/collectives.py: Collectives.dealt": "rank 0 names a rank that is silent, by `rank_beats`",
    "learner/training/collectives.py: Collectives.reported": "rank 0 names a rank that is silent, by `rank_beats`",
    "learner/training/collectives.py: Collectives.roll_call": SHORT,
    "learner/training/rank_beats.py: RankBeats._count": LIFE,
    "rollout/broker/actor_port.py: ActorPort._read": SHORT,
    "rollout/broker/actor_port.py: ActorPort.take_eval": CALLER,
    "rollout/broker/connection.py: Broker.call": LOGGED,
    "rollout/broker/connection.py: Broker.run": LOGGED,
    "rollout/depot/relays.py: RelayedVersion._from_relay": SHORT,
    "rollout/depot/server.py: DepotServer._serve": LIFE,
    "rollout/depot/server.py: DepotServer.wait": CALLER,
    "src/isentrope/commands.py: show_status": LIFE,
    "src/isentrope/exporter/serving.py: export": LIFE,
    "src/isentrope/exporter/serving.py: offered": SHORT,
    "src/isentrope/joining.py: serve_depot": LIFE,
    "src/isentrope/certify.py: examined": "each slice tells what has been done, to the line that the command shows",
    "src/isentrope/launch/actors.py: Actors.leave": CALLER,
    "src/isentrope/launch/guard.py: Guard.close": SHORT,
    "src/isentrope/launch/guard.py: _descendants": LIFE,
    "src/isentrope/launch/guard.py: _kill_left": LIFE,
    "src/isentrope/launch/learner.py: Learner._death": SHORT,
    "src/isentrope/launch/learner.py: Learner._wait": CALLER,
    "src/isentrope/launch/learner.py: Learner.failure": SHORT,
    "src/isentrope/launch/learner.py: _with_room": SHORT,
    "src/isentrope/launch/machines.py: _looks": SHORT,
    "src/isentrope/launch/model.py: Making.is_done": SHORT,
    "src/isentrope/launch/per_gpu.py: Members.run": LIFE,
    "src/isentrope/launch/ray_ground.py: PlacedActor.end": SHORT,
    "src/isentrope/launch/ray_ground.py: RayGround.start": SHORT,
    "src/isentrope/launch/ray_watch.py: RayWatch._watch": LIFE,
    "src/isentrope/launch/supervisor.py: Supervisor.watch": LOGGED,
    "src/isentrope/log_lines.py: show_logs": LIFE,
    "src/isentrope/redis_server.py: RedisServer._end": SHORT,
    "src/isentrope/kept_training.py: _drive": LIFE,
    "src/isentrope/launch/local_ranks.py: LocalRanks.result": SHORT,
    "src/isentrope/launch/local_ranks.py: LocalRanks.wait": CALLER,
    "src/isentrope/replaying.py: _repeated": SHORT,
    "src/isentrope/runfolder.py: _lock": SHORT,
}
"""Functions with waits outside such a block, and why each needs no line."""


def test_every_wait_is_told_or_needs_no_line(sources: list[Source]) -> None:
    found = {f"{source.name}: {name}" for source in sources for name in _untold(source.tree)}
    assert sorted(found ^ QUIET.keys()) == []


@pytest.mark.parametrize(
    ("program", "untold"),
    [
        ("def f():\n lock.wait(1)", ["f"]),
        ("class C:\n async def f(self):\n  await self._event.wait()", ["C.f"]),
        ("def f():\n with waiting_for('a'):\n  thread.join()", []),
        ("def f():\n with waiting_for('a'), lock:\n  thread.join(3)", []),
        ("def f():\n with waiting_for('a'):\n  pass\n ray.get(x)", ["f"]),
        ("def f():\n fcntl.flock(lock, fcntl.LOCK_EX)", ["f"]),
        ("def f():\n fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", []),
        ("def f():\n ','.join(names)\n os.path.join(a, b)\n table.get(key)\n ray.wait([x], timeout=0)", []),
        ("def f():\n item = queue.get()", ["f"]),
        ("def f():\n with waiting_for('a'):\n  _g()\ndef _g():\n lock.wait()", []),
        ("def f():\n with waiting_for('a'):\n  _g()\n _g()\ndef _g():\n lock.wait()", ["_g"]),
        ("def f():\n with waiting_for('a'):\n  g()\ndef g():\n lock.wait()", ["g"]),
    ],
)
def test_what_is_a_wait(program: str, untold: list[str]) -> None:
    assert list(_untold(ast.parse(dedent(program)))) == untold


def _untold(tree: ast.Module) -> Iterator[str]:
    """Yield the functions, by their full names, with a wait outside a block that tells it. A private function is told
    if all calls of it in its file are."""
    calls = list(_calls(tree))
    quiet = {_last_name(call) for _, call, told in calls if not told}
    called = {_last_name(call) for _, call, _ in calls}
    ticking = {name for name, call, _ in calls if _last_name(call) == "tick"}
    for name, call, told in calls:
        last = name.rpartition(".")[2]
        if _waits(call) and not told and name not in ticking and not (last.startswith("_") and last in called - quiet):
            yield name


def _calls(node: ast.AST, name: str = "", *, told: bool = False) -> Iterator[tuple[str, ast.Call, bool]]:
    """Yield each call with the full name of its function, and whether it is in a block that tells a wait."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = f"{name}.{node.name}" if name else node.name
    if isinstance(node, ast.Call):
        yield name, node, told
    if isinstance(node, ast.With | ast.AsyncWith):
        told = told or any(_last_name(item.context_expr) in LINES for item in node.items)
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, name, told=told)


def _waits(call: ast.Call) -> bool:
    whole, last, text = ast.unparse(call.func), _last_name(call), ast.unparse(call)
    if "LOCK_NB" in text or "timeout=0)" in text:
        return False
    if last == "join":
        return isinstance(call.func, ast.Attribute) and all(map(_is_time, _given(call)))
    if last == "get":
        return whole in WHOLE or not _given(call)
    return whole in WHOLE or (last in WAITS and (last != "poll" or bool(_given(call))))


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(each.value for each in call.keywords)]


def _is_time(node: ast.expr) -> bool:
    """Return True for seconds; other arguments are those of a `join` of text."""
    number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return number or (isinstance(node, ast.Name | ast.Attribute) and bool(TIME.search(ast.unparse(node))))


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
