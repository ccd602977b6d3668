"""The table of all metrics of `isentrope exporter`: name, meaning, labels, and where the number comes from."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Quantity:
    """One metric. A counter's name ends in `_total`, as Prometheus shows it."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    """Labels besides `run`."""

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """Its type."""
        return "counter" if self.name.endswith("_total") else "gauge"


def _of(*quantities: Quantity) -> dict[str, Quantity]:
    return {each.name: each for each in quantities}


UP = Quantity("isentrope_up", "1 if the broker answers and a learner has opened the run.")

RUN = _of(
    Quantity("isentrope_state", "1 for the state that the run is in.", ("state",)),
    Quantity("isentrope_on_policy", "1 if the run is on-policy, 0 if asynchronous."),
    Quantity("isentrope_batch", "Trained batches; falls when a learner continues from an older checkpoint."),
    Quantity("isentrope_max_lag_batches", "Largest age of weights, in batches, that the run allows now."),
    Quantity("isentrope_actors", "Actors, by state.", ("state",)),
    Quantity("isentrope_actors_wanted", "Actors of the command that are wanted."),
    Quantity("isentrope_orders", "Training orders under way, by state.", ("state",)),
    Quantity("isentrope_evaluation_orders", "Held-out prompts that are to be answered."),
    Quantity("isentrope_groups_total", "Groups of the run, by what has become of them.", ("what",)),
    Quantity("isentrope_groups_retired_total", "Groups that were issued and not trained, by reason.", ("reason",)),
    Quantity("isentrope_groups_held", "Groups in the broker: unread, and read but not committed.", ("state",)),
    Quantity(
        "isentrope_broker_bytes",
        "Bytes: used by the server, its limit (absent: none), un-committed payload, and its budget.",
        ("kind",),
    ),
    Quantity("isentrope_restarts_total", "Learners after the first; deaths of actors.", ("part",)),
    Quantity("isentrope_weights_batch", "Batch of the newest announced weights."),
    Quantity("isentrope_weights_age_seconds", "Time since the newest announced weights were written."),
)

ACTOR = _of(
    Quantity("isentrope_actor_tokens_per_second", "Tokens an actor generates per second.", ("actor", "host")),
    Quantity("isentrope_actor_silent_seconds", "Time since an actor's last heartbeat.", ("actor", "host")),
    Quantity("isentrope_actor_orders", "Orders that an actor holds.", ("actor", "host")),
    Quantity("isentrope_actor_weights_batch", "Batch of the weights that an actor serves.", ("actor", "host")),
    Quantity("isentrope_weights_load_seconds", "Time that an actor's newest load of weights took.", ("actor", "host")),
    Quantity("isentrope_refused_loads_total", "Loads of weights that failed or were refused.", ("actor", "host")),
)

LEARNER = {
    "entropy": Quantity("isentrope_learner_entropy_nats", "Mean entropy per trained token."),
    "reward": Quantity("isentrope_learner_reward", "Mean reward of a response."),
    "pass_rate": Quantity("isentrope_learner_pass_ratio", "Share of the responses that are correct."),
    "objective/kl_rollout": Quantity("isentrope_learner_kl_rollout_nats", "KL of learner and engine."),
    "objective/kl_ref_k3": Quantity("isentrope_learner_kl_reference_nats", "KL from the reference model."),
    "objective/kl_old": Quantity("isentrope_learner_kl_old_nats", "KL from the policy before the updates."),
    "logp_gap_mean": Quantity(
        "isentrope_learner_logp_gap_nats", "Mean difference of log-probabilities of learner and engine."
    ),
    "objective/logp_gap_fresh": Quantity(
        "isentrope_learner_logp_gap_fresh_nats", "The same over tokens of the newest version alone."
    ),
    "loss": Quantity("isentrope_learner_loss", "Loss of an update."),
    "grad_norm": Quantity("isentrope_learner_gradient_norm", "Norm of the gradient before clipping."),
    "clip_high": Quantity("isentrope_learner_clip_high_ratio", "Share of tokens that the upper clip has cut off."),
    "clip_low": Quantity("isentrope_learner_clip_low_ratio", "Share of tokens that the lower clip has cut off."),
    "length_mean": Quantity("isentrope_learner_response_tokens", "Mean tokens of a response."),
    "truncated": Quantity("isentrope_learner_truncated_ratio", "Share of the responses that the length limit ended."),
    "lag_mean": Quantity("isentrope_lag_batches", "Mean age of a trained token's version."),
    "lag_max": Quantity("isentrope_lag_largest_batches", "Largest age of a trained token's version."),
    "process/ready_groups": Quantity("isentrope_learner_ready_groups", "Groups that waited when the batch was done."),
    "process/ranks": Quantity("isentrope_learner_ranks", "Ranks that trained the batch."),
    "time/at": Quantity("isentrope_learner_batch_timestamp_seconds", "Time at which the newest batch was trained."),
}
"""Gauges of the newest batch, by their name in `metrics.jsonl`; one that the batch lacks has no series."""

EVALUATION = {
    "batch": Quantity("isentrope_evaluation_batch", "Batch after which the model was evaluated."),
    "eval/reward": Quantity("isentrope_evaluation_reward", "Mean reward of a response to a held-out prompt."),
    "eval/length_mean": Quantity("isentrope_evaluation_response_tokens", "Mean tokens of such a response."),
}
PASS_AT = Quantity("isentrope_evaluation_pass_ratio", "Share of held-out prompts that one of k solves.", ("k",))

SUMS = {
    "batches": Quantity("isentrope_batches_total", "Trained batches, also those that were trained again."),
    "updates": Quantity("isentrope_updates_total", "Optimizer updates that were due."),
    "skipped": Quantity("isentrope_updates_skipped_total", "Updates that were not applied."),
    "responses": Quantity("isentrope_responses_total", "Responses of trained batches."),
}
TOKENS = Quantity("isentrope_tokens_total", "Tokens of trained batches: trained, and too old to be trained.", ("what",))
SECONDS = Quantity("isentrope_learner_seconds_total", "Time of the learner, by what it did.", ("phase",))
ALARM = Quantity("isentrope_alarm", "1 if the newest batch is beyond this bound of `learner.alarms`.", ("alarm",))
ALARM_BATCHES = Quantity("isentrope_alarm_batches_total", "Batches beyond this bound.", ("alarm",))
FAILED = Quantity("isentrope_failed_responses_total", "Responses that failed, by kind.", ("kind",))

QUANTITIES: tuple[Quantity, ...] = (
    UP,
    *RUN.values(),
    *ACTOR.values(),
    *LEARNER.values(),
    *EVALUATION.values(),
    PASS_AT,
    *SUMS.values(),
    TOKENS,
    SECONDS,
    ALARM,
    ALARM_BATCHES,
    FAILED,
)
"""All of them."""
