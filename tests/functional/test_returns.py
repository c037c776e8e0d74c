"""Returns and advantages: by hand, against plain loops, by reduction, and with junk after ends."""

import numpy as np
import pytest
import torch
from rollouts import NAN, Rollouts, naive_gae, naive_n_step
from scipy.signal import lfilter

from rlbook.functional.returns import discounted_returns, gae, lambda_returns, n_step_returns
from rlbook.functional.value_losses import td_error

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def flags(text):
    """ "..T." -> terminated and ended [1, 4]; T terminates, U truncates, . goes on."""
    terminated = torch.tensor([[letter == "T" for letter in text]])
    return terminated, torch.tensor([[letter in "TU" for letter in text]])


# --- by hand ---------------------------------------------------------------------------------


def test_discounted_returns_by_hand():
    rewards = row(1, 2, 4)
    assert discounted_returns(rewards, gamma=0.5).tolist() == [
        [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4]
    ]
    terminated, ended = flags(".T.")
    next_values = row(NAN, NAN, 8)  # read at the cut-off alone
    assert discounted_returns(
        rewards, gamma=0.5, terminated=terminated, ended=ended, next_values=next_values
    ).tolist() == [[1 + 0.5 * 2, 2, 4 + 0.5 * 8]]
    terminated, ended = flags(".UT")
    assert discounted_returns(
        rewards, gamma=0.5, terminated=terminated, ended=ended, next_values=row(NAN, 16, NAN)
    ).tolist() == [[1 + 0.5 * (2 + 0.5 * 16), 2 + 0.5 * 16, 4]]


def test_the_defaults_of_discounted_returns():
    rewards, (terminated, _) = row(1, 2, 4), flags(".T.")
    expected = [[1 + 2, 2, 4]]
    assert discounted_returns(rewards, gamma=1.0, terminated=terminated).tolist() == expected
    assert discounted_returns(rewards, gamma=1.0, ended=terminated).tolist() == expected
    # ended alone is a truncation: with next_values it bootstraps
    assert discounted_returns(
        rewards, gamma=1.0, ended=terminated, next_values=row(NAN, 10, 20)
    ).tolist() == [[1 + 2 + 10, 2 + 10, 4 + 20]]


def test_gae_by_hand():
    rewards, values, next_values = row(1, 2, 3), row(10, 20, 30), row(21, 31, 41)
    terminated, ended = flags("...")
    deltas = [1 + 0.5 * 21 - 10, 2 + 0.5 * 31 - 20, 3 + 0.5 * 41 - 30]
    a2 = deltas[2]
    a1 = deltas[1] + 0.5 * 0.8 * a2
    advantages = gae(
        rewards, values, next_values, terminated=terminated, ended=ended, gamma=0.5, lam=0.8
    )
    torch.testing.assert_close(advantages, row(deltas[0] + 0.5 * 0.8 * a1, a1, a2), **EXACT)


def test_gae_stops_at_both_kinds_of_end():
    """Column 0 terminates (no bootstrap), column 1 is truncated (bootstraps, then stops)."""
    terminated, ended = flags("TU.")
    advantages = gae(
        row(1, 2, 3),
        row(10, 20, 30),
        row(NAN, 31, 41),
        terminated=terminated,
        ended=ended,
        gamma=0.5,
        lam=0.8,
    )
    expected = row(1 - 10, 2 + 0.5 * 31 - 20, 3 + 0.5 * 41 - 30)
    torch.testing.assert_close(advantages, expected, **EXACT)


def test_n_step_returns_by_hand():
    terminated, ended = flags("...T.")
    returns = n_step_returns(
        row(1, 2, 4, 8, 16),
        row(10, 20, 30, NAN, 50),
        n=2,
        terminated=terminated,
        ended=ended,
        gamma=0.5,
    )
    expected = row(1 + 1 + 0.25 * 20, 2 + 2 + 0.25 * 30, 4 + 0.5 * 8, 8, 16 + 0.5 * 50)
    torch.testing.assert_close(returns, expected, **EXACT)


def test_a_terminated_step_ends_whatever_ended_says():
    r, f = Rollouts.random(4, 9, seed=0), {"gamma": 0.9}
    none = torch.zeros_like(r.ended)
    for ours, expected in [
        (
            gae(
                r.rewards,
                r.values,
                r.next_values,
                terminated=r.terminated,
                ended=none,
                lam=0.7,
                **f,
            ),
            gae(
                r.rewards,
                r.values,
                r.next_values,
                terminated=r.terminated,
                ended=r.terminated,
                lam=0.7,
                **f,
            ),
        ),
        (
            discounted_returns(r.rewards, terminated=r.terminated, ended=none, **f),
            discounted_returns(r.rewards, terminated=r.terminated, **f),
        ),
    ]:
        assert torch.equal(ours, expected)


# --- against plain loops and an outside library ----------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 3, 7, 8, 20])
@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.7), (1.0, 1.0), (0.5, 0.0), (0.0, 0.5)])
def test_gae_equals_its_definition(T, gamma, lam):
    r = Rollouts.random(5, T, seed=T)
    advantages = gae(r.rewards, r.values, r.next_values, **r.flags, gamma=gamma, lam=lam)
    torch.testing.assert_close(advantages, naive_gae(r, gamma, lam), **EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12, 13, 50])
def test_n_step_returns_equal_their_definition(n):
    r = Rollouts.random(6, 13, seed=n)
    returns = n_step_returns(r.rewards, r.next_values, n=n, **r.flags, gamma=0.8)
    torch.testing.assert_close(returns, naive_n_step(r, n, 0.8), **EXACT)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_lambda_returns_are_the_mean_of_the_n_step_returns(lam):
    """(1-λ) Σ_{n<T} λ^{n-1} G^(n) + λ^{T-1} G^(T). Beyond an end all n-step returns are equal, so
    the weights that the definition gives to the longest one add up by themselves."""
    T = 11
    r = Rollouts.random(6, T, seed=5)
    expected = lam ** (T - 1) * naive_n_step(r, T, 0.9)
    for n in range(1, T):
        expected += (1 - lam) * lam ** (n - 1) * naive_n_step(r, n, 0.9)
    returns = lambda_returns(r.rewards, r.next_values, **r.flags, gamma=0.9, lam=lam)
    torch.testing.assert_close(returns, expected, **EXACT)


def test_discounted_returns_equal_a_filter_of_scipy():
    r = Rollouts.random(3, 500, seed=0)
    expected = lfilter([1.0], [1.0, -0.97], r.rewards.numpy()[:, ::-1], axis=1)[:, ::-1]
    returns = discounted_returns(r.rewards, gamma=0.97)
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-9, atol=1e-9)


# --- reductions ------------------------------------------------------------------------------


def test_the_two_ends_of_lambda():
    r = Rollouts.random(8, 17, seed=1)
    advantages = {
        lam: gae(r.rewards, r.values, r.next_values, **r.flags, gamma=0.9, lam=lam)
        for lam in (0.0, 1.0)
    }
    delta = td_error(r.rewards, r.values, r.next_values, terminated=r.terminated, gamma=0.9)
    torch.testing.assert_close(advantages[0.0], delta, **EXACT)

    # λ = 1 telescopes where V(s_{t+1}) is one number, seen from either side
    r.next_values[:, :-1] = torch.where(r.ended[:, :-1], r.next_values[:, :-1], r.values[:, 1:])
    advantages = gae(r.rewards, r.values, r.next_values, **r.flags, gamma=0.9, lam=1.0)
    returns = discounted_returns(r.rewards, gamma=0.9, **r.flags, next_values=r.next_values)
    torch.testing.assert_close(advantages, returns - r.values, **EXACT)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_gae_plus_values_is_the_lambda_return(lam):
    r = Rollouts.random(8, 17, seed=2)
    r.next_values[:, :-1] = torch.where(r.ended[:, :-1], r.next_values[:, :-1], r.values[:, 1:])
    settings = {**r.flags, "gamma": 0.9, "lam": lam}
    advantages = gae(r.rewards, r.values, r.next_values, **settings)
    returns = lambda_returns(r.rewards, r.next_values, **settings)
    torch.testing.assert_close(advantages + r.values, returns, **EXACT)


def test_the_two_ends_of_n():
    r = Rollouts.random(8, 17, seed=3)
    one = n_step_returns(r.rewards, r.next_values, n=1, **r.flags, gamma=0.9)
    bootstrap = torch.where(r.terminated, 0.0, r.next_values)
    torch.testing.assert_close(one, r.rewards + 0.9 * bootstrap, **EXACT)
    full = discounted_returns(r.rewards, gamma=0.9, **r.flags, next_values=r.next_values)
    longest = n_step_returns(r.rewards, r.next_values, n=17, **r.flags, gamma=0.9)
    assert torch.equal(longest, full)
    just_short = n_step_returns(r.rewards, r.next_values, n=16, **r.flags, gamma=0.9)
    torch.testing.assert_close(just_short[:, 1:], full[:, 1:], **EXACT)


# --- metamorphic: junk, order, cutting a row in two --------------------------------------------

ALL = {
    "discounted": lambda r, v, nv, f: discounted_returns(r, gamma=0.9, **f, next_values=nv),
    "n-step": lambda r, v, nv, f: n_step_returns(r, nv, n=3, **f, gamma=0.9),
    "lambda": lambda r, v, nv, f: lambda_returns(r, nv, **f, gamma=0.9, lam=0.7),
    "gae": lambda r, v, nv, f: gae(r, v, nv, **f, gamma=0.9, lam=0.7),
}


@pytest.mark.parametrize("junk", [NAN, float("inf")])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_what_stands_after_an_end_leaks_nowhere(name, how, junk):
    """Row b ends after b + 1 steps; everything behind is junk, V after a termination too."""
    B = T = 8
    r, compute = Rollouts.random(B, T, seed=4), ALL[name]
    ended = torch.eye(T, dtype=torch.bool)
    terminated = ended if how == "terminated" else torch.zeros_like(ended)
    after = torch.ones(B, T, dtype=torch.bool).triu(1)
    f = {"terminated": terminated, "ended": ended}

    def run(dirty):
        inputs = [r.rewards.clone(), r.values.clone(), r.next_values.clone()]
        if dirty:
            for x in inputs:
                x[after] = junk
            inputs[2][terminated] = junk
        for x in inputs:
            x.requires_grad_()
        out = compute(*inputs, f)
        loss = torch.where(after, 0.0, out).square().sum()
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return torch.where(after, 0.0, out), [g for g in gradients if g is not None]

    (clean, clean_gradients), (dirty, dirty_gradients) = run(False), run(True)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    for ours, expected in zip(dirty_gradients, clean_gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_touch_each_other(name):
    r, compute = Rollouts.random(6, 10, seed=6), ALL[name]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    out = compute(r.rewards, r.values, r.next_values, r.flags)
    f = {key: x[order] for key, x in r.flags.items()}
    shuffled = compute(r.rewards[order], r.values[order], r.next_values[order], f)
    assert torch.equal(shuffled, out[order])


@pytest.mark.parametrize("name", ALL)
def test_an_end_is_a_place_to_cut_a_row_in_two(name):
    r, compute = Rollouts.random(6, 12, seed=7), ALL[name]
    r.ended[:, 4] = True
    whole = compute(r.rewards, r.values, r.next_values, r.flags)
    parts = [
        compute(
            r.rewards[:, part],
            r.values[:, part],
            r.next_values[:, part],
            {key: x[:, part] for key, x in r.flags.items()},
        )
        for part in (slice(0, 5), slice(5, 12))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **EXACT)


@pytest.mark.parametrize("name", ALL)
def test_float32_agrees_with_float64(name):
    r, compute = Rollouts.random(4, 300, seed=8), ALL[name]
    single = compute(r.rewards.float(), r.values.float(), r.next_values.float(), r.flags)
    double = compute(r.rewards, r.values, r.next_values, r.flags)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name):
    r, compute = Rollouts.random(2, 5, seed=9), ALL[name]
    inputs = [x.requires_grad_() for x in (r.rewards, r.values, r.next_values)]
    assert torch.autograd.gradcheck(lambda *x: compute(*x, r.flags), inputs)


# --- errors ----------------------------------------------------------------------------------


def test_numbers_out_of_range():
    r = Rollouts.random(2, 3, seed=0)
    with pytest.raises(ValueError, match=r"gamma=1.5 must lie in \[0, 1\]"):
        discounted_returns(r.rewards, gamma=1.5)
    with pytest.raises(ValueError, match=r"lam=-0\.1"):
        gae(r.rewards, r.values, r.next_values, **r.flags, gamma=0.9, lam=-0.1)
    with pytest.raises(ValueError, match=r"lam=2\.0"):
        lambda_returns(r.rewards, r.next_values, **r.flags, gamma=0.9, lam=2.0)
    with pytest.raises(ValueError, match="n=0 must be at least 1 step"):
        n_step_returns(r.rewards, r.next_values, n=0, **r.flags, gamma=0.9)
