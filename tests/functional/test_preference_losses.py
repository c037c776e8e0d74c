"""Preference losses: hand cases, reductions to each other, and maxima that theory knows."""

import itertools
import math

import pytest
import torch

from rlbook.functional.preference_losses import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    k_wise_loss,
    kto_loss,
    kto_reference_point,
    plackett_luce_loss,
)

LOG = math.log


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_bradley_terry_by_hand():
    # r_w - r_l = log 3: the model gave the label 3/4. A margin of log 3 asks for as much again.
    chosen, rejected = torch.tensor([LOG(3.0), 0.0]).double(), torch.zeros(2).double()
    close(bradley_terry_loss(chosen, rejected), [LOG(4 / 3), LOG(2)], 1e-7)
    close(bradley_terry_loss(chosen, rejected, margin=LOG(3.0)), [LOG(2), LOG(4)], 1e-7)
    each = bradley_terry_loss(chosen, rejected, margin=torch.tensor([LOG(3.0), 0.0]).double())
    close(each, [LOG(2), LOG(2)], 1e-7)


def test_bradley_terry_far_out_neither_overflows_nor_loses_its_slope():
    chosen = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [1000.0, 0.0]
    assert chosen.grad.tolist() == [-1.0, 0.0]


def test_bradley_terry_is_least_at_the_true_odds():
    """With a share p of labels one way, the best difference of scores is log p/(1-p)."""
    p, difference = 0.8, torch.tensor([LOG(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    expected = p * bradley_terry_loss(difference, zero) + (1 - p) * bradley_terry_loss(
        zero, difference
    )
    slope = torch.autograd.grad(expected.sum(), difference)[0]
    close(slope, [0.0])
    close(expected.detach(), [-p * LOG(p) - (1 - p) * LOG(1 - p)])


def test_k_wise_by_hand():
    # scores log 4, log 2, 0: the pairs' odds are 2, 4, 2, so P = 2/3, 4/5, 2/3
    scores = torch.tensor([[LOG(4.0), LOG(2.0), 0.0]], dtype=torch.float64)
    close(k_wise_loss(scores), [(2 * LOG(3 / 2) + LOG(5 / 4)) / 3])


def test_k_wise_is_the_mean_of_its_pairs():
    scores = random(5, 6)
    pairs = itertools.combinations(range(6), 2)
    losses = [bradley_terry_loss(scores[:, i], scores[:, j]) for i, j in pairs]
    close(k_wise_loss(scores), torch.stack(losses).mean(dim=0))


def test_plackett_luce_by_hand():
    # weights 4, 2, 1: first 4/7, then 2/3
    scores = torch.tensor([[LOG(4.0), LOG(2.0), 0.0]], dtype=torch.float64)
    close(plackett_luce_loss(scores), [LOG(7 / 4) + LOG(3 / 2)])


def test_plackett_luce_is_a_distribution_over_rankings():
    scores = random(4)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    close(torch.exp(-plackett_luce_loss(scores[orders])).sum(), 1.0)


@pytest.mark.parametrize("loss", [k_wise_loss, plackett_luce_loss])
def test_a_ranking_of_two_is_bradley_terry(loss):
    scores = random(7, 2)
    close(loss(scores), bradley_terry_loss(scores[:, 0], scores[:, 1]))


@pytest.mark.parametrize("loss", [k_wise_loss, plackett_luce_loss])
def test_rankings_of_unequal_length(loss):
    scores = random(2, 5)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    junk = torch.where(mask, scores, torch.nan).requires_grad_()
    losses = loss(junk, mask)
    close(losses[:1], loss(scores[:1]))
    close(losses[1:], loss(scores[1:, :3]))
    losses.sum().backward()
    assert torch.isfinite(junk.grad).all() and (junk.grad[1, 3:] == 0).all()
    with pytest.raises(ValueError, match=r"prompt 1 has 1 response\(s\)"):
        loss(scores, torch.tensor([[True] * 5, [True] + [False] * 4]))


def test_dpo_by_hand():
    # h = (1 - 0) - (-1 - 0) = 2 in units of log 3; β = ½: σ(log 3) = 3/4
    three = LOG(3.0)
    chosen, rejected = torch.tensor([three]).double(), torch.tensor([-three]).double()
    zero = torch.zeros(1).double()
    close(dpo_loss(chosen, rejected, zero, zero, beta=0.5), [LOG(4 / 3)], 1e-7)
    smooth = dpo_loss(chosen, rejected, zero, zero, beta=0.5, label_smoothing=0.1)
    close(smooth, [0.9 * LOG(4 / 3) + 0.1 * LOG(4)], 1e-7)


def test_dpo_is_bradley_terry_on_implicit_rewards():
    chosen, rejected, ref_chosen, ref_rejected = random(4, 8)
    beta = 0.3
    rewards = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    found = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=beta)
    close(found, bradley_terry_loss(*rewards))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_starts_at_log_two_with_slope_beta_half(smoothing):
    logprobs = random(2, 3)
    chosen, rejected = (x.clone().requires_grad_() for x in logprobs)
    loss = dpo_loss(chosen, rejected, *logprobs, beta=0.4, label_smoothing=smoothing)
    close(loss.detach(), [LOG(2)] * 3)
    slopes = torch.autograd.grad(loss.sum(), (chosen, rejected))
    close(slopes[0], [-0.4 * (0.5 - smoothing)] * 3)
    close(slopes[1], [0.4 * (0.5 - smoothing)] * 3)


def test_dpo_of_the_exact_optimum():
    """π* ∝ π_ref e^{r/β} makes the implicit reward the true one, up to a number that cancels."""
    ref, r, beta = torch.log_softmax(random(5), 0), random(5, seed=1), 0.7
    best = torch.log_softmax(ref + r / beta, 0)
    found = dpo_loss(best[:1], best[3:4], ref[:1], ref[3:4], beta=beta)
    close(found, bradley_terry_loss(r[:1], r[3:4]))


def test_ipo_by_hand_and_at_rest():
    zero = torch.zeros(1).double()
    close(ipo_loss(zero, zero, zero, zero, beta=0.1), [25.0])  # (0 - 5)²
    chosen = torch.tensor([2.0]).double().requires_grad_()
    loss = ipo_loss(chosen, zero, zero, zero, beta=0.25)  # 1/(2β) = 2: nothing more to do
    loss.sum().backward()
    assert loss.item() == 0.0 and chosen.grad.item() == 0.0


def test_kto_by_hand():
    # β (r̂ - z) = 1·(log 3 - 0): σ = 3/4. Good: 1 - 3/4; bad: 1 - σ(-log 3) = 3/4.
    logprobs = torch.tensor([LOG(3.0), LOG(3.0)]).double()
    desirable = torch.tensor([True, False])
    loss = kto_loss(logprobs, torch.zeros(2).double(), desirable, beta=1.0, reference_point=0.0)
    close(loss, [0.25, 0.75], 1e-7)
    weighted = kto_loss(
        logprobs,
        torch.zeros(2).double(),
        desirable,
        beta=2.0,
        reference_point=torch.tensor(LOG(3.0)).double(),
        desirable_weight=3.0,
        undesirable_weight=4.0,
    )
    close(weighted, [1.5, 2.0], 1e-7)


def test_kto_pulls_good_up_and_bad_down():
    logprobs = random(2).requires_grad_()
    desirable = torch.tensor([True, False])
    kto_loss(logprobs, random(2, seed=1), desirable, beta=0.5, reference_point=0.3).sum().backward()
    assert logprobs.grad[0] < 0 < logprobs.grad[1]


def test_kto_reference_point():
    ref = torch.zeros(3)
    point = kto_reference_point(torch.tensor([1.0, 2.0, 0.0], requires_grad=True), ref)
    assert point.item() == 1.0 and not point.requires_grad
    assert kto_reference_point(torch.tensor([-1.0, -2.0, 0.0]), ref).item() == 0.0


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
def test_references_are_constants_and_gradients_are_right(loss):
    arguments = [x.clone().requires_grad_() for x in random(4, 6)]
    loss(*arguments, beta=0.3).sum().backward()
    assert arguments[2].grad is None and arguments[3].grad is None
    close(arguments[0].grad, -arguments[1].grad)
    fixed = [x.detach() for x in arguments[2:]]
    inputs = [x.detach().requires_grad_() for x in arguments[:2]]
    assert torch.autograd.gradcheck(lambda w, lose: loss(w, lose, *fixed, beta=0.3), inputs)


def test_kto_has_a_constant_reference_too():
    logprobs, ref = (x.clone().requires_grad_() for x in random(2, 6))
    desirable = torch.tensor([True, False] * 3)
    kto_loss(logprobs, ref, desirable, beta=0.5, reference_point=0.3).sum().backward()
    assert ref.grad is None and (logprobs.grad != 0).all()
    kto = lambda x: kto_loss(x, ref, desirable, beta=0.5, reference_point=0.3)  # noqa: E731
    assert torch.autograd.gradcheck(kto, (logprobs.detach().requires_grad_(),))


def test_gradcheck_of_the_ranking_losses():
    scores = random(3, 4).requires_grad_()
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]])
    for loss in (k_wise_loss, plackett_luce_loss):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, mask), (scores,))


def test_errors_name_the_value_and_the_remedy():
    x, y = torch.zeros(3), torch.zeros(3)
    for loss in (dpo_loss, ipo_loss):
        with pytest.raises(ValueError, match=r"beta=0\.0 must be above 0"):
            loss(x, y, x, y, beta=0.0)
    for smoothing in (0.5, -0.1):
        with pytest.raises(ValueError, match=rf"label_smoothing={smoothing} must lie in"):
            dpo_loss(x, y, x, y, beta=0.1, label_smoothing=smoothing)
    for point in (-0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"reference_point={point} estimates a KL"):
            kto_loss(x, y, x > 0, beta=0.1, reference_point=point)
