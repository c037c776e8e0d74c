"""The doubling scan equals the loop over time: values, gradients, and what stands after an end."""

import pytest
import torch
from rollouts import NAN, naive_scan

from rlbook.functional.scan import reverse_linear_scan


def case(B, T, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    decay = torch.rand(B, T, generator=g, dtype=dtype) * 1.2
    increment = torch.randn(B, T, generator=g, dtype=dtype)
    return decay, increment, torch.rand(B, T, generator=g) < 0.2


def test_by_hand():
    decay = torch.tensor([[0.5, 2.0, 3.0, 7.0]])
    increment = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    ended = torch.zeros(1, 4, dtype=torch.bool)
    x2 = 100 + 3 * 1000
    x1 = 10 + 2 * x2
    expected = [1 + 0.5 * x1, x1, x2, 1000]
    assert reverse_linear_scan(decay, increment, ended=ended).tolist() == [expected]
    ended[0, 1] = True
    expected = [1 + 0.5 * 10, 10, x2, 1000]
    assert reverse_linear_scan(decay, increment, ended=ended).tolist() == [expected]


@pytest.mark.parametrize("T", [*range(1, 18), 31, 32, 33, 100])
def test_equals_the_loop_with_its_gradients(T):
    decay, increment, ended = case(3, T, seed=T)
    weights = torch.randn(3, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for solve in (
        lambda a, b: reverse_linear_scan(a, b, ended=ended),
        lambda a, b: naive_scan(a, b, ended),
    ):
        a, b = decay.clone().requires_grad_(), increment.clone().requires_grad_()
        x = solve(a, b)
        results.append(
            [x, *torch.autograd.grad((weights * x).sum(), (a, b), materialize_grads=True)]
        )
    for ours, loop in zip(*results, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-9, atol=1e-9)


def test_float32_at_two_thousand_steps():
    g = torch.Generator().manual_seed(0)
    increment = torch.randn(4, 2048, generator=g)
    decay, ended = torch.full_like(increment, 0.99 * 0.95), torch.rand(4, 2048, generator=g) < 0.01
    exact = naive_scan(decay.double(), increment.double(), ended)
    ours = reverse_linear_scan(decay, increment, ended=ended).double()
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


def test_a_decay_that_underflows_is_harmless():
    """0.01^2048 is 0 in float64: a formula that divides by it would give NaN."""
    increment = torch.ones(1, 2048, dtype=torch.float64)
    x = reverse_linear_scan(
        torch.full_like(increment, 0.01), increment, ended=torch.zeros(1, 2048, dtype=torch.bool)
    )
    torch.testing.assert_close(x[0, :1000], torch.full((1000,), 1 / 0.99, dtype=torch.float64))


@pytest.mark.parametrize("junk", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("T", [4, 5, 8, 13])
@pytest.mark.parametrize("where", ["increment", "decay"])
def test_nothing_leaks_out_of_what_follows_an_end(junk, T, where):
    """Columns after the first end hold junk; so does the decay of the ended step itself."""
    for end in range(T):
        decay, increment, _ = case(2, T, seed=end)
        ended = torch.zeros(2, T, dtype=torch.bool)
        ended[:, end] = True
        live = slice(0, end + 1)

        def solve(solver, a, b, ended=ended, live=live):
            a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
            x = solver(a, b, ended)[:, live]
            gradients = torch.autograd.grad(x.square().sum(), (a, b), materialize_grads=True)
            return [x, *(gradient[:, live] for gradient in gradients)], gradients

        expected, _ = solve(naive_scan, decay, increment)
        if where == "increment":
            increment[:, end + 1 :] = junk
        else:
            decay[:, end:] = junk
        found, gradients = solve(
            lambda a, b, ended: reverse_linear_scan(a, b, ended=ended), decay, increment
        )
        for ours, clean in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, clean, rtol=1e-9, atol=1e-9)
        if where == "increment":  # junk increments get no gradient; junk decays are the caller's
            assert (gradients[1][:, end + 1 :] == 0).all()


def test_gradcheck():
    decay, increment, ended = case(2, 7, seed=3)
    inputs = (decay.requires_grad_(), increment.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: reverse_linear_scan(a, b, ended=ended), inputs)
