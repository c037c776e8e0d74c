"""Chapter 20's references: first cases by hand, against the package, and a loop that learns."""

import itertools

import numpy as np
import pytest
import torch

from rlbook.checks import vineppo as answers
from rlbook.functional.credit import step_advantages
from rlbook.lm.policy import load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.step_values import rollout_values, states_of, steps_of
from rlbook.studies.exact_credit import Enumerated, with_rollouts

CASES = {name: e.cases(np.random.default_rng(1)) for name, e in answers.EXERCISES.items()}


def test_the_first_cases_by_hand():
    first = {name: answers.EXERCISES[name].reference(**CASES[name][0]) for name in CASES}
    np.testing.assert_allclose(first["step_credit"], [0.25, -0.5, 0.75])
    np.testing.assert_allclose(first["value_within_limit"], [2 / 4, 2 / 4])
    assert first["distinct_states"] == 2  # the prompt, and the prompt with step 0
    # two responses of 3; the prompt 3, and two states each with 2 and with 1 to go
    assert first["generated_tokens"] == 6 + 3 + 2 * (2 + 1)
    np.testing.assert_allclose(first["learn_steps"], [[-0.5, 0.5]])


def test_credit_is_the_packages():
    for case in CASES["step_credit"]:
        values = torch.tensor(case["values"])[None]
        exists = torch.ones_like(values, dtype=torch.bool)
        reward = torch.tensor([case["reward"]], dtype=torch.float64)
        expected = step_advantages(values, reward, exists, lam=case["lam"])[0].numpy()
        np.testing.assert_allclose(answers.step_credit(**case), expected, atol=1e-12)


def test_distinct_states_are_those_that_the_package_rolls_out():
    task, policy = Arithmetic.horizon(3), load_policy("arithmetic-sft", device="cpu")
    batch = gather_experience(
        policy, task, prompts=3, rollouts_per_prompt=3, temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    states, _ = states_of(batch, steps_of(policy, task, batch))
    found = rollout_values(
        policy, task, states, rollouts=1, generator=torch.Generator().manual_seed(1)
    )
    number: dict[str, int] = {}
    steps = np.full((9, 12), -1)
    for row, text in enumerate(batch.responses.texts):
        ends = task.step_boundaries(text)
        for i, (a, b) in enumerate(itertools.pairwise([0, *ends])):
            steps[row, i] = number.setdefault(text[a:b], len(number))
    prompts = np.array([number.setdefault(p.prompt, len(number)) for p in batch.problems])
    assert answers.distinct_states(prompts, steps) == found.distinct < len(states)


def test_tokens_are_those_of_the_exact_count_where_no_state_is_shared():
    """Many letters, so that two responses have hardly a beginning in common."""
    model = TabularLM([[0]], vocab_size=90, max_new_tokens=2)
    w = Enumerated(model, (torch.arange(8100) < 4000).double(), tied=True)
    exact = with_rollouts(w, rollouts=3, group=2).tokens
    counted = answers.generated_tokens(np.array([2]), 2, 1, 3)
    assert counted == pytest.approx(exact, rel=0.01) and counted == 4 + 3 * (2 + 2)


def trained(learn, seed=0):
    rng = np.random.default_rng(seed)
    draws, rolls = rng.random((150, 4, 6)), rng.random((150, 4, 6, 2, 6))
    logits = learn(np.zeros((6, 2)), draws, rolls, 2, 1.0)
    weights = np.exp(logits)
    return weights[:, 1] / weights.sum(axis=1)


def test_the_mended_loop_learns_the_step_that_decides_and_leaves_the_wording():
    """The broken one learns it too, and changes the wording: the mean over eight runs."""
    drift = {}
    for name, learn in {
        "mended": answers.learn_steps,
        "broken": lambda *args: answers._learn(*args, how="every step"),
    }.items():
        p = np.stack([trained(learn, seed) for seed in range(8)])
        assert p[:, 2].min() > 0.9
        drift[name] = np.abs(np.delete(p, 2, axis=1) - 0.5).mean()
    assert drift["broken"] > 2 * drift["mended"]
