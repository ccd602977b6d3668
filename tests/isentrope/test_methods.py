"""What commands show of methods."""

import re
from pathlib import Path

import pytest

from isentrope import methods
from isentrope.learner.objective.presets import method_names

NAMES = [
    "ppo",
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "gspo",
    "cispo",
    "sapo",
    "gmpo",
    "gpg",
    "remax",
    "maxrl",
    "dppo",
    "tis",
    "icepop",
    "decoupled",
    "m2po",
    "dapo",
    "vapo",
    "seed_grpo",
    "bcpg_nsa",
    "clip_cov",
    "kl_cov",
    "opo",
    "skywork",
    "prorl",
    "prorl_v2",
    "top_entropy",
    "psr",
    "nsr",
    "w_reinforce",
    "unlikely",
    "luffy",
    "steer",
    "positive_weight",
    "entropic",
    "sent",
    "deepseek_v32",
    "minirl",
    "pass_at_k",
    "starter",
    "advanced",
    "ce_gppo",
    "pi_bonus",
    "vespo",
    "luspo",
    "clip_b",
    "clip_v",
    "entrocraft",
    "gdpo",
    "opd",
]


def test_every_method_of_the_survey_is_there() -> None:
    assert method_names() == sorted(NAMES)


def test_the_list_names_what_is_missing() -> None:
    missing = {info.name: info.missing for info in methods.list_methods()}
    assert set(missing.values()) == {()}, "every preset can start"
    assert missing["grpo"] == missing["ppo"] == missing["vapo"] == missing["dapo"] == missing["kl_cov"] == ()


def test_show_gives_every_key_its_source() -> None:
    text = methods.show(["dapo", "top_entropy"], Path("/"))
    assert text.startswith("# dapo: DAPO, https://arxiv.org/abs/2503.14476")
    assert "clip.high = 0.28  # dapo" in text
    assert "tokens.top_entropy.keep = 0.2  # top_entropy" in text
    assert "ratio.level.clamp = 20.0  # default" in text
    assert "# suggested run key: group_size = 16  # dapo" in text


def test_show_says_a_sentence_about_every_key_and_what_it_overrode() -> None:
    shown = methods.show(["dapo", "kl_cov", "clip_b"], Path("/")).splitlines()
    keys = [line for line in shown if " = " in line and not line.startswith("#")]
    assert all(re.search(r"  # [a-z_]+(, over .* of [a-z_]+)?\. [^ ].*\.$", line) for line in keys), keys
    text = methods.show(["dapo", "ce_gppo"], Path("/"))
    assert "filter.mixed_groups.refill = 1  # ce_gppo, over 10 of dapo. " in text
    assert "clip.low = 0.2  # ce_gppo. How far a ratio may fall below 1 before its gradient is bounded" in text


def test_show_gives_own_stages_no_text(tmp_path: Path) -> None:
    (tmp_path / "halving.py").write_text("def halved(advantage, *, by: float = 0.5):\n    return advantage * by\n")
    (tmp_path / "mine.toml").write_text('[objective]\ntokens = [{ kind = "halving:halved" }]\n')
    assert '"halving:halved".by = 0.5  # default\n' in methods.show(["grpo", "mine.toml"], tmp_path) + "\n"


def test_every_preset_has_a_family_a_year_and_says_when_it_acts() -> None:
    for info in methods.list_methods():
        assert info.family in methods.FAMILIES and info.acts.endswith("."), info.name
        arxiv = [2000 + int(number) for number in re.findall(r"arxiv\.org/abs/(\d\d)\d\d\.", info.paper)]
        assert info.year in (arxiv or [info.year]) and 2015 < info.year < 2100, info.name


def test_show_names_needs() -> None:
    assert "# needs a critic, for advantage.baseline" in methods.show(["ppo"], Path("/")).splitlines()
    shown = methods.show(["luffy"], Path("/")).splitlines()
    assert "# needs demonstrations, for aux.shaped_demonstration" in shown


def test_show_says_what_a_run_would_refuse() -> None:
    refused = methods.show(["skywork", "entropic"], Path("/"))
    assert "# refused: control: entropy_pi and entropy_step steer one quantity, entropy; keep one of them" in refused
    assert "# refused" not in methods.show(["dapo", "top_entropy"], Path("/"))


@pytest.mark.slow
def test_every_pair_merges_or_is_refused_with_a_reason() -> None:
    pairs = methods.matrix()
    assert len(pairs) == len(NAMES) * (len(NAMES) - 1)
    assert all(reason for pair in pairs for reason in pair.refusals)
    together = {(pair.first, pair.second) for pair in pairs if not pair.refusals}
    assert {("dapo", "top_entropy"), ("dapo", "kl_cov"), ("rloo", "icepop")} <= together
    assert ("gspo", "top_entropy") not in together
    text = methods.matrix_text(pairs)
    assert all(reason in text for pair in pairs for reason in pair.refusals[:1])
