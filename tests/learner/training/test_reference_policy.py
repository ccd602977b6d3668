"""The reference policy: what it says, that it stays what it is, and that it comes back from the disk."""

from pathlib import Path

import pytest
import torch
from toy_batch import make_toy_rows, padded

from isentrope.errors import StorageError
from isentrope.kernels import plain
from isentrope.learner.intake.packing import pack
from isentrope.learner.training.model import Policy, load_policy
from isentrope.learner.training.reference_policy import KEPT, ReferencePolicy, reference_folder, write
from isentrope.rollout.wire.types import version_of

RAGGED = make_toy_rows(groups=2, group_size=3)
PACKED = pack(RAGGED, range(6))
CPU = torch.device("cpu")


def policy_of(folder: Path) -> Policy:
    return load_policy(str(folder), dtype=torch.float32, device=CPU, gradient_checkpointing=False)


def moved(folder: Path) -> Policy:
    """The policy some steps later."""
    policy = policy_of(folder)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return policy


def test_it_gives_the_tempered_log_probabilities_of_its_network(toy_model: Path) -> None:
    reference = ReferencePolicy(policy_of(toy_model), 0.7, CPU)
    direct = policy_of(toy_model)(PACKED, lambda logits, targets: plain.logp_entropy(logits, targets, 0.7)[0])
    torch.testing.assert_close(reference.logp(PACKED), PACKED.to_padded(direct).detach())
    assert not reference.logp(PACKED)[~padded(RAGGED).valid].any()


def test_a_refreshed_reference_is_the_policy_and_is_handed_on(toy_model: Path) -> None:
    reference, later = ReferencePolicy(policy_of(toy_model), 1.0, CPU), moved(toy_model)
    before = reference.logp(PACKED)
    names = [name for name, _ in reference.refreshed(later.network.named_parameters())]
    assert names == [name for name, _ in later.network.named_parameters()]
    assert torch.equal(reference.logp(PACKED), ReferencePolicy(later, 1.0, CPU).logp(PACKED))
    assert not torch.equal(reference.logp(PACKED), before)


def test_it_comes_back_from_the_disk_bit_by_bit(toy_model: Path, tmp_path: Path) -> None:
    reference, folder = ReferencePolicy(policy_of(toy_model), 1.0, CPU), reference_folder(tmp_path, 40)
    source = moved(toy_model).network.named_parameters()
    write(reference.refreshed(source), folder, version=version_of(2, 40))
    again = ReferencePolicy(policy_of(toy_model), 1.0, CPU)
    again.load(folder)
    assert torch.equal(again.logp(PACKED), reference.logp(PACKED))


def test_only_the_newest_stay(toy_model: Path, tmp_path: Path) -> None:
    for batch in (10, 60, 110):
        parameters = policy_of(toy_model).network.named_parameters()
        write(parameters, reference_folder(tmp_path, batch), version=version_of(1, batch))
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == ["110", "60"][:KEPT]


def test_damage_and_absence_are_told(toy_model: Path, tmp_path: Path) -> None:
    reference, folder = ReferencePolicy(policy_of(toy_model), 1.0, CPU), reference_folder(tmp_path, 1)
    with pytest.raises(StorageError, match="cannot be read"):
        reference.load(folder)
    write(policy_of(toy_model).network.named_parameters(), folder, version=version_of(1, 1))
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StorageError, match="size"):
        reference.load(folder)
