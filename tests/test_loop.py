"""The few lines that every training loop shares."""

import pytest
import torch

from rlbook.loop import mean_metrics, minibatches, optimiser_step, set_learning_rate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_minibatches_are_a_shuffled_partition():
    pieces = list(minibatches(12, 3, generator=seeded()))
    assert [len(piece) for piece in pieces] == [4, 4, 4]
    order = torch.cat(pieces)
    assert sorted(order.tolist()) == list(range(12))
    assert order.tolist() != list(range(12))
    assert torch.equal(order, torch.cat(list(minibatches(12, 3, generator=seeded()))))


@pytest.mark.parametrize("parts", [5, 0, 24])
def test_unequal_minibatches_are_refused(parts):
    with pytest.raises(ValueError, match=f"12 samples cannot be cut into {parts}"):
        list(minibatches(12, parts, generator=seeded()))


def step(loss_of, *, max_grad_norm=None, start=((3.0,), (4.0,))):
    """One step of SGD, rate 1, from two parameters; where they are then, and the norm."""
    parameters = [torch.tensor(x, requires_grad=True) for x in start]
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    norm = optimiser_step(optimiser, loss_of(*parameters), max_grad_norm=max_grad_norm)
    return [p.item() for p in parameters], norm


def half_square(x, y):
    return (0.5 * (x**2 + y**2)).sum()


def test_a_step_goes_down_the_gradient():
    """The gradient of ½(x² + y²) at (3, 4) is (3, 4), of length 5."""
    assert step(half_square) == ([0.0, 0.0], 5.0)
    assert step(half_square, max_grad_norm=6.0) == ([0.0, 0.0], 5.0)


def test_a_long_gradient_is_scaled_as_a_whole():
    """To length 1: (0.6, 0.8)."""
    moved, norm = step(half_square, max_grad_norm=1.0)
    assert moved == pytest.approx([2.4, 3.2], abs=1e-5)
    assert norm == 5.0


def test_gradients_do_not_add_up_over_steps():
    x = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=0.5)
    for _ in range(2):
        optimiser_step(optimiser, (3.0 * x).sum())
    assert x.item() == pytest.approx(1.0 - 2 * 0.5 * 3.0)


def test_a_loss_or_gradient_that_is_not_finite_is_refused_before_anything_moves():
    x = torch.tensor([0.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=1.0)
    with pytest.raises(ValueError, match="the loss is nan"):
        optimiser_step(optimiser, (x / x).sum())
    with pytest.raises(ValueError, match=r"the loss is 0.0, but its gradient is inf"):
        optimiser_step(optimiser, x.sqrt().sum())
    with pytest.raises(ValueError, match=r"its gradient is nan"):
        optimiser_step(optimiser, torch.where(x > 0, x.sqrt(), 0.0 * x).sum(), max_grad_norm=1.0)
    assert x.item() == 0.0


def test_every_group_gets_the_learning_rate():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 7.0}]
    optimiser = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


def test_metrics_are_averaged_by_name():
    rows = iter([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 5.0}])
    assert mean_metrics(rows) == {"a": 2.0, "b": 5.0}
