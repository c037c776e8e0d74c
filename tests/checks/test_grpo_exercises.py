"""Chapter 18's references: first cases by hand, then against the package and by enumeration."""

import itertools

import numpy as np
import pytest
import torch

from rlbook.checks import grpo as answers
from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import ppo_clip_loss

CASES = {name: e.cases(np.random.default_rng(1)) for name, e in answers.EXERCISES.items()}


def test_the_first_cases_by_hand():
    first = {name: answers.EXERCISES[name].reference(**CASES[name][0]) for name in CASES}
    np.testing.assert_allclose(first["group_advantages"], [[0.75, -0.25, -0.25, -0.25]])
    # row 0: -min(2, 1.2) and -min(½, 0.8); row 1: -min(-2, -1.2) = 2
    assert first["grpo_loss"] == pytest.approx((-(1.2 + 0.5) / 2 + 2) / 2)
    np.testing.assert_allclose(first["token_weights"], [1 / 4, 1 / 12])
    # one right of two with chance ½; A = ±1/√2: ½ · (½/√2 / ½ + ½/√2 / ½) = 1/√2
    np.testing.assert_allclose(first["prompt_weight"], [0.5**0.5])
    np.testing.assert_allclose(first["train_in_groups"], [[0.25, -0.25]])
    others, std = (answers.group_advantages(**case) for case in CASES["group_advantages"][1:3])
    np.testing.assert_allclose(others, [[1, -1 / 3, -1 / 3, -1 / 3]])
    np.testing.assert_allclose(std, [[1.5, -0.5, -0.5, -0.5]])


def test_advantages_are_the_packages():
    own = {
        "mean": dr_grpo_advantages,
        "others": rloo_advantages,
        "std": lambda r: grpo_advantages(r, epsilon=0.0),
    }
    for case in CASES["group_advantages"]:
        expected = own[case["how"]](torch.tensor(case["rewards"])).numpy()
        np.testing.assert_allclose(answers.group_advantages(**case), expected, atol=1e-12)


def test_the_loss_is_the_packages():
    for case in CASES["grpo_loss"]:
        new, old, A = (torch.tensor(case[k]) for k in ("logprobs", "old_logprobs", "advantages"))
        loss = ppo_clip_loss(new, old, A[:, None].expand_as(new), clip=case["clip"])
        expected = aggregate(loss, torch.tensor(case["mask"]), "sequence-mean").item()
        assert answers.grpo_loss(**case) == pytest.approx(expected, abs=1e-12)


def test_weights_are_the_slopes_of_aggregate():
    hows = {"GRPO": "sequence-mean", "DAPO": "token-mean", "Dr. GRPO": "fixed-length"}
    for case in CASES["token_weights"]:
        lengths = torch.tensor(case["lengths"])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        x = torch.zeros(mask.shape, dtype=torch.float64, requires_grad=True)
        how = hows[case["how"]]
        length = case["limit"] if how == "fixed-length" else None
        slopes = torch.autograd.grad(aggregate(x, mask, how, length=length), x)[0][:, 0]
        np.testing.assert_allclose(answers.token_weights(**case), slopes.numpy(), atol=1e-12)


def test_the_prompt_weight_by_enumeration():
    """One choice with success probability σ(z): E[Σ A ∇log π / K] over all 2^K groups."""
    for p, K in ((0.3, 2), (0.3, 3), (0.2, 5), (0.7, 6)):
        slope = 0.0
        for group in itertools.product((0.0, 1.0), repeat=K):
            chance = np.prod([p if r else 1 - p for r in group])
            A = grpo_advantages(torch.tensor([group], dtype=torch.float64), epsilon=0.0)[0]
            slope += chance * sum(a.item() * (r - p) for a, r in zip(A, group, strict=True)) / K
        assert answers.prompt_weight(p, K) == pytest.approx(slope / (p * (1 - p)), abs=1e-12)
    assert answers.prompt_weight(0.1, 400) == pytest.approx(1 / 0.3, abs=0.02)  # K → ∞


def test_the_mended_loop_forgets_how_it_was_cut_and_learns():
    rng = np.random.default_rng(3)
    given = {"logits": np.zeros((4, 5)), "right": np.arange(4), "rate": 4.0}
    given["draws"] = rng.random((60, 4, 8))
    whole = answers.train_in_groups(**given, micro=32)
    for micro in (1, 5, 8):
        np.testing.assert_allclose(answers.train_in_groups(**given, micro=micro), whole, atol=1e-9)

    def accuracy(logits):
        pi = np.exp(logits - logits.max(axis=1, keepdims=True))
        return float((pi[np.arange(4), np.arange(4)] / pi.sum(axis=1)).mean())

    assert accuracy(whole) > 0.9
