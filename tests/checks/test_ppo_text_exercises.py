"""Chapter 17's exercises: first cases by hand, references against the package and a truth."""

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, WRONG, judge
from rlbook.checks.ppo_text import EXERCISES, follow_reward
from rlbook.functional.kl import per_token_kl_reward
from rlbook.functional.masked import masked_whiten
from rlbook.functional.returns import gae
from rlbook.functional.value_losses import clipped_value_loss
from rlbook.lm.exact import enumerate_responses, matching, response_states, sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM

BY_HAND = {
    "token_rewards": [[-0.5 * np.log(2.0), 3.0, 0.0]],
    "token_advantages": [[[2.0, 2.0, 0.0]], [[3.0, 4.0, 0.0]]],
    "whiten_tokens": [[-2.0 / np.sqrt(8 / 3), 0.0], [2.0 / np.sqrt(8 / 3), 0.0]],
    "held_value_loss": [1.125, 4.5, 1.62],
    "fixed_gigabytes": 36.0,
    "follow_reward": [[-0.5, 0.5]],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]), float)
    np.testing.assert_allclose(found, np.asarray(BY_HAND[name], float), atol=1e-7)


def tensors(case):
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}


def by_package_rewards(**case):
    case = tensors(case)
    return per_token_kl_reward(
        case["scores"], case["logprobs"], case["ref_logprobs"], case["mask"], beta=case["beta"]
    ).numpy()


def by_package_advantages(rewards, values, mask, lam):
    rewards, values, mask = map(torch.tensor, (rewards, values, mask))
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    after = torch.where(last, 0.0, values.roll(-1, dims=1))
    flags = {"terminated": last, "ended": last, "gamma": 1.0, "lam": lam}
    A = torch.where(mask, gae(rewards, values, after, **flags), 0.0)
    return torch.stack([A, torch.where(mask, A + values, 0.0)]).numpy()


def by_package_whitening(advantages, mask):
    return masked_whiten(torch.tensor(advantages), torch.tensor(mask)).numpy()


def by_package_value_loss(values, old_values, targets, clip):
    tensors = map(torch.tensor, (values, old_values, targets))
    return clipped_value_loss(*tensors, clip=clip).numpy()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("token_rewards", by_package_rewards),
        ("token_advantages", by_package_advantages),
        ("whiten_tokens", by_package_whitening),
        ("held_value_loss", by_package_value_loss),
    ],
)
def test_the_reference_agrees_with_the_package(name, other) -> None:
    for case in cases(name):
        # The two whitenings put their ε in different places: 1e-8 beside a spread of about 1.
        np.testing.assert_allclose(EXERCISES[name].reference(**case), other(**case), atol=1e-7)
    assert judge(name, EXERCISES[name], other).status == RIGHT


def small_world():
    """Three words, one of which ends the text; the reward likes one short text."""
    model = TabularLM([[0]], vocab_size=3, max_new_tokens=3, eos_id=0)
    ref = model.like(torch.linspace(-1.0, 1.0, model.table.numel()).view_as(model.table).double())
    every = enumerate_responses(ref)
    rewards = every.lengths.double() - 2.0 * (every.response_ids[:, 0] == 1)
    return ref, every, rewards


def followed(table, ref, every, rewards, **settings):
    arrays = (response_states(ref, every), every.response_ids, every.response_mask, rewards)
    return follow_reward(table, *(x.numpy() for x in arrays), **settings)


def test_the_mended_loop_ends_at_the_best_policy_under_the_price() -> None:
    """π* ∝ π_ref exp(R/β), of chapter 16. Away from it the loop still moves."""
    ref, every, rewards = small_world()
    settings = {"beta": 0.5, "clip": 0.2, "rate": 2.0}
    table = followed(ref.table.detach().numpy(), ref, every, rewards, updates=1500, **settings)
    best = matching(ref, sequence_logprobs(ref).detach() + rewards / 0.5)
    found = sequence_logprobs(ref.like(torch.tensor(table))).exp().detach().numpy()
    expected = sequence_logprobs(best).exp().detach().numpy()
    # What is written once in a thousand texts is corrected a thousand times as slowly.
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    assert abs(expected - sequence_logprobs(ref).exp().detach().numpy()).max() > 0.1


def test_one_epoch_of_one_update_is_autograds_step() -> None:
    """With a clip that cuts everything after the first epoch: the gradient of E[R] at the start."""
    ref, every, rewards = small_world()
    start = ref.table.detach()
    table = followed(start.numpy(), ref, every, rewards, beta=0.0, clip=0.0, rate=1e-6, updates=1)
    model = ref.like(start)
    (sequence_logprobs(model).exp() @ rewards).backward()
    gradient = (torch.tensor(table) - start) / 1e-6
    # clip = 0: the second epoch adds to the few cells whose ratio moved against their advantage
    agreeing = torch.isclose(gradient, model.table.grad, atol=1e-5)
    assert agreeing.double().mean() > 0.3


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_that_is_a_little_off_is_wrong(name: str) -> None:
    def off(**case):
        return np.asarray(EXERCISES[name].reference(**case), float) * 1.001

    assert judge(name, EXERCISES[name], off).status == WRONG
