"""Closed forms of bias and noise, against enumeration of everything that is random."""

import itertools
import math

import pytest
import torch

from rlbook.functional.credit import step_advantages
from rlbook.lm.exact import enumerate_responses, policy_gradient
from rlbook.lm.groups import Groups
from rlbook.lm.tabular_lm import TabularLM
from rlbook.studies.exact_credit import (
    GROUP_METHODS,
    KINDS,
    Enumerated,
    compared,
    critic_of,
    with_group,
    with_rollouts,
    with_values,
    world,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def small(kind, prompts=2, T=2):
    """A random table; the names of its text space; rewards of 0 and 1, or any."""
    names = [[n] for n in range(prompts)]
    make = TabularLM.fixed_length if kind == "fixed" else TabularLM.with_eos
    V = 2 if kind == "fixed" else 3
    return make(seeded(0), prompts=names, vocab_size=V, max_new_tokens=T)


def tied_model(T=2):
    """Equal rows in all states of one prompt and place."""
    model = TabularLM([[0], [1]], vocab_size=2, max_new_tokens=T)
    place = torch.tensor([len(prefix) for prefix in model.space.prefixes])
    rows = torch.randn(2, T, 2, generator=seeded(3), dtype=torch.float64)
    return model.like(rows[:, place].reshape(len(model.space), 2))


def gradients_by_response(w, A):
    """g(y) [B, D, V] by a slow loop."""
    pi = w.model.table.detach().softmax(dim=-1)
    out = torch.zeros(len(A), w.rows, pi.shape[1], dtype=torch.float64)
    every = torch.arange(len(A))
    for t in range(A.shape[1]):
        rows, weight = w.row[w.states[:, t]], torch.where(w.mask[:, t], A[:, t], 0.0)
        out[every, rows] -= weight[:, None] * pi[w.states[:, t]]
        out[every, rows, w.tokens[:, t]] += weight
    return out


def moments(pairs):
    """E[g] and E|g - E[g]|² of (probability, g)."""
    pairs = list(pairs)
    assert sum(p for p, _ in pairs) == pytest.approx(1.0, abs=1e-9)
    mean = sum(p * g for p, g in pairs)
    return mean, float(sum(p * (g - mean).square().sum() for p, g in pairs))


def continuations(w, s):
    """(probability, reward) of every way to go on from state s."""
    found = []
    for y, path in enumerate(w.states.tolist()):
        here = [t for t in range(int(w.mask[y].sum())) if path[t] == s]
        if here:
            logs = torch.log_softmax(w.model.table.detach(), dim=-1)
            steps = range(here[0], int(w.mask[y].sum()))
            log_p = sum(float(logs[path[t], w.tokens[y, t]]) for t in steps)
            found.append((math.exp(log_p), float(w.rewards[y])))
    return found


def estimates(w, s, K):
    """(probability, V̂(s)) of every K-tuple of continuations, equal values put together."""
    found = {}
    for draw in itertools.product(continuations(w, s), repeat=K):
        value = round(sum(r for _, r in draw) / K, 12)
        found[value] = found.get(value, 0.0) + math.prod(p for p, _ in draw)
    return [(p, v) for v, p in found.items()]


def brute_force(w, K, group):
    """VinePPO, by every group and every outcome of every rollout."""
    total, first, second = 0.0, 0.0, 0.0
    M, S = len(w.chance) // w.N, len(w.V) // w.N
    for n in range(w.N):
        groups = torch.tensor(list(itertools.product(range(n * M, (n + 1) * M), repeat=group)))
        often = w.chance[groups].prod(dim=1) / w.N
        states = range(n * S, (n + 1) * S)
        for drawn in itertools.product(*(estimates(w, s, K) for s in states)):
            V = torch.zeros_like(w.V)
            V[n * S : (n + 1) * S] = torch.tensor([v for _, v in drawn], dtype=V.dtype)
            A = step_advantages(w.along(V), w.rewards, w.mask)
            g = gradients_by_response(w, A)[groups].mean(dim=1).flatten(1)
            p = often * math.prod(p for p, _ in drawn)
            total, first = total + float(p.sum()), first + p @ g
            second += float(p @ g.square().sum(dim=1))
    assert total == pytest.approx(1.0, abs=1e-9)
    return first.view(w.rows, -1), second - float(first.square().sum())


@pytest.mark.parametrize(
    ("kind", "K", "group"),
    [("fixed", 1, 2), ("fixed", 2, 1), ("tied", 1, 3), ("tied", 2, 2), ("eos", 1, 1)],
)
def test_rollouts_by_enumerating_every_one_of_them(kind, K, group):
    prompts = 2 if group == 1 and kind == "fixed" else 1
    model = tied_model() if kind == "tied" else small(kind, prompts=prompts)
    B = len(enumerate_responses(model))
    rewards = torch.randint(0, 3, (B,), generator=seeded(5)).double() / 2
    w = Enumerated(model, rewards, tied=kind == "tied")
    found = with_rollouts(w, rollouts=K, group=group)
    mean, variance = brute_force(w, K, group)
    torch.testing.assert_close(found.expected, mean, rtol=0, atol=1e-12)
    assert found.variance == pytest.approx(variance, abs=1e-12)
    assert found.bias == pytest.approx(0.0, abs=1e-9) and found.scale == pytest.approx(1.0)


@pytest.mark.parametrize("method", GROUP_METHODS)
@pytest.mark.parametrize("group", [2, 3])
def test_groups_by_enumerating_every_one_of_them(method, group):
    """The auditor's own enumeration, of the losses that these advantages make."""
    model = small("fixed")
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0], dtype=torch.float64)
    w = Enumerated(model, rewards, tied=False)

    def loss(logprobs, old, ref, r, mask):
        A = GROUP_METHODS[method](r[None])[0]
        return -(A[:, None] * logprobs * mask).sum() / len(r)

    mean, variance, _ = Groups(model, model, model, rewards, group).expected_gradient(loss)
    found = with_group(w, method, group=group)
    torch.testing.assert_close(found.expected, -mean, rtol=0, atol=1e-12)
    assert found.variance == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_claimed_values_by_a_slow_loop(lam):
    w = Enumerated(small("eos"), torch.rand(14, generator=seeded(1)).double(), tied=False)
    claimed = torch.rand(len(w.V), generator=seeded(2)).double()
    found = with_values(w, claimed, lam=lam, group=1)
    A = step_advantages(w.along(claimed), w.rewards, w.mask, lam=lam)
    g = gradients_by_response(w, A)
    mean, variance = moments((float(p) / 2, x) for p, x in zip(w.chance, g, strict=True))
    torch.testing.assert_close(found.expected, mean, rtol=0, atol=1e-12)
    assert found.variance == pytest.approx(variance, abs=1e-12)
    assert (found.bias < 1e-9) == (lam == 1.0)  # a wrong value is harmless there, and only there


def test_the_target_is_the_policy_gradient_and_its_sum_where_rows_are_tied():
    model = small("fixed")
    rewards = torch.rand(8, generator=seeded(1)).double()
    exact = policy_gradient(model, rewards)
    torch.testing.assert_close(Enumerated(model, rewards, tied=False).gradient, exact)
    model = tied_model(T=3)
    rewards = torch.rand(16, generator=seeded(1)).double()
    w = Enumerated(model, rewards, tied=True)
    summed = torch.zeros(6, 2, dtype=torch.float64).index_add(
        0, w.row, policy_gradient(model, rewards)
    )
    torch.testing.assert_close(w.gradient, summed, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="must be equal in all states of one prompt"):
        Enumerated(small("fixed"), torch.ones(8), tied=True)


def test_tokens_are_those_of_the_distinct_states():
    """By hand: T = 2, fair coins, two responses, K = 3. Both pass the prompt; they meet 1 or 2 of
    the states behind it, each with probability ½."""
    w = Enumerated(
        TabularLM([[0]], vocab_size=2, max_new_tokens=2), torch.tensor([0.0, 0, 1, 1]), tied=True
    )
    assert with_rollouts(w, rollouts=3, group=2).tokens == pytest.approx(2 * 2 + 3 * (2 + 1.5 * 1))
    assert with_values(w, w.V, lam=0.0, group=2).tokens == pytest.approx(4)
    # one response, with an EOS: three tokens of V = 3 equally likely, at most two of them
    model = TabularLM([[0]], vocab_size=3, max_new_tokens=2, eos_id=2)
    w = Enumerated(model, torch.ones(len(enumerate_responses(model))), tied=True)
    assert with_rollouts(w, rollouts=1, group=1).tokens == pytest.approx(5 / 3 + (5 / 3 + 2 / 3))


@pytest.mark.parametrize("kind", KINDS)
def test_more_rollouts_less_noise_and_one_mean(kind):
    w = world(4, kind)
    found = compared(w)
    for name in ("REINFORCE", "PPO, λ = 1", "RLOO", "Dr. GRPO", "VinePPO, K = 1", "VinePPO, K = 9"):
        assert found[name].bias < 1e-9
    assert found["PPO, λ = 0"].bias > 0.1 > found["PPO, λ = 0.95"].bias > 1e-3
    assert 0.5 > found["GRPO"].bias > 1e-3
    noise = [found[f"VinePPO, K = {K}"].deviation for K in ("1", "3", "9", "∞")]
    assert noise == sorted(noise, reverse=True)
    many = with_rollouts(w, rollouts=10**9, group=8)
    assert many.deviation == pytest.approx(found["VinePPO, K = ∞"].deviation, rel=1e-6)


def test_the_factor_and_what_it_leaves_over_by_hand():
    """Three equal parts (1, 1, 1) of the gradient; the own reward in the prompt's value, K = 1,
    halves the first: 5/6 of it, and (-1/3, 1/6, 1/6) is left over of (1/2, 1, 1)."""
    w = world(3, "every step counts")
    values = w.along(w.V)
    values[:, 0] = (values[:, 0] + w.rewards) / 2
    found = w.noise(step_advantages(values, w.rewards, w.mask), group=1)
    assert found.scale == pytest.approx(5 / 6)
    assert found.bias == pytest.approx((1 / 6) ** 0.5 / 1.5)


def test_a_factor_alone_changes_nothing_but_the_factor():
    """Dr. GRPO is RLOO times (G - 1)/G, in each group."""
    w = world(3)
    rloo, dr = (with_group(w, name, group=4) for name in ("RLOO", "Dr. GRPO"))
    assert (rloo.scale, dr.scale) == pytest.approx((1, 3 / 4))
    assert dr.variance == pytest.approx(rloo.variance * 9 / 16)
    assert dr.deviation == pytest.approx(rloo.deviation) == pytest.approx(rloo.variance**0.5)


def test_the_worlds():
    w = world(3)
    assert w.V[w.place == 0].tolist() == pytest.approx([0.1, 0.6])
    assert sorted(set(w.V[w.place == 2].tolist())) == [0.0, 1.0]  # decided
    w = world(4)  # of four steps the second is the middle one
    assert sorted(set(w.V[w.place == 1].tolist())) == pytest.approx([0.1, 0.6])
    assert sorted(set(w.V[w.place == 2].tolist())) == [0.0, 1.0]
    w = world(3, "every step counts")
    assert w.V[w.place == 0].tolist() == pytest.approx([0.1, 0.6])
    off = critic_of(w, 0.2) - w.V
    assert off[w.place == 0].abs().max() == 0 and off[w.place > 0].abs().tolist() == pytest.approx(
        [0.2] * 12
    )
    after = [prefix[-1] == 1 for prefix in w.model.space.prefixes if prefix] * 2
    assert (off[w.place > 0] > 0).tolist() == after  # + after a 1
    with pytest.raises(ValueError, match="kind='none' is not one of"):
        world(3, "none")
    with pytest.raises(ValueError, match="'PPO' is not one of RLOO"):
        with_group(w, "PPO", group=2)
    with pytest.raises(ValueError, match="rewards of 0 and 1 only"):
        halves = Enumerated(w.model, w.rewards / 2, tied=True)
        with_group(halves, "RLOO", group=2)
