"""Whole losses of presets: which reference belongs to which, and the table of what both give.

PYTHONPATH=src python tests/golden/whole_losses.py      # writes docs/results/whole_losses.md
"""

import datetime
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import whole_base as base
import whole_critic as critic
import whole_entropy as entropy
import whole_stale as stale
from whole_batches import Reference, differences, opened, product, reference, scene

PAGE = Path(__file__).parents[2] / "docs" / "results" / "whole_losses.md"
SEEDS = range(50)
"""Batches of the page; the test takes some of them."""


@dataclass(frozen=True)
class Whole:
    """A loss and its reference. own: keys of the run file put over the presets."""

    methods: tuple[str, ...]
    of: Reference
    own: dict[str, object] = field(default_factory=dict)
    note: str = "more tokens chosen"
    """Effect of the own keys."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        return ", ".join(self.methods) + (f", {self.note}" if self.own else "")


PRESETS: dict[str, Reference] = {
    "advanced": entropy.advanced,
    "bcpg_nsa": base.bcpg_nsa,
    "ce_gppo": base.ce_gppo,
    "cispo": base.cispo,
    "clip_b": entropy.clip_b,
    "clip_v": entropy.clip_v,
    "clip_cov": entropy.clip_cov,
    "dapo": base.dapo,
    "decoupled": stale.decoupled,
    "deepseek_v32": stale.deepseek_v32,
    "dppo": base.dppo,
    "dr_grpo": base.dr_grpo,
    "entropic": entropy.entropic,
    "pi_bonus": entropy.pi_bonus,
    "entrocraft": entropy.entrocraft,
    "gdpo": base.gdpo,
    "gmpo": base.gmpo,
    "gpg": base.gpg,
    "grpo": base.grpo,
    "gspo": base.gspo,
    "icepop": stale.icepop,
    "kl_cov": entropy.kl_cov,
    "luffy": base.luffy,
    "luspo": base.luspo,
    "m2po": stale.m2po,
    "maxrl": base.maxrl,
    "minirl": stale.minirl,
    "nsr": base.signed(None, -1.0),
    "opd": base.opd,
    "opo": base.opo,
    "pass_at_k": base.pass_at_k,
    "positive_weight": entropy.positive_weight,
    "ppo": critic.ppo,
    "prorl": stale.prorl,
    "prorl_v2": stale.prorl_v2,
    "psr": base.signed(1.0, None),
    "reinforce_pp": base.reinforce_pp,
    "remax": base.remax,
    "rloo": base.rloo,
    "sapo": base.sapo,
    "seed_grpo": entropy.seed_grpo,
    "sent": entropy.sent,
    "skywork": entropy.skywork,
    "starter": entropy.starter,
    "steer": entropy.steer,
    "tis": stale.tis,
    "top_entropy": entropy.top_entropy,
    "unlikely": base.unlikely,
    "vapo": critic.vapo,
    "vespo": stale.vespo,
    "w_reinforce": base.signed(0.1, -1.0),
}
"""References of presets as they are."""

ABOVE = {"target": {"initial": 1.2}}
OTHERS = (
    Whole(
        ("skywork",), partial(entropy.skywork, share=1.2), {"control": {"entropy_step": ABOVE}}, "target above entropy"
    ),
    Whole(
        ("positive_weight",),
        partial(entropy.positive_weight, share=1.2),
        {"control": {"positive_weight": ABOVE}},
        "target above entropy",
    ),
    Whole(
        ("pi_bonus",),
        partial(entropy.pi_bonus, share=1.2),
        {"control": {"entropy_pi": ABOVE}},
        "target above entropy",
    ),
    Whole(
        ("kl_cov",),
        partial(entropy.kl_cov, share=0.1),
        {"kl": [{"kind": "abs", "anchor": "old", "coef": 1.0, "tokens": {"kind": "top_cov", "share": 0.1}}]},
    ),
    Whole(
        ("clip_cov",),
        partial(entropy.clip_cov, share=0.05, low=0.2),
        {"tokens": {"band_cov": {"share": 0.05, "low": 0.2}}},
    ),
    Whole(
        ("sent",),
        partial(entropy.sent, share=0.1),
        {
            "kl": [
                {
                    "kind": "abs",
                    "anchor": "old",
                    "coef": 1.0,
                    "tokens": {"kind": "low_entropy_cov", "share": 0.1, "rest": 1.0},
                },
                {"kind": "k3", "anchor": "ref", "coef": 1e-3},
            ]
        },
    ),
    Whole(("opd",), partial(base.opd, forward=True), {"advantage": {"baseline": {"divergence": "forward"}}}, "forward"),
    Whole(("clip_b",), partial(entropy.clip_b, deviations=0.5), {"tokens": {"discriminator": {"deviations": 0.5}}}),
    Whole(
        ("clip_v",),
        partial(entropy.clip_v, deviations=0.5, share=0.1),
        {"tokens": {"centred_discriminator": {"deviations": 0.5, "share": 0.1}}},
    ),
    Whole(
        ("entrocraft",),
        partial(entropy.entrocraft, low=(0.1, 0.0), high=(2.0, 0.4), share=0.5 - 0.5 * math.cos(math.pi / 4)),
        {"advantage": {"baseline": {"low": [0.1, 0.0], "high": [2.0, 0.4], "shape": "cosine"}}},
        "between its bounds",
    ),
    Whole(("m2po",), partial(stale.m2po, threshold=0.002), {"correction": {"second_moment": {"threshold": 0.002}}}),
)
"""The same with keys that choose many tokens of a small batch, where the presets' own choose one."""

EVERY = (*(Whole((name,), of) for name, of in PRESETS.items()), *OTHERS)


def worst(whole: Whole, seeds: Iterable[int]) -> tuple[float, float]:
    """Largest relative difference of loss and of gradient over batches."""
    objective = opened(whole.methods, whole.own)
    found = [differences(product(scene(seed), objective), reference(scene(seed), whole.of)) for seed in seeds]
    return max(loss for loss, _ in found), max(gradient for _, gradient in found)


def page() -> str:
    """The table as a page."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=PAGE.parent).strip()
    updates = sum(len(scene(seed).updates) for seed in SEEDS)
    lines = [
        "# Whole losses",
        "",
        "The loss of every preset that can start, and its gradient by log-probabilities and entropies, against a",
        "reference that is written from the paper: largest relative difference in float64, over "
        f"{len(SEEDS)} random batches",
        f"with {updates} updates. The references are in [`tests/golden`](../../tests/golden): `whole_base.py`,",
        "`whole_critic.py`, `whole_entropy.py` and `whole_stale.py`, with the equations that they follow.",
        "`whole_batches.py` says what a batch holds and what differences are relative to.",
        "`python tests/golden/whole_losses.py` writes this page.",
        "",
        "| preset | loss | gradient |",
        "|---|---|---|",
    ]
    for whole in EVERY:
        loss, gradient = worst(whole, SEEDS)
        lines.append(f"| `{whole.name}` | {loss:.1e} | {gradient:.1e} |")
    for method, weight in critic.VALUE_LAMBDA.items():
        loss, gradient = critic.worst_of_critic(method, weight, SEEDS)
        lines.append(f"| `{method}`, value loss, by values | {loss:.1e} | {gradient:.1e} |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return "\n".join([*lines, "", f"{machine}, {datetime.date.today().isoformat()}, commit {commit}.", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
