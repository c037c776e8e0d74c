"""REINFORCE, PPO's clip, and entropy: values and gradients, case by case."""

import math

import pytest
import torch
from rollouts import jaxtyping_off

from rlbook.functional.policy_losses import (
    action_logprobs,
    cispo_loss,
    clip_active,
    entropy,
    ppo_clip_loss,
    reinforce_loss,
    sequence_level,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, x):
    return torch.autograd.grad(loss.sum(), x)[0]


def test_reinforce_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[3.0, -0.5]], requires_grad=True)
    loss = reinforce_loss(logprobs, advantages)
    assert loss.tolist() == [[-3.0 * -1.0, 0.5 * -2.0]]
    loss.sum().backward()
    assert logprobs.grad.tolist() == [[-3.0, 0.5]]
    assert advantages.grad is None


# clip 0.2 unless the last column says otherwise. As ρ = e^{log π - log π_old}, dL/d log π is
# -ρA where the clip is not active, and 0 where it is.
PPO = [
    # ratio, advantage, loss, gradient, more
    (1.0, 2.0, -2.0, -2.0, {}),
    (1.1, 2.0, -1.1 * 2, -1.1 * 2, {}),
    (1.5, 2.0, -1.2 * 2, 0.0, {}),  # already likelier: no more reward
    (0.5, 2.0, -0.5 * 2, -0.5 * 2, {}),  # less likely though good: full gradient
    (1.5, -2.0, 1.5 * 2, 1.5 * 2, {}),  # likelier though bad: full gradient
    (0.5, -2.0, 0.8 * 2, 0.0, {}),
    (1.4, 2.0, -1.4 * 2, -1.4 * 2, {"clip_high": 0.5}),
    (1.6, 2.0, -1.5 * 2, 0.0, {"clip_high": 0.5}),
    (0.7, -2.0, 0.8 * 2, 0.0, {"clip_high": 0.5}),
    (5.0, -2.0, 5.0 * 2, 5.0 * 2, {}),
    (5.0, -2.0, 3.0 * 2, 0.0, {"dual_clip": 3.0}),
    (2.5, -2.0, 2.5 * 2, 2.5 * 2, {"dual_clip": 3.0}),
    (0.5, -2.0, 0.8 * 2, 0.0, {"dual_clip": 3.0}),
    (5.0, 2.0, -1.2 * 2, 0.0, {"dual_clip": 3.0}),
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "slope", "more"), PPO)
def test_ppo_by_hand(ratio, advantage, expected, slope, more):
    old = torch.tensor([[-1.3]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    loss = ppo_clip_loss(logprobs, old, advantages, clip=0.2, **more)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert gradient(loss, logprobs).item() == pytest.approx(slope, abs=1e-12)
    active = clip_active(logprobs, old, advantages, clip=0.2, **more)
    assert active.item() == float(slope == 0.0)


def test_ppo_at_ratio_one_has_the_gradient_of_reinforce():
    logprobs, advantages = random(2, 6, 7)
    logprobs.requires_grad_()
    for clip in (0.0, 0.2):
        ppo = ppo_clip_loss(logprobs, logprobs.detach(), advantages, clip=clip)
        expected = gradient(reinforce_loss(logprobs, advantages), logprobs)
        torch.testing.assert_close(gradient(ppo, logprobs), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ppo.detach(), -advantages, rtol=1e-12, atol=1e-12)


def test_a_wide_clip_is_importance_sampling():
    logprobs, old, advantages = random(3, 6, 7)
    loss = ppo_clip_loss(logprobs, old, advantages, clip=1e6)
    torch.testing.assert_close(loss, -advantages * (logprobs - old).exp())
    # and the clip never makes the loss smaller: it is a pessimistic bound
    assert (ppo_clip_loss(logprobs, old, advantages, clip=0.2) >= loss - 1e-12).all()
    dual = ppo_clip_loss(logprobs, old, advantages, clip=0.2, dual_clip=3.0)
    assert (dual <= torch.where(advantages < 0, -3.0 * advantages, math.inf)).all()


def test_only_logprobs_carry_gradient():
    logprobs, old, advantages = (x.requires_grad_() for x in random(3, 2, 3))
    loss = ppo_clip_loss(logprobs, old, advantages, clip=0.2, dual_clip=3.0)
    found = torch.autograd.grad(loss.sum(), (logprobs, old, advantages), allow_unused=True)
    assert found[0] is not None and found[1:] == (None, None)


@pytest.mark.parametrize("more", [{}, {"clip_high": 0.4}, {"dual_clip": 2.0}])
def test_clip_active_is_where_the_gradient_vanishes(more):
    logprobs, old, advantages = random(3, 40, 50, seed=1)
    logprobs.requires_grad_()
    slopes = gradient(ppo_clip_loss(logprobs, old, advantages, clip=0.2, **more), logprobs)
    active = clip_active(logprobs, old, advantages, clip=0.2, **more)
    assert torch.equal(active, (slopes == 0).to(active.dtype))
    assert 0.1 < active.mean() < 0.9


def test_the_other_convention_of_the_clip_fraction():
    logprobs = torch.tensor([[1.0, 1.3, 1.3, 0.7, 0.7]]).log()
    old, advantages = torch.zeros(1, 5), torch.tensor([[1.0, 1.0, -1.0, 1.0, -1.0]])
    assert clip_active(logprobs, old, clip=0.2).tolist() == [[0, 1, 1, 1, 1]]
    assert clip_active(logprobs, old, advantages, clip=0.2).tolist() == [[0, 1, 0, 0, 1]]
    assert clip_active(logprobs, old, clip=0.2, clip_high=0.4).tolist() == [[0, 0, 0, 1, 1]]


# --- entropy ---------------------------------------------------------------------------------


def test_entropy_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]], dtype=torch.float64).log()
    expected = [0.5 * math.log(2) + 2 * 0.25 * math.log(4), math.log(3)]
    torch.testing.assert_close(entropy(logits), torch.tensor(expected, dtype=torch.float64))


def test_entropy_equals_torch_and_ignores_a_shift():
    logits = 3 * random(4, 5, 6)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy(logits), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(entropy(logits + 100.0), expected, rtol=1e-9, atol=1e-9)
    assert entropy(logits).shape == (4, 5)


def test_an_action_that_is_ruled_out_adds_nothing():
    logits = random(3, 4)
    ruled_out = torch.cat([logits, torch.full((3, 2), -math.inf)], dim=1).requires_grad_()
    logits = logits.requires_grad_()
    value = entropy(ruled_out)
    torch.testing.assert_close(value, entropy(logits), rtol=1e-12, atol=1e-12)
    slopes = gradient(value, ruled_out)
    expected = gradient(entropy(logits), logits)
    torch.testing.assert_close(slopes[:, :4], expected, rtol=1e-9, atol=1e-9)
    assert (slopes[:, 4:] == 0).all()
    certain = torch.tensor([0.0, -math.inf], requires_grad=True)
    assert entropy(certain).item() == 0.0
    assert gradient(entropy(certain), certain).tolist() == [0.0, 0.0]


# --- log-probabilities of actions ------------------------------------------------------------


def test_action_logprobs_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 2.0, 1.0]], dtype=torch.float64).log() + 5.0
    found = action_logprobs(logits, torch.tensor([1, 1]))
    expected = torch.tensor([math.log(0.25), math.log(2 / 4)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_action_logprobs_equal_torch_with_their_gradient():
    logits = 3 * random(4, 5, 6)
    logits[..., 0] = -math.inf  # ruled out, and never taken
    logits.requires_grad_()
    actions = torch.randint(1, 6, (4, 5), generator=torch.Generator().manual_seed(0))
    found = action_logprobs(logits, actions)
    expected = torch.distributions.Categorical(logits=logits).log_prob(actions)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    slopes = torch.nn.functional.one_hot(actions, 6) - logits.detach().softmax(-1)
    torch.testing.assert_close(gradient(found, logits), slopes, rtol=1e-9, atol=1e-9)


def test_actions_must_fit_the_logits():
    message = r"actions have shape \(2, 1\), but logits \(2, 3\) need one action per row"
    with jaxtyping_off(), pytest.raises(ValueError, match=message):
        action_logprobs(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.long))


def test_gradcheck():
    logprobs, old, advantages = random(3, 4, 5, seed=2)
    logprobs.requires_grad_()
    more = {"clip": 0.2, "clip_high": 0.3, "dual_clip": 2.0}
    for function in (
        lambda x: reinforce_loss(x, advantages),
        lambda x: ppo_clip_loss(x, old, advantages, **more),
        entropy,
        lambda x: action_logprobs(x, torch.tensor([4, 0, 2, 2])),
    ):
        assert torch.autograd.gradcheck(function, logprobs)


@pytest.mark.parametrize("function", [ppo_clip_loss, clip_active])
def test_errors(function):
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"clip=-0\.2, clip_high=-0\.2: neither may be negative"):
        function(x, x, x, clip=-0.2)
    with pytest.raises(ValueError, match=r"clip=0\.2, clip_high=-1\.0"):
        function(x, x, x, clip=0.2, clip_high=-1.0)
    with pytest.raises(ValueError, match=r"dual_clip=1\.0 must exceed 1"):
        function(x, x, x, clip=0.2, dual_clip=1.0)


def test_cispo_by_hand():
    # ratio 2, clipped to 1.5: the weight is 1.5, its gradient -1.5·A; PPO's would be 0
    old = torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64)
    ratios = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
    advantages = torch.tensor([[2.0, -3.0, 1.0]], dtype=torch.float64)
    logprobs = (old + ratios.log()).requires_grad_()
    loss = cispo_loss(logprobs, old, advantages, clip_high=0.5)
    weights = torch.tensor([[1.5, 0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(loss, -weights * advantages * logprobs, rtol=0, atol=1e-12)
    slope = gradient(loss, logprobs)
    torch.testing.assert_close(slope, -weights * advantages, rtol=0, atol=1e-12)
    lower = cispo_loss(logprobs, old, advantages, clip_high=0.5, clip=0.2)
    assert lower[0, 1].item() == pytest.approx(0.8 * 3.0 * logprobs[0, 1].item(), abs=1e-12)


def test_cispo_at_ratio_one_is_reinforce():
    logprobs, advantages = random(2, 6, 7)
    found = cispo_loss(logprobs, logprobs, advantages, clip_high=0.2, clip=0.2)
    torch.testing.assert_close(found, reinforce_loss(logprobs, advantages), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="neither may be negative"):
        cispo_loss(logprobs, logprobs, advantages, clip_high=-0.1)


def test_one_ratio_for_a_whole_response():
    # log-ratios log 4 and 0 over two tokens: s = 2 on both; the third cell does not count
    old = torch.tensor([[-3.0, -1.0, -9.0]], dtype=torch.float64)
    move = torch.tensor([[math.log(4.0), 0.0, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    logprobs = (old + move).requires_grad_()
    found = sequence_level(logprobs, old, mask)
    two = math.log(2.0)
    expected = torch.tensor([[-3.0 + two, -1.0 + two, -9.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    # GSPO's loss: -min(s A, clip(s) A) for the response; each of its |y| tokens gets s A / |y|
    A = torch.full((1, 3), -1.5, dtype=torch.float64)
    loss = ppo_clip_loss(found, old, A, clip=0.3)
    torch.testing.assert_close(loss[0, :2], torch.tensor([3.0, 3.0], dtype=torch.float64))
    mean = torch.where(mask, loss, 0.0).sum() / 2
    slope = torch.autograd.grad(mean, logprobs)[0]
    expected = torch.tensor([[1.5, 1.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)


def test_sequence_level_of_single_tokens_changes_nothing():
    logprobs, old = random(2, 5, 1)
    found = sequence_level(logprobs, old, torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(found, logprobs, rtol=0, atol=1e-12)


def test_a_response_as_one_action_has_the_product_of_its_ratios():
    """log 4 over two tokens: s = 4 on both, not 2; the loss of a response is s A, once."""
    old = torch.tensor([[-3.0, -1.0, -9.0]], dtype=torch.float64)
    move = torch.tensor([[math.log(8.0), -math.log(2.0), 5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    logprobs = (old + move).requires_grad_()
    found = sequence_level(logprobs, old, mask, per_token=False)
    four = math.log(4.0)
    expected = torch.tensor([[-3.0 + four, -1.0 + four, -9.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    A = torch.full((1, 3), -1.5, dtype=torch.float64)
    loss = ppo_clip_loss(found, old, A, clip=0.3)
    slope = torch.autograd.grad(torch.where(mask, loss, 0.0).sum() / 2, logprobs)[0]
    expected = torch.tensor([[6.0, 6.0, 0.0]], dtype=torch.float64)  # s A of the whole, per token
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)


def test_the_geometric_mean_is_the_root_of_the_product():
    logprobs, old = random(2, 6, 5)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4], [2], [5]])
    mean, product = (
        (sequence_level(logprobs, old, mask, per_token=each) - old)[:, 0] for each in (True, False)
    )
    torch.testing.assert_close(mean * mask.sum(dim=1), product, rtol=0, atol=1e-12)
    plain = [sum((logprobs - old)[i][mask[i]].tolist()) for i in range(6)]
    assert product.tolist() == pytest.approx(plain, abs=1e-12)


def test_sequence_level_keeps_junk_out():
    logprobs, old = random(2, 3, 4)
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    junk = torch.where(mask, logprobs, torch.nan).requires_grad_()
    found = sequence_level(junk, old, mask)
    torch.testing.assert_close(found, sequence_level(logprobs, old, mask), rtol=0, atol=0)
    assert torch.isfinite(gradient(found, junk)).all()
