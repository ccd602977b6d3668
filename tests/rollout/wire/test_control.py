"""The admission bound, and what of the control state is stored."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_records import make_spec

from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.control import Control, Mode, RunState, admission_bound

small = st.integers(0, 6)


def test_the_formula_of_the_design() -> None:
    assert admission_bound(max_lag=0, batches_trained=0, prompts_per_batch=32, retired=0) == 32
    assert admission_bound(max_lag=2, batches_trained=5, prompts_per_batch=32, retired=3) == 8 * 32 + 3


@settings(max_examples=30)
@given(mode=st.sampled_from(Mode), lag=small, batches=small, prompts=st.integers(1, 9), retired=small, data=st.data())
def test_the_broker_admits_exactly_what_the_formula_allows(
    redis_server: str, mode: Mode, lag: int, batches: int, prompts: int, retired: int, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(0, 100))
    run = f"run-{uuid.uuid4().hex[:12]}"
    broker = Broker.connect(redis_server, run)
    control = Control(mode=mode, max_lag=lag)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run, prompts_per_batch=prompts), control)
    bound = admission_bound(max_lag=control.lag, batches_trained=batches, prompts_per_batch=prompts, retired=retired)
    for _ in range(2):
        assert learner.issue(trained_batches=batches, retired=retired, limit=limit) == min(bound, limit)
    assert learner.view.queues()["waiting"] == min(bound, limit) == learner.view.cursor()
    broker.close()


@pytest.mark.parametrize("state", [RunState.DRAIN, RunState.STOP])
def test_only_a_running_run_issues(learner: LearnerPort, state: RunState) -> None:
    learner.set_control(Control(mode=Mode.ASYNC, max_lag=1, state=state))
    assert learner.issue(trained_batches=0, retired=0, limit=100) == 0


def test_on_policy_admits_one_batch_and_keeps_the_lag_for_later() -> None:
    control = Control(mode=Mode.ON_POLICY, max_lag=3)
    assert control.lag == 0
    assert control.model_copy(update={"mode": Mode.ASYNC}).lag == 3


def test_a_request_is_never_stored() -> None:
    control = Control(mode=Mode.ASYNC, max_lag=1, requested_mode=Mode.ON_POLICY, requested_stop=True, request="1")
    again = Control.model_validate_json(control.model_dump_json())
    assert (again.requested_mode, again.requested_stop, again.request) == (None, False, "")
