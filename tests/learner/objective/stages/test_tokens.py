"""Token weights: small batches worked out by hand, and the entropy change against differences of the softmax."""

import math

import pytest
import torch

from isentrope.kernels import plain
from isentrope.learner.objective.stages import tokens

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_top_entropy_keeps_what_is_at_least_the_quantile() -> None:
    entropy = torch.tensor([[0.1, 0.5, 0.3], [0.4, 0.2, 9.0]])
    # sorted .1 .2 .3 .4 .5; the 0.6 quantile is .34
    kept = tokens.top_entropy(entropy, MASK, keep=0.4)
    assert kept[MASK].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_top_covariance_takes_a_floor_of_the_share_but_at_least_one() -> None:
    logp = torch.tensor([[-1.0, -3.0, -2.0], [-2.0, -4.0, 0.0]])
    advantage = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 5.0]])
    # means -2.4 and 0.2; covariances 1.12, -0.48, 0.32; -0.48, 1.92
    one = tokens.top_covariance(logp, advantage, MASK, share=0.3)
    assert one.tolist() == [[False, False, False], [False, True, False]]
    assert tokens.top_covariance(logp, advantage, MASK, share=1e-9).sum() == 1
    two = tokens.top_covariance(logp, advantage, MASK, share=0.4)
    assert two.tolist() == [[True, False, False], [False, True, False]]
    assert torch.equal(tokens.top_cov(logp, advantage, MASK, share=0.4), (~two).float())


def test_equal_covariances_are_cut_in_order() -> None:
    flat, two = torch.zeros(2, 3), torch.ones(2, 3)
    chosen = tokens.top_covariance(flat, two, MASK, share=0.4)
    assert chosen.tolist() == [[True, True, False], [False, False, False]]


def test_band_covariance_draws_among_candidates_by_the_smallest_numbers() -> None:
    logp = torch.tensor([[-1.0, -3.0, -2.0], [-2.0, -4.0, 0.0]])
    advantage = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 5.0]])
    uniform = torch.tensor([[0.9, 0.0, 0.5], [0.1, 0.8, 0.0]])
    free = torch.zeros_like(MASK)
    keys = {"low": 0.0, "high": 1.5}  # candidates: covariances 1.12 and 0.32
    found = tokens.band_cov(logp, advantage, MASK, free, uniform, share=0.2, **keys)
    assert found.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    clipped = torch.tensor([[False, False, True], [False, False, False]])
    found = tokens.band_cov(logp, advantage, MASK, clipped, uniform, share=1.0, **keys)
    assert found.tolist() == [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_discriminator_drops_wrong_tokens_far_below_the_mean() -> None:
    p = torch.tensor([[0.5, 0.1, 0.1], [0.5, 0.1, 0.9]], dtype=torch.float64)
    # S = p (log p + H) with these H: 0.5, -0.1, -0.1; 0.5, -0.1 and one off the mask. Mean 0.14, deviation 0.294
    score = torch.tensor([[0.5, -0.1, -0.1], [0.5, -0.1, -9.0]], dtype=torch.float64)
    advantage = torch.tensor([[-1.0, -1.0, 1.0], [-1.0, 0.0, -1.0]], dtype=torch.float64)
    arguments = (p.log(), score / p - p.log(), advantage, MASK)
    assert tokens.discriminator(*arguments, deviations=0.8)[MASK].tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert tokens.discriminator(*arguments, deviations=0.9)[MASK].tolist() == [1.0] * 5
    assert tokens.discriminator(p.log(), 0.1 / p - p.log(), advantage, MASK, deviations=0.0)[MASK].all()


def test_centred_discriminator_drops_the_largest_falls_up_to_a_share() -> None:
    """Uniform over two tokens, H = log 2: S is 0 for each, so D is what the sums of squares are chosen to make it."""
    half = torch.full((2, 3), 0.5, dtype=torch.float64)
    fall = torch.tensor([[0.9, 1.0, 0.2], [1.1, 0.3, 9.0]], dtype=torch.float64)  # the last one is off the mask
    advantage = torch.tensor([[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0]], dtype=torch.float64)
    arguments = (half.log(), -half.log(), half * 0, fall, advantage, MASK)  # mean 0.7, deviation 0.374
    found = {
        (deviations, share): tokens.centred_discriminator(*arguments, deviations=deviations, share=share)[MASK].tolist()
        for deviations, share in ((2.0, 1.0), (2.0, 0.2), (2.0, 1e-4), (2.6, 1.0), (2.7, 1.0), (0.0, 1.0))
    }
    assert found == {
        (2.0, 1.0): [0.0, 0.0, 1.0, 1.0, 1.0],
        (2.0, 0.2): [1.0, 0.0, 1.0, 1.0, 1.0],
        (2.0, 1e-4): [1.0, 0.0, 1.0, 1.0, 1.0],
        (2.6, 1.0): [1.0, 0.0, 1.0, 1.0, 1.0],
        (2.7, 1.0): [1.0] * 5,
        (0.0, 1.0): [0.0, 0.0, 0.0, 1.0, 0.0],
    }
    same = (*arguments[:3], torch.full_like(fall, 0.5), *arguments[4:])
    assert tokens.centred_discriminator(*same, deviations=0.0)[MASK].all(), "equal falls drop nothing"


def test_positive_weight_and_step_labels() -> None:
    a = torch.tensor([[2.0, 0.0, -1.0]])
    assert tokens.positive_weight(a, value=0.25).tolist() == [[0.25, 1.0, 1.0]]
    step = torch.tensor([[True, False], [True, False]])
    assert tokens.step_labels(torch.tensor([False, True]), step, beta=-0.5).tolist() == [[-0.5, 1.0], [1.0, 1.0]]


def test_low_entropy_covariance_weighs_the_ends_of_the_low_set() -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.9]])
    logp = torch.tensor([[-1.0, -2.0, -3.0, -4.0, 0.0]])
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0, 9.0]])
    mask = torch.ones(1, 5, dtype=torch.bool)
    # the first four are low; covariances about their own means: 1.5, 0.5, 0.5, 1.5
    found = tokens.low_entropy_covariance(logp, entropy, advantage, mask, low=0.8, share=0.25, rest=0.1)
    assert found.tolist() == [[2.0, 0.5, pytest.approx(0.1), pytest.approx(0.1), 0.0]]


def test_damping_is_exponential_or_linear_in_the_absolute_score() -> None:
    score = torch.tensor([[0.0, -1.0, 2.0, math.nan]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    falling = tokens.damp(score, mask, map="exponential", min=0.64, max=1.0, floor=0.0)
    torch.testing.assert_close(falling, torch.tensor([[1.0, 0.8, 0.64, 1.0]]))
    line = tokens.damp(score, mask, map="linear", min=0.8, max=1.2, floor=0.0)
    torch.testing.assert_close(line, torch.tensor([[1.2, 1.0, 0.8, 1.2]]))
    equal = tokens.damp(torch.ones(1, 4), mask, map="linear", min=0.8, max=1.2, floor=0.0)
    torch.testing.assert_close(equal, torch.ones(1, 4))
    small = tokens.damp(torch.full((1, 4), 0.01), mask, map="exponential", min=0.64, max=1.0, floor=0.02)
    torch.testing.assert_close(small, torch.full((1, 4), 0.8))


def test_entropy_change_damps_the_paper_score() -> None:
    logp, entropy = torch.tensor([[math.log(0.5), math.log(0.25)]]), torch.tensor([[1.0, 1.0]])
    a, mask = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool)
    scores = [
        0.5 * (math.log(0.5) + 1),
        2 * 0.75 * (math.log(0.25) + 1),
    ]  # (A / p_old) p (1 - p) (log p + H), p = p_old
    u = [abs(s) for s in scores]
    found = tokens.entropy_change(logp, logp, entropy, a, mask, min=0.8)
    assert found.tolist()[0] == pytest.approx([math.exp(x * math.log(0.8) / max(u)) for x in u], rel=1e-5)


def test_exact_entropy_change_is_the_derivative_of_the_entropy() -> None:
    """A step eta on (p / p_old) A of one sampled token moves its logits; the entropy then changes by this much times
    eta."""
    torch.manual_seed(0)
    logits = torch.randn(50, 11, dtype=torch.float64) * 2
    targets = torch.randint(11, (50,))
    a, old = torch.randn(50).double(), torch.randn(50).double() * 0.3
    moments = plain.moments(logits, targets)
    logp_old = moments.logp + old
    leaf = logits.clone().requires_grad_()
    logp, _ = plain.logp_entropy(leaf, targets)
    (direction,) = torch.autograd.grad(((logp - logp_old).exp() * a).sum(), leaf)
    eta = 1e-6
    up = plain.moments(logits + eta * direction, targets).entropy
    down = plain.moments(logits - eta * direction, targets).entropy
    found = tokens.exact_entropy_change(moments.logp, logp_old, moments.entropy, moments.sum_p2, moments.sum_p2_logp, a)
    torch.testing.assert_close(found, (up - down) / (2 * eta), rtol=1e-6, atol=1e-9)


def test_entropy_change_exact_damps_the_exact_score() -> None:
    logp, entropy = torch.tensor([[math.log(0.5)] * 2]), torch.tensor([[math.log(2.0)] * 2])
    sums = torch.tensor([[0.5] * 2]), torch.tensor([[0.5 * math.log(0.5)] * 2])
    mask = torch.ones(1, 2, dtype=torch.bool)
    # a uniform distribution is a maximum of entropy: no first-order change, so nothing to damp
    found = tokens.entropy_change_exact(logp, logp, entropy, *sums, torch.tensor([[1.0, -3.0]]), mask, min=0.5)
    torch.testing.assert_close(found, torch.ones(1, 2))


def test_selected_count_is_not_fooled_by_binary_fractions() -> None:
    assert tokens.selected_count(torch.ones(1, 100, dtype=torch.bool), 0.29) == 29
