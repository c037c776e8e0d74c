"""Chapter 16's exercises: first cases by hand, references against the package and autograd."""

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, judge
from rlbook.checks.kl import EXERCISES
from rlbook.functional.kl import (
    adapt_kl_coefficient,
    kl_k1,
    kl_k2,
    kl_k3,
    per_token_kl_reward,
)
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.lm.exact import matching, sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM

BY_HAND = {
    "tilted_policy": [0.4, 0.2, 0.4],
    "soft_values": [np.log(1.5), np.log(2.0)],
    "kl_slopes": [[1.0], [np.log(2.0)], [0.5]],
    # weights 3 - 2 log 3/2 in row 0 and 3 - log 3/2 in row 1, scores (-1/2, 1/2)
    "penalised_update": [
        [-0.5 * (3 - 2 * np.log(1.5)), 0.5 * (3 - 2 * np.log(1.5))],
        [-0.5 * (3 - np.log(1.5)), 0.5 * (3 - np.log(1.5))],
    ],
    "controlled_betas": [0.51, 0.5304, 0.5304],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]), float)
    np.testing.assert_allclose(found, np.asarray(BY_HAND[name], float), atol=1e-12)


def by_matching(ref, rewards, beta):
    """A table of one choice; a reference of 0 stands for one of e^-2000."""
    model = TabularLM([[0]], vocab_size=len(ref), max_new_tokens=1)
    log_ref = np.where(ref > 0, np.log(np.where(ref > 0, ref, 1.0)), -2000.0)
    best = matching(model, torch.tensor(log_ref + rewards / beta))
    return sequence_logprobs(best).exp().detach()


def by_paths(next_state, rewards, ref, beta):
    """β log of the mean of exp(return/β) over every path: no backup, all paths listed."""

    def paths(s):
        if s == len(next_state):
            return [(0.0, 0.0)]
        return [
            (np.log(ref[s, a]) + log_p, rewards[s, a] + gain)
            for a in range(ref.shape[1])
            for log_p, gain in paths(next_state[s, a])
        ]

    return [
        beta * torch.logsumexp(torch.tensor([p + r / beta for p, r in paths(s)]), 0).item()
        for s in range(len(next_state))
    ]


def by_slopes(logprobs, ref_logprobs):
    x = torch.tensor(logprobs, requires_grad=True)
    ref = torch.tensor(ref_logprobs)
    return [torch.autograd.grad(k(x, ref).sum(), x)[0].numpy() for k in (kl_k1, kl_k2, kl_k3)]


def by_autograd(table, ref_table, states, tokens, mask, rewards, beta, rate):
    """One step of SGD on the package's loss of the package's rewards per token."""
    table = torch.tensor(table, requires_grad=True)
    mask, R = torch.tensor(mask), torch.tensor(rewards)
    logprobs = table.log_softmax(1)[states, tokens]
    ref = torch.tensor(ref_table).log_softmax(1)[states, tokens]
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    paid = per_token_kl_reward(R, logprobs.detach(), ref, mask, beta=beta)
    to_go = discounted_returns(paid, gamma=1.0, terminated=last, ended=last)
    losses = reinforce_loss(logprobs, torch.where(mask, to_go, 0.0))
    aggregate(losses, mask, "fixed-length", length=1).backward()
    return (table - rate * table.grad).detach()


def by_controller(beta, kls, target, horizon, responses):
    betas = []
    for kl in kls.tolist():
        beta = adapt_kl_coefficient(beta, kl, target=target, horizon=horizon, steps=responses)
        betas.append(beta)
    return betas


BY_PACKAGE = {
    "tilted_policy": by_matching,
    "soft_values": by_paths,
    "kl_slopes": by_slopes,
    "penalised_update": by_autograd,
    "controlled_betas": by_controller,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    for case in cases(name):
        found = np.asarray(EXERCISES[name].reference(**case), float)
        other = np.asarray(BY_PACKAGE[name](**case), float)
        np.testing.assert_allclose(found, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", EXERCISES)
def test_other_ways_of_writing_it_are_right(name: str) -> None:
    def answer(**case):
        return np.asarray(BY_PACKAGE[name](**case), float)

    assert judge("x", EXERCISES[name], answer).status == RIGHT


def test_an_answer_in_32_bits_is_right() -> None:
    def answer(table, *args, **kwargs):
        exact = EXERCISES["penalised_update"].reference(table, *args, **kwargs)
        return exact.astype(np.float32)

    assert judge("x", EXERCISES["penalised_update"], answer).status == RIGHT
