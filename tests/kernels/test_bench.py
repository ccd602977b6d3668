"""The benchmark without a GPU: every provider computes the same thing, results are read rightly, mistakes are told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_truth import relative, statistics

from isentrope.errors import ConfigError
from isentrope.kernels import bench
from isentrope.kernels.bench import cases, peers, report, run


def build(builder: cases.Build, inputs: cases.Inputs) -> cases.Call:
    try:
        return builder(inputs)
    except ImportError as error:
        pytest.skip(f"peer not installed: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantity", "provider"),
    [(quantity, name) for quantity, builds in cases.LOGITS.items() for name in builds if "compile" not in name],
)
def test_every_provider_on_logits_gives_the_same(quantity: str, provider: str) -> None:
    torch.manual_seed(0)
    inputs = cases.Inputs.draw(2, 6, 40, torch.float32, "cpu")
    inputs.original += 9 * torch.randn_like(inputs.original)  # neither certain nor beyond the clip, all of them
    inputs.restore()
    ours = build(cases.LOGITS[quantity]["isentrope"], inputs)()
    gradient = None if ours.gradient is None else ours.gradient.clone()
    inputs.restore()
    found = build(cases.LOGITS[quantity][provider], inputs)()
    logp, entropy = statistics(inputs.original, inputs.targets)
    mask = inputs.mask
    if found.logp is not None and found.entropy is not None:
        assert relative(found.logp[mask], logp[mask]) <= 1e-5 and relative(found.entropy[mask], entropy[mask]) <= 1e-5
    if gradient is not None and found.gradient is not None:
        assert relative(found.gradient, gradient) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["isentrope", "trl", "eager"])
def test_providers_on_hidden_states_give_the_same(provider: str) -> None:
    torch.manual_seed(0)
    inputs = cases.Inputs.draw_hidden(2, 6, 40, 8, "cpu")
    assert inputs.hidden is not None and inputs.weight is not None
    found = build(cases.LINEAR["linear"][provider], inputs)()
    logp, _ = statistics(inputs.hidden.double() @ inputs.weight.double().T, inputs.targets)
    assert found.logp is not None
    assert relative(found.logp[inputs.mask], logp[inputs.mask]) <= (1e-6 if provider == "isentrope" else 3e-2)


def results(**times: float) -> dict[str, Any]:
    """Results of one forward quantity on a device that copies 1 TB/s."""
    common = {"quantity": "forward", "tokens": 1000, "vocabulary": 10, "bytes": 9 * 10**8, "p20_ms": 0, "p80_ms": 0}
    rows = [
        {**common, "provider": name, "median_ms": ms, "peak_bytes": 0, "syncs": False, "errors": {"logp": 1e-7}}
        for name, ms in times.items()
    ]
    return {
        "device": "a device", "versions": {"torch": "2", "triton": "3"}, "missing": {}, "recompilations": [],
        "rates": {"copy_bytes_per_s": 1e12, "matmul_flop_per_s": 1e15}, "results": rows,
    }  # fmt: skip


def test_targets_are_met_missed_or_not_compared() -> None:
    assert report.missed(results(isentrope=0.95, trl=1.3)) == []
    assert "1.26 times as fast as trl" in report.missed(results(isentrope=0.95, trl=1.2))[0]
    assert "could not be compared" in report.missed(results(isentrope=0.95))[0]
    assert "0.45 of the copy rate" in report.missed(results(isentrope=2.0, trl=9.0))[0]


def test_the_table_shows_ratios_and_what_is_missing() -> None:
    given = results(isentrope=1.0, trl=2.0) | {"missing": {"verl": "missing"}}
    text = report.table(given)
    assert "2.00x" in text and "missing: verl" in text and "nothing" in text


def test_the_chart_is_written(tmp_path: Path) -> None:
    report.chart(results(isentrope=1.0, trl=2.0), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_process_that_interprets_kernels_is_refused() -> None:
    with pytest.raises(ConfigError, match="TRITON_INTERPRET"):
        bench.main(["--aot"])


def test_a_machine_without_a_gpu_is_told_of_aot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device") as caught:
        bench.main([])
    assert "--aot" in caught.value.fix


def test_versions_name_every_peer() -> None:
    assert set(peers.versions()) == {"trl", "liger", "verl", "cce"}
