"""TD errors and the losses of a value estimate."""

import pytest
import torch
from rollouts import NAN

from rlbook.functional.value_losses import clipped_value_loss, huber_loss, squared_loss, td_error


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_td_error_by_hand():
    terminated = torch.tensor([False, True])
    delta = td_error(vector(1, 2), vector(10, 20), vector(8, NAN), terminated=terminated, gamma=0.5)
    assert delta.tolist() == [1 + 0.5 * 8 - 10, 2 - 20]


def test_td_error_with_a_discount_of_zero_is_reward_minus_value():
    r, v, nv = random(3, 4, 5)
    terminated = torch.zeros(4, 5, dtype=torch.bool)
    assert torch.equal(td_error(r, v, nv, terminated=terminated, gamma=0.0), r - v)


def test_td_error_is_the_semi_gradient_of_the_squared_loss():
    """With the target held fixed, -∂L/∂V(s) is δ: the TD(0) update of chapter 05."""
    r, v, nv = random(3, 4, 5)
    terminated = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    nothing = torch.zeros_like(v)
    target = td_error(r, nothing, nv, terminated=terminated, gamma=0.9)
    v.requires_grad_()
    gradient = torch.autograd.grad(squared_loss(v, target).sum(), v)[0]
    delta = td_error(r, v, nv, terminated=terminated, gamma=0.9)
    torch.testing.assert_close(-gradient, delta.detach(), rtol=1e-12, atol=1e-12)


def test_losses_by_hand():
    values, targets = vector(1.0, 2.0, -4.0), vector(1.5, 5.0, 0.0)
    assert squared_loss(values, targets).tolist() == [0.5 * 0.5**2, 0.5 * 3**2, 0.5 * 4**2]
    huber = huber_loss(values, targets, delta=3.0)
    assert huber.tolist() == [0.5 * 0.5**2, 0.5 * 3**2, 3 * (4 - 0.5 * 3)]


@pytest.mark.parametrize("delta", [0.1, 1.0, 2.5])
def test_huber_equals_torch_and_bounds_the_gradient(delta):
    values, targets = 3 * random(200), random(200, seed=1)
    values.requires_grad_()
    ours = huber_loss(values, targets, delta=delta)
    theirs = torch.nn.functional.huber_loss(values, targets, reduction="none", delta=delta)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradient = torch.autograd.grad(ours.sum(), values)[0]
    error = (values - targets).detach()
    torch.testing.assert_close(gradient, error.clamp(-delta, delta), rtol=1e-12, atol=1e-12)


def test_a_wide_huber_is_the_squared_loss():
    values, targets = random(2, 50)
    assert torch.equal(huber_loss(values, targets, delta=100.0), squared_loss(values, targets))


# v_old = 0, clip 0.5:  value, target, loss, gradient
CLIPPED = {
    "inside": (0.3, 2.0, 0.5 * 1.7**2, 0.3 - 2.0),
    "moved too far towards the target": (0.8, 2.0, 0.5 * (2.0 - 0.5) ** 2, 0.0),
    "moved too far and beyond it": (0.8, 0.6, 0.5 * (0.8 - 0.6) ** 2, 0.2),
    "moved away from it": (-0.8, 2.0, 0.5 * 2.8**2, -2.8),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_value_loss_by_hand(name):
    value, target, expected, slope = CLIPPED[name]
    values = vector(value).requires_grad_()
    loss = clipped_value_loss(values, vector(0.0), vector(target), clip=0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.sum().backward()
    assert values.grad.item() == pytest.approx(slope, abs=1e-12)


def test_clipped_value_loss_reduces_to_the_squared_loss_and_is_never_below_it():
    values, old, targets = random(3, 300)
    squared = squared_loss(values, targets)
    assert torch.equal(clipped_value_loss(values, values, targets, clip=0.2), squared)
    torch.testing.assert_close(
        clipped_value_loss(values, old, targets, clip=100.0), squared, rtol=1e-12, atol=1e-12
    )
    assert (clipped_value_loss(values, old, targets, clip=0.2) >= squared).all()


def test_targets_are_constants():
    values, targets, old = (x.requires_grad_() for x in random(3, 4))
    for loss in (
        squared_loss(values, targets),
        huber_loss(values, targets),
        clipped_value_loss(values, old, targets, clip=0.1),
    ):
        gradients = torch.autograd.grad(loss.sum(), (values, old, targets), allow_unused=True)
        assert gradients[0] is not None and gradients[1:] == (None, None)


def test_gradcheck():
    values, old, targets = random(3, 20, seed=2)
    values.requires_grad_()
    terminated = torch.arange(20) % 3 == 0
    for function in (
        lambda v: td_error(old, v, targets, terminated=terminated, gamma=0.9),
        lambda v: td_error(old, targets, v, terminated=terminated, gamma=0.9),
        lambda v: squared_loss(v, targets),
        lambda v: huber_loss(v, targets, delta=0.7),
        lambda v: clipped_value_loss(v, old, targets, clip=0.3),
    ):
        assert torch.autograd.gradcheck(function, values)


def test_errors():
    x = vector(1.0)
    with pytest.raises(ValueError, match=r"delta=0\.0 must be above 0"):
        huber_loss(x, x, delta=0.0)
    with pytest.raises(ValueError, match=r"clip=-0\.1 must not be negative"):
        clipped_value_loss(x, x, x, clip=-0.1)
    with pytest.raises(ValueError, match=r"gamma=2\.0 must lie in \[0, 1\]"):
        td_error(x, x, x, terminated=torch.tensor([False]), gamma=2.0)
