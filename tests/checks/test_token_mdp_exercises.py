"""The exercises of chapter 12: first cases by hand, references against the package and autograd."""

import numpy as np
import pytest
import torch

from rlbook.checks.harness import SEED
from rlbook.checks.token_mdp import EXERCISES
from rlbook.lm.exact import (
    enumerate_responses,
    expected_reward,
    policy_gradient,
    prefix_values,
    sequence_logprobs,
)
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.token_mdp import policy_matrix, token_mdp


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.fixture
def model() -> TabularLM:
    return TabularLM.with_eos(torch.Generator().manual_seed(3), prompts=[(2,)])


@pytest.fixture
def rewards(model: TabularLM) -> torch.Tensor:
    count = len(enumerate_responses(model))
    return torch.randn(count, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("token_transitions", [[1, 2, 3], [3, 3, 3], [3, 3, 3]]),
        ("text_logprobs", [np.log(1 / 4) + np.log(3 / 4), np.log(3 / 4)]),
        ("backward_values", [3.5, 2.0]),
        ("gradient_by_enumeration", [[-1.0, 1.0]]),
        ("reinforce_update", [[2.0, -2.0], [-2.5, 2.5]]),
    ],
)
def test_first_case_by_hand(name: str, by_hand: list) -> None:
    np.testing.assert_allclose(EXERCISES[name].reference(**cases(name)[0]), by_hand, atol=1e-12)


def test_transitions_are_those_of_the_token_mdp(model: TabularLM, rewards: torch.Tensor) -> None:
    space = model.space
    table = EXERCISES["token_transitions"].reference(space.prefixes, range(3), space.eos_id, 3)
    P = token_mdp(model, rewards).P
    np.testing.assert_array_equal(table, P[: len(space)].argmax(axis=2))


def test_logprobs_are_those_of_the_package(model: TabularLM) -> None:
    responses = enumerate_responses(model)
    ids = responses.sequence_ids
    with torch.no_grad():
        logits = model(ids, attention_mask=responses.sequence_mask).logits
    found = EXERCISES["text_logprobs"].reference(logits.numpy(), ids.numpy(), 1, 2)
    np.testing.assert_allclose(found, sequence_logprobs(model).detach(), atol=1e-12)


def test_values_are_those_of_the_package(model: TabularLM, rewards: torch.Tensor) -> None:
    mdp = token_mdp(model, rewards)
    S = len(model.space)
    next_state = mdp.P[:S].argmax(axis=2)
    found = EXERCISES["backward_values"].reference(next_state, mdp.R[:S], policy_matrix(model)[:S])
    np.testing.assert_allclose(found, prefix_values(model, rewards)[0].detach(), atol=1e-12)


def test_the_gradient_is_the_exact_one(model: TabularLM, rewards: torch.Tensor) -> None:
    paths = [x.numpy() for x in model.space.paths(torch.device("cpu"))]
    found = EXERCISES["gradient_by_enumeration"].reference(
        model.table.detach().numpy(), *paths, rewards.numpy()
    )
    (by_autograd,) = torch.autograd.grad(expected_reward(model, rewards), model.table)
    np.testing.assert_allclose(found, by_autograd, atol=1e-12)
    np.testing.assert_allclose(found, policy_gradient(model, rewards), atol=1e-12)


def test_the_update_follows_autograd() -> None:
    for case in cases("reinforce_update"):
        table = torch.tensor(case["table"], requires_grad=True)
        logprobs = torch.log_softmax(table, dim=1)[case["states"], case["tokens"]]
        mask = torch.tensor(case["mask"])
        paid = torch.where(mask, torch.tensor(case["rewards"]), 0.0)
        to_go = paid.flip(1).cumsum(1).flip(1)
        J = torch.where(mask, to_go * logprobs, 0.0).sum() / len(mask)
        (gradient,) = torch.autograd.grad(J, table)
        found = EXERCISES["reinforce_update"].reference(**case)
        np.testing.assert_allclose(found, (table + case["rate"] * gradient).detach(), atol=1e-12)


def test_the_expected_update_is_the_exact_gradient(model: TabularLM, rewards: torch.Tensor) -> None:
    # One response at a time, weighted with its chance: the mean step is ∇J, if the reward stands
    # in the column of the last token.
    responses = enumerate_responses(model)
    states, tokens, mask = (x.numpy() for x in model.space.paths(torch.device("cpu")))
    table, chances = model.table.detach().numpy(), sequence_logprobs(model).exp().detach().numpy()
    paid = np.zeros(mask.shape)
    paid[np.arange(len(mask)), responses.lengths.numpy() - 1] = rewards.numpy()
    step = np.zeros_like(table)
    for n in range(len(mask)):
        one = [x[n : n + 1] for x in (states, tokens, mask, paid)]
        step += chances[n] * (EXERCISES["reinforce_update"].reference(table, *one, 1.0) - table)
    np.testing.assert_allclose(step, policy_gradient(model, rewards), atol=1e-12)
