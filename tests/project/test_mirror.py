"""Where the tests of a module are, and the subject of a test file: at the same place in the other tree, or in a table.

Every file is named alone, so that a new module without tests is noticed, and so is an entry that nothing needs.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest
from source_files import Source

RUN_BY = {
    "actors/config.py": "isentrope/test_config.py",
    "actors/fetches.py": "actors/test_run_files.py",
    "actors/sampling.py": "actors/test_replayed_masks.py",
    "actors/engine_host.py": "actors/test_engine.py",
    "actors/reward_keeper.py": "actors/test_reward_box.py",
    "actors/reward_process.py": "actors/test_reward_box.py",
    "actors/reward_worker.py": "actors/test_scoring.py",
    "actors/weight_receiver.py": "actors/test_engine.py",
    "learner/training/certificate_batch.py": "learner/training/test_certificate.py",
    "src/isentrope/comparison/arms.py": "isentrope/report/test_compare.py",
    "src/isentrope/comparison/figures.py": "isentrope/report/test_compare.py",
    "src/isentrope/comparison/page.py": "isentrope/report/test_compare.py",
    "src/isentrope/compare.py": "isentrope/report/test_compare.py",
    "src/isentrope/methods_cli.py": "isentrope/test_cli.py",
    "learner/training/batch_steps.py": "learner/training/test_kept_training.py",
    "learner/training/opening.py": "learner/training/test_kept_training.py",
    "learner/training/circumstances.py": "learner/training/test_replay.py",
    "src/isentrope/check/kept_training.py": "isentrope/test_kept_training.py",
    "learner/training/kept_groups.py": "learner/training/test_group_store.py",
    "learner/intake/intake_facts.py": "learner/intake/test_feeder.py",
    "src/isentrope/dlq_cli.py": "isentrope/test_dlq.py",
    "src/isentrope/model_cli.py": "isentrope/test_cli.py",
    "examples/chat/make_data.py": "isentrope/test_init.py",
    "examples/digit_walk/make_data.py": "isentrope/test_init.py",
    "examples/gsm8k/make_data.py": "isentrope/test_init.py",
    "examples/judge/make_data.py": "isentrope/test_init.py",
    "examples/judge/stub_judge.py": "examples/judge/test_rewards.py",
    "examples/verl/make_data.py": "isentrope/test_init.py",
    "kernels/base_2.py": "kernels/test_stats.py",
    "kernels/bench/aot.py": "kernels/test_compiled.py",
    "kernels/bench/cases.py": "kernels/test_bench.py",
    "kernels/bench/measure.py": "kernels/test_bench.py",
    "kernels/bench/peer_kernels.py": "kernels/test_bench.py",
    "kernels/bench/peers.py": "kernels/test_bench.py",
    "kernels/bench/report.py": "kernels/test_bench.py",
    "kernels/bench/run.py": "kernels/test_bench.py",
    "kernels/call.py": "kernels/test_checks.py",
    "kernels/fused_row.py": "kernels/test_fused.py",
    "kernels/gradient.py": "kernels/test_stats.py",
    "kernels/limits.py": "kernels/test_golden_policy.py",
    "kernels/ops.py": "kernels/test_compiled.py",
    "kernels/policy.py": "kernels/test_golden_policy.py",
    "kernels/row_list.py": "kernels/test_stats.py",
    "learner/config.py": "isentrope/test_config.py",
    "learner/intake/admission.py": "learner/intake/test_buffer.py",
    "learner/intake/outcomes.py": "learner/intake/test_buffer.py",
    "learner/intake/plan_record.py": "learner/intake/test_ledger.py",
    "learner/intake/ragged.py": "learner/intake/test_packing.py",
    "learner/broadcasted.py": "isentrope/exporter/test_collector.py",
    "learner/intake/share.py": "learner/training/test_prepared_columns.py",
    "learner/json_files.py": "learner/test_records.py",
    "learner/measures.py": "learner/test_records.py",
    "learner/objective/batch.py": "learner/objective/test_contract.py",
    "learner/objective/credit_rules.py": "learner/objective/test_rules.py",
    "learner/objective/dimensions.py": "learner/objective/test_presets.py",
    "learner/objective/findings.py": "learner/objective/test_rules.py",
    "learner/objective/needs.py": "learner/objective/test_rules.py",
    "learner/objective/places.py": "learner/objective/stages/test_control.py",
    "learner/objective/policy_rules.py": "learner/objective/test_rules.py",
    "learner/intake/failed_groups.py": "learner/intake/test_buffer.py",
    "learner/objective/run.py": "learner/objective/test_rules.py",
    "learner/objective/run_facts.py": "learner/objective/test_rules.py",
    "learner/objective/run_rules.py": "learner/objective/test_rules.py",
    "learner/objective/schema.py": "learner/objective/test_presets.py",
    "learner/training/collectives.py": "learner/training/test_rank_group.py",
    "learner/training/deepspeed_files.py": "learner/training/test_deepspeed_engine.py",
    "learner/training/fault_points.py": "learner/training/test_checkpoint_store.py",
    "learner/training/function_rewards.py": "learner/training/test_evaluator.py",
    "learner/training/job.py": "learner/training/test_loop.py",
    "learner/training/journal.py": "learner/training/test_metrics.py",
    "learner/training/snapshot.py": "learner/training/test_deepspeed_engine.py",
    "learner/training/version_writer.py": "learner/training/test_deepspeed_engine.py",
    "learner/training/sinks.py": "learner/training/test_metrics.py",
    "learner/training/trainer.py": "learner/training/test_every_method.py",
    "learner/training/untrained.py": "learner/training/test_metrics.py",
    "rollout/broker/evaluations.py": "rollout/broker/test_learner_port.py",
    "rollout/broker/order_entries.py": "rollout/broker/test_hostile_actor.py",
    "rollout/broker/fenced.py": "rollout/broker/test_learner_port.py",
    "rollout/broker/learner_state.py": "rollout/broker/test_run_view.py",
    "rollout/broker/repeats.py": "learner/intake/test_feeder_faults.py",
    "rollout/config.py": "isentrope/test_config.py",
    "rollout/data/arrow_table.py": "rollout/data/test_tables.py",
    "rollout/data/jsonl_table.py": "rollout/data/test_tables.py",
    "rollout/data/table.py": "rollout/data/test_tables.py",
    "rollout/depot/access.py": "rollout/depot/test_interface.py",
    "rollout/depot/fetching.py": "rollout/depot/test_interface.py",
    "rollout/depot/folder_depot.py": "rollout/depot/test_interface.py",
    "rollout/depot/remote_depot.py": "rollout/depot/test_interface.py",
    "rollout/depot/versions.py": "rollout/depot/test_interface.py",
    "rollout/rewards/foreign.py": "rollout/rewards/test_functions.py",
    "rollout/wire/payload.py": "rollout/wire/test_codec.py",
    "rollout/wire/spec.py": "rollout/broker/test_run_view.py",
    "rollout/wire/validation.py": "rollout/wire/test_codec.py",
    "learner/beginning_record.py": "learner/training/test_beginning.py",
    "learner/outage_record.py": "isentrope/launch/test_outages.py",
    "learner/placement_record.py": "isentrope/launch/test_actors.py",
    "src/isentrope/check/reward.py": "isentrope/test_cli.py",
    "src/isentrope/evaluation.py": "actors/test_evaluation.py",
    "src/isentrope/handbook/catalogue.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/docstrings.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/entry.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/exit_codes.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/keys.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/light.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/methods.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/outputs.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/pages.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/show.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/stages.py": "isentrope/test_handbook.py",
    "src/isentrope/handbook/values.py": "isentrope/test_handbook.py",
    "src/isentrope/launch/actor_process.py": "system/test_faults.py",
    "src/isentrope/launch/broker.py": "system/test_own_run.py",
    "src/isentrope/launch/depot.py": "isentrope/test_joining.py",
    "src/isentrope/launch/config.py": "isentrope/launch/test_cluster.py",
    "src/isentrope/launch/driver.py": "system/test_own_run.py",
    "src/isentrope/launch/logs.py": "system/test_own_run.py",
    "src/isentrope/launch/model.py": "system/test_faults.py",
    "src/isentrope/launch/rank_backend.py": "system/test_faults.py",
    "src/isentrope/launch/ray_ground.py": "system/test_room.py",
    "src/isentrope/exporter/quantities.py": "isentrope/exporter/test_collector.py",
    "src/isentrope/launch/shared_ray.py": "system/test_compared_methods.py",
    "src/isentrope/launch/scaler.py": "system/test_room.py",
    "src/isentrope/options.py": "isentrope/test_cli.py",
    "src/isentrope/report/charts.py": "isentrope/report/test_report.py",
    "src/isentrope/report/contents.py": "isentrope/report/test_summary.py",
    "src/isentrope/report/figures.py": "isentrope/report/test_report.py",
    "src/isentrope/report/page.py": "isentrope/report/test_report.py",
    "src/isentrope/report/responses.py": "isentrope/report/test_report.py",
    "src/isentrope/report/reward_table.py": "isentrope/report/test_report.py",
    "src/isentrope/report/words.py": "isentrope/report/test_report.py",
}
"""Modules that have no test of their name -> a test that runs them."""

WITHOUT_A_MODULE = {
    "actors/test_replayed_masks.py": "sampling masks, from the engine that all tests of actors share to the learner",
    "actors/test_evaluation.py": "the command `eval`, with the engine that all tests of actors share",
    "isentrope/report/test_compare.py": "the command, with folders, page and JSON",
    "isentrope/report/test_report.py": "the whole page, which all modules of the package make together",
    "isentrope/test_damaged_folder.py": "what every command makes of a run folder with damaged files",
    "kernels/test_compiled.py": "what needs a process of its own: torch.compile, bare imports, code for other GPUs",
    "kernels/test_golden_policy.py": "published numbers, through the fused kernels and their plain twins alike",
    "learner/intake/test_bad_links.py": "the feeder and an actor behind links that are cut, half open, late or slow",
    "learner/intake/test_on_policy_kills.py": "the feeder of an on-policy run while its learners die",
    "learner/intake/test_feeder_faults.py": "the feeder while processes die; without faults it is in test_feeder.py",
    "learner/intake/test_feeder_long.py": "the feeder for an hour: what grows",
    "learner/intake/test_feeder_hostile.py": "the feeder beside an actor that writes whatever it may",
    "learner/objective/test_contract.py": "what holds for every preset, through the whole objective",
    "learner/objective/test_failures.py": "that a failed response has no part in any preset, from actor to gradient",
    "learner/training/test_bad_disks.py": "all that a learner writes, on a disk that is full or stalls",
    "learner/training/test_every_method.py": "every preset through model, statistics, updates and metrics",
    "rollout/broker/test_hostile_actor.py": "what everybody makes of whatever an actor may write",
    "rollout/broker/test_protocol_machine.py": "the protocol: all ports against each other, under faults",
    "rollout/broker/test_scripts.py": "the broker's Lua scripts",
}
"""Test files that are named after neither a module nor a package -> what they test."""

OF_NO_MODULE = {"deploy", "golden", "project", "system"}
"""Folders of tests about all of the program, or about files that are not its code."""


def test_every_module_has_a_test(sources: list[Source], root: Path) -> None:
    assert _bare(sources, _tests(root)) - RUN_BY.keys() == set()


def test_every_entry_is_a_module_without_a_test_of_its_name(sources: list[Source], root: Path) -> None:
    assert RUN_BY.keys() - _bare(sources, _tests(root)) == set()


def test_every_entry_leads_to_a_test(root: Path) -> None:
    assert set(RUN_BY.values()) - _tests(root) == set()


def test_every_test_file_has_a_subject(sources: list[Source], root: Path) -> None:
    assert _without_subject(sources, _tests(root)) == WITHOUT_A_MODULE.keys()


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("kernels/bench/aot.py", "kernels/bench/test_aot.py"),
        ("src/isentrope/cli.py", "isentrope/test_cli.py"),
        ("src/isentrope/report/__init__.py", "isentrope/test_report.py"),
    ],
)
def test_a_test_has_the_place_of_its_module(name: str, test: str) -> None:
    assert _test_of(name) == test


def _bare(sources: Iterable[Source], tests: set[str]) -> set[str]:
    """Return the modules that have no test of their name."""
    modules = {source.name for source in sources if source.path.name not in ("__init__.py", "__main__.py")}
    return {module for module in modules if _test_of(module) not in tests}


def _without_subject(sources: Iterable[Source], tests: set[str]) -> set[str]:
    """Return the tests of modules that have the name of neither a module nor a package."""
    subjects = {_test_of(source.name) for source in sources}
    return {test for test in tests - subjects if test.partition("/")[0] not in OF_NO_MODULE}


def _tests(root: Path) -> set[str]:
    folder = root / "tests"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("test_*.py")}


def _test_of(name: str) -> str:
    """Return the test that has the name of a module, or of the package whose `__init__.py` it is."""
    place = Path(name.removeprefix("src/").removesuffix("/__init__.py")).with_suffix(".py")
    return place.with_name(f"test_{place.name}").as_posix()
