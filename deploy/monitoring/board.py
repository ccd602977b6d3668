"""The Grafana board of a run: `python board.py > board.json`, with the library that `requirements/board.txt` pins."""

# board.txt is installed by who changes the board:
# pyright: reportMissingImports=false

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
RUN = 'run="$run"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Curve:
    """One panel: its queries by the legend of their series."""

    title: str
    unit: str
    queries: dict[str, str]


def gauge(name: str, **labels: str) -> str:
    """Return the query of one metric of the chosen run."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f"isentrope_{name}{{{RUN}{more}}}"


ROWS: dict[str, Sequence[Curve]] = {
    "What is learned": (
        Curve("Reward", "none", {"training": gauge("learner_reward"), "held out": gauge("evaluation_reward")}),
        Curve("Entropy, nats per token", "none", {"entropy": gauge("learner_entropy_nats")}),
        Curve("Held-out prompts solved", "percentunit", {"pass@{{k}}": gauge("evaluation_pass_ratio")}),
        Curve(
            "Distance of policies, nats per token",
            "none",
            {
                "KL of learner and engine": gauge("learner_kl_rollout_nats"),
                "KL from before the batch": gauge("learner_kl_old_nats"),
                "gap of log-probabilities": gauge("learner_logp_gap_nats"),
            },
        ),
        Curve(
            "Clipped tokens",
            "percentunit",
            {"up": gauge("learner_clip_high_ratio"), "down": gauge("learner_clip_low_ratio")},
        ),
        Curve("Gradient norm", "none", {"norm": gauge("learner_gradient_norm")}),
    ),
    "How fast": (
        Curve(
            "Tokens per second",
            "none",
            {
                "trained": f"rate({gauge('tokens_total', what='trained')}{RATE})",
                "{{actor}}": gauge("actor_tokens_per_second"),
            },
        ),
        Curve("The learner's time", "percentunit", {"{{phase}}": f"rate({gauge('learner_seconds_total')}{RATE})"}),
        Curve("Groups per second", "none", {"{{what}}": f"rate({gauge('groups_total')}{RATE})"}),
        Curve("Lag, batches", "none", {"mean": gauge("lag_batches"), "largest": gauge("lag_largest_batches")}),
        Curve("Batch", "none", {"trained": gauge("batch"), "announced weights": gauge("weights_batch")}),
        Curve("Weights", "s", {"load {{actor}}": gauge("weights_load_seconds"), "age": gauge("weights_age_seconds")}),
    ),
    "What carries it": (
        Curve("Actors", "none", {"{{state}}": gauge("actors")}),
        Curve("Orders", "none", {"{{state}}": gauge("orders"), "held out": gauge("evaluation_orders")}),
        Curve("Broker", "bytes", {"{{kind}}": gauge("broker_bytes")}),
        Curve("Restarts", "none", {"{{part}}": gauge("restarts_total")}),
    ),
}


def panel(curve: Curve) -> Panel:
    """Return the panel of a curve."""
    made = Panel().title(curve.title).unit(curve.unit).datasource(SOURCE).span(8).height(7)
    for letter, (legend, query) in zip("ABC", curve.queries.items(), strict=False):
        made = made.with_target(Dataquery().expr(query).legend_format(legend).ref_id(letter))
    return made


def board() -> str:
    """Return the board as JSON."""
    run = QueryVariable("run").label("Run").query("label_values(isentrope_up, run)").datasource(SOURCE)
    made = Dashboard("isentrope").uid("isentrope").tags(["isentrope"]).refresh("10s").time("now-1h", "now")
    made = made.with_variable(DatasourceVariable("source").label("Prometheus").type("prometheus")).with_variable(run)
    for title, curves in ROWS.items():
        made = made.with_row(Row(title))
        for curve in curves:
            made = made.with_panel(panel(curve))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build())


if __name__ == "__main__":
    sys.stdout.write(board() + "\n")
