"""Merging presets and own keys, and what is said about mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from isentrope.errors import ConfigError
from isentrope.learner.objective.dimensions import DIMENSIONS, KL_TOKENS, READABLE
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import Merged, build, load_objective

NOWHERE = Path("/")


def merged(*methods: str, **own: object) -> Merged:
    return load_objective(methods, own, NOWHERE)


def built(*methods: str, folder: Path = NOWHERE, **own: object) -> Objective:
    return build(load_objective(methods, own, folder), folder, max_new_tokens=512)


def test_tables_merge_key_by_key_and_remember_who_set_each() -> None:
    found = merged("dapo", clip={"high": 0.3})
    assert found.tables["clip"] == {"kind": "ppo", "low": 0.2, "high": 0.3}
    assert found.provenance["clip.low"] == "dapo" and found.provenance["clip.high"] == "run file"


def test_another_kind_starts_its_table_afresh() -> None:
    found = merged("dapo", "kl_cov")
    assert found.tables["clip"] == {"kind": "none"}
    assert "clip.high" not in found.provenance
    assert found.replaced == ("clip: kl_cov replaces what dapo set",)


def test_lists_merge_by_kind_in_the_order_of_the_kinds() -> None:
    objective = built("steer", "top_entropy", tokens=[{"kind": "entropy_change", "min": 0.5}])
    assert [stage.kind.name for stage in objective.tokens] == ["entropy_change", "top_entropy"]
    assert objective.tokens[0].params["min"] == 0.5 and objective.tokens[0].params["map"] == "exponential"


def test_a_list_can_be_written_as_a_table_of_kinds() -> None:
    assert built("top_entropy", tokens={"top_entropy": {"keep": 0.1}}).tokens[0].params["keep"] == 0.1


def test_a_list_of_one_can_be_written_as_its_table_or_word() -> None:
    (stage,) = built(correction={"kind": "band", "low": 0.1}).correction
    assert (stage.kind.name, stage.params["low"]) == ("band", 0.1)
    assert [stage.kind.name for stage in built(filter="not_truncated").filter] == ["not_truncated"]


def test_corrections_of_several_presets_are_all_kept() -> None:
    assert [stage.kind.name for stage in built("m2po", "tis").correction] == ["truncate", "second_moment"]


def test_the_word_none_clears_a_list_for_what_stands_behind_it() -> None:
    (stage,) = built("icepop", correction=["none", "truncate"]).correction
    assert stage.kind.name == "truncate"
    assert built("icepop", correction="none").correction == built("prorl_v2", correction=[]).correction == ()
    assert built("sent", kl="none").kl == ()


def test_an_empty_list_clears() -> None:
    assert built("top_entropy", tokens=[]).tokens == ()
    assert merged("dapo", filter=[]).provenance["filter"] == "run file"


def test_divergences_are_replaced_as_a_whole() -> None:
    assert len(built("sent").kl) == 2
    assert built("sent", "dapo").kl == ()
    assert "kl: dapo replaces what sent set" in merged("sent", "dapo").replaced
    assert not merged("sent", kl=[]).replaced


def test_a_word_stands_for_a_kind_with_its_defaults() -> None:
    objective = built("grpo", reduce="token_mean", advantage={"baseline": "leave_one_out"}, ratio={"anchor": "rollout"})
    assert objective.reduce.kind.name == "token_mean"
    assert objective.baseline.kind.name == "leave_one_out"
    assert objective.anchor.kind.name == "rollout"


def test_a_length_may_be_the_runs() -> None:
    assert built("dr_grpo").reduce.params["constant"] == 512


def test_later_presets_win_suggestions() -> None:
    assert merged("dapo", "kl_cov").suggested == {
        "group_size": (16, "dapo"),
        "updates_per_batch": (8, "kl_cov"),
        "max_lag": (0, "kl_cov"),
    }


def test_own_presets_are_files_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "Mine"\npaper = "https://example.org"\ndiffers = "Less."\n[objective]\nclip = { high = 0.5 }\n'
    )
    objective = built("dapo", "mine.toml", folder=tmp_path)
    assert objective.clip.params["high"] == 0.5 and objective.clip.params["low"] == 0.2


def test_own_stages_are_functions_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "my_stages.py").write_text(
        "def halved(advantage, *, factor: float = 0.5):\n    return advantage * 0 + factor\n"
    )
    objective = built("grpo", folder=tmp_path, tokens=[{"kind": "my_stages:halved", "factor": 0.25}])
    stage = objective.tokens[0]
    assert stage.kind.reads == ("advantage",)
    assert stage({"advantage": torch.ones(2)}).tolist() == [0.25, 0.25]
    with pytest.raises(ConfigError, match="unknown key `facto`"):
        built("grpo", folder=tmp_path, tokens=[{"kind": "my_stages:halved", "facto": 0.25}])


@pytest.mark.parametrize(
    ("methods", "own", "message", "where", "fix"),
    [
        (["gropo"], {}, "unknown method `gropo`", "learner.method", "`grpo`"),
        (["none.toml"], {}, "no method file", "learner.method", ""),
        (["grpo"], {"clip": {"hgih": 1}}, "unknown key `hgih` of kind `ppo`", "learner.objective.clip.hgih", "`high`"),
        (["grpo"], {"clpi": {}}, "unknown dimension `clpi`", "learner.objective.clpi", "`clip`"),
        (["grpo"], {"clip": "ppoo"}, "unknown kind `ppoo`", "learner.objective.clip.kind", "`ppo`"),
        (["grpo"], {"clip": {"high": -1}}, "`high`.*-1", "learner.objective.clip.high", "from 0 to"),
        (["grpo"], {"clip": {"high": "wide"}}, "`high`.*'wide'", "learner.objective.clip.high", ""),
        (
            ["kl_cov"],
            {"clip": {"high": 1}},
            r"of kind `none` \(set by kl_cov\)",
            "learner.objective.clip.high",
            "no key",
        ),
        (["grpo"], {"advantage": {"scales": "none"}}, "unknown key `scales`", "advantage.scales", "`scale`"),
        (["grpo"], {"advantage": "none"}, "not a table", "learner.objective.advantage", ""),
        (["grpo"], {"tokens": [{"keep": 0.2}]}, "no `kind`", "learner.objective.tokens", ""),
        (["grpo"], {"tokens": 3}, "not a list", "learner.objective.tokens", ""),
        (["grpo"], {"stats": "new"}, "unknown value `new`", "learner.objective.stats", "old"),
        (["grpo"], {"reduce": "seq_sum_constant"}, "`constant`.*no default", "reduce.constant", "set it"),
        (["grpo"], {"kl": [{"kind": "k3", "coeff": 1}]}, "unknown key `coeff`", "kl.0.coeff", "`coef`"),
        (["grpo"], {"kl": [{"kind": "k3", "anchor": "reff"}]}, "`anchor`", "kl.0.anchor", ""),
        (["grpo"], {"kl": [{"kind": "k3", "tokens": "top"}]}, "unknown kind `top`", "kl.0.tokens.kind", "top_cov"),
        (["grpo"], {"tokens": ["no_module:f"]}, "cannot import 'no_module'", "tokens", "no_module.py"),
    ],
)
def test_mistakes(methods: list[str], own: dict[str, Any], message: str, where: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        built(*methods, **own)
    assert where in caught.value.where and fix in caught.value.fix
    assert caught.value.exit_code == 64


def test_a_module_that_fails_to_import_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError") as caught:
        built("grpo", folder=tmp_path, tokens=[{"kind": "broken:f"}])
    assert "broken.py:1" in caught.value.where
    (tmp_path / "unreadable.py").write_text("a = 1\ndef f(:\n")
    with pytest.raises(ConfigError, match="SyntaxError") as caught:
        built("grpo", folder=tmp_path, tokens=[{"kind": "unreadable:f"}])
    assert "unreadable.py:2" in caught.value.where


ODD = """
def advantag(advantag): return advantag
def ratio(logp, ratio): return ratio
def advantages(x, mask, advantages): return x
def gain(state, entropy, *, gain: float = 1.0): return {"value": gain}
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_stages.py").write_text(ODD)
    return folder


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"tokens": ["odd_stages:advantag"]}, "unknown tensor `advantag`"),
        ({"tokens": ["odd_stages:ratio"]}, "unknown tensor `ratio`"),
        ({"kl": [{"kind": "odd_stages:advantages"}]}, "unknown tensor `advantages`"),
        ({"kl": [{"kind": "k2", "tokens": "odd_stages:ratio"}]}, "unknown tensor `ratio`"),
        ({"control": ["odd_stages:gain"]}, "`of` and `initial`"),
    ],
)
def test_a_stage_that_reads_what_is_not_there_is_refused_before_it_runs(
    own: dict[str, Any], message: str, odd: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        built("grpo", folder=odd, **own)


def test_every_kind_reads_what_its_dimension_offers() -> None:
    for path, dimension in DIMENSIONS.items():
        for kind in dimension.kinds.values():
            assert {*kind.reads, *kind.may_read} <= READABLE[path], (path, kind.name)
    assert all(set(kind.reads) <= READABLE["kl.tokens"] for kind in KL_TOKENS.values())


def test_a_stage_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text("def f(*tensors):\n    return tensors\n")
    with pytest.raises(ConfigError, match="named parameters only"):
        built("grpo", folder=tmp_path, tokens=[{"kind": "loose:f"}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "Mine"\npaper = "x"\ndiffers = "y"\nobjektive = 1\n', "unknown key `objektive`"),
        ('name = "Mine"\npaper = "x"\ndiffers = "y"\n[suggest]\nepochs = 0\n', "`suggest.epochs`"),
    ],
)
def test_a_broken_preset_names_its_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        built("mine.toml", folder=tmp_path)
    assert "mine.toml" in caught.value.where
