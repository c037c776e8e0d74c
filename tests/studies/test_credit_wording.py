"""Asides that change nothing, and how noisy gradients are: by hand, small, and as recorded."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.experience import gather_experience
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import credit_few, recorded
from rlbook.studies import credit_wording as study

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"

SMALL = {
    "steps": 3,
    "asides": {"no asides": 0, "asides": 2},
    "imitation": {"texts": 40, "steps": 10, "batch_size": 4, "learning_rate": 1e-3},
    "noise": {"prompts": 8, "samples": 2, "K": [1, 2]},
    "practised": 6,
    "problems": 5,
    "x": [0, 1, 2],
    "shared": {"train_batch_size": 2, "rollouts_per_prompt": 2, "mini_batch_size": 2, "epochs": 1},
    "rates": {
        "PPO": 1e-4, "VinePPO, K = 2": 1e-4, "GRPO": 1e-4, "GRPO, 6 responses": 1e-4,
    },
    "methods": {
        "no asides": ["PPO"],
        "asides": ["VinePPO, K = 2", "GRPO", "GRPO, 6 responses"],
    },
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(study.SETTINGS, name, value)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy():
    return load_policy("arithmetic-sft", device="cpu")


def batch_of(policy, prompts):
    return gather_experience(
        policy,
        Arithmetic.horizon(3),
        prompts=prompts,
        rollouts_per_prompt=2,
        temperature=1.0,
        generator=seeded(),
    )


def test_signs_stand_at_the_end_of_every_step_but_the_last():
    assert study.with_asides("3+5=8;8-4=4;4*9=6.", [[0, 3], [1, 2], [3, 3]]) == (
        "3+5=8+=;8-4=4-*;4*9=6."
    )
    assert study.with_asides("3+5=8.", [[0]]) == "3+5=8."


def test_asides_change_the_text_and_nothing_else(policy):
    plain, wordy = Arithmetic.horizon(4), study.WithAsides.of(4, 3)
    without = plain.demonstrations(50, seeded(1), clean=True)
    with_ = wordy.demonstrations(50, seeded(1), clean=True)
    seen = []
    for (prompt, response), (same, text) in zip(without, with_, strict=True):
        steps = text.split(";")
        assert same == prompt and ";".join([s[:-3] for s in steps[:-1]] + steps[-1:]) == response
        seen += [step[-3:] for step in steps[:-1]]
        assert len(policy.encode([text])[0]) + 1 < wordy.max_new_tokens
        assert len(wordy.step_boundaries(text)) == 4
    assert set("".join(seen)) == set(study.SIGNS) and len(set(seen)) > 30
    drawn = wordy.problems(50, seeded(2))
    answers = [f"1+1=2***;1+1={problem.answer}." for problem in drawn]
    assert wordy.rewards(drawn, answers).tolist() == [1.0] * 50
    assert study.WithAsides.of(4, 0).demonstrations(5, seeded(1)) == (
        plain.demonstrations(5, seeded(1))
    )


def test_the_variance_is_that_of_the_groups_gradients(policy):
    batch = batch_of(policy, 4)
    mask = batch.responses.response_mask
    A = torch.randn(mask.shape, generator=seeded(3)) * mask
    found = study.variances(policy, batch, {"A": A, "2 A": 2 * A})
    naive = []
    for n in range(4):
        model = copy.deepcopy(policy.model)
        rows = torch.tensor([2 * n, 2 * n + 1])
        logprobs = response_logprobs(model, batch.responses.select(rows), temperature=1.0)
        for k in (0, 1):
            T = logprobs.shape[1]
            (A[rows[k], :T] @ logprobs[k] / 2).backward(retain_graph=True)
        naive.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    naive = torch.stack(naive)
    expected = (naive - naive.mean(dim=0)).square().sum() / 3
    assert found["A"] == pytest.approx(float(expected), rel=1e-4)  # float32 sums of 1e5 squares
    assert found["2 A"] == pytest.approx(4 * found["A"], rel=1e-5)


def test_each_method_has_its_advantages(small, policy):
    batch = batch_of(policy, 6)
    found = study.by_method(policy, Arithmetic.horizon(3), batch, seeded())
    assert list(found) == ["reward less mean", "RLOO", "VinePPO, K = 1", "VinePPO, K = 2"]
    mask, R = batch.responses.response_mask, batch.rewards
    for row in range(12):
        other = R[row ^ 1]
        assert found["RLOO"][row][mask[row]].unique().tolist() == [R[row] - other]
        assert found["reward less mean"][row, 0] == pytest.approx(float(R[row] - R.mean()))
    for A in found.values():
        assert A.shape == mask.shape and (A[~mask] == 0).all()
    quarters = 4 * found["VinePPO, K = 2"]
    assert (quarters == quarters.round()).all() and (quarters % 4 != 0).any()  # halves, and some


def test_every_arm_of_a_seed(small):
    found = study.run(0)
    arms = [
        "no asides, PPO", "asides, VinePPO, K = 2", "asides, GRPO", "asides, GRPO, 6 responses",
    ]  # fmt: skip
    assert list(found["accuracy"]) == arms
    assert list(found["entropy"]) == ["no asides", "asides"] and min(found["entropy"].values()) > 0
    assert found["noise"]["asides, reward less mean"] == 1.0
    assert len(found["noise"]) == 8 and all(value > 0 for value in found["noise"].values())
    tokens = {arm: row[-1] for arm, row in found["tokens"].items()}
    assert tokens[arms[3]] == pytest.approx(1.5 * tokens[arms[2]], rel=0.1)
    assert tokens[arms[1]] > 1.5 * tokens[arms[2]]
    again = study.run(0)
    for name in ("accuracy", "tokens", "kl", "noise", "entropy"):
        assert again[name] == found[name]


def test_asides_are_entropy_and_k_decides_how_much_noise_they_make():
    run = recorded.load_run("credit-wording", folder=RUNS)
    entropy, noise = run.curves("entropy"), run.curves("noise")
    assert len(run.seeds) >= 5
    assert (entropy["asides"] > 5 * entropy["no asides"]).all()
    nine, one = (noise[f"asides, VinePPO, K = {K}"] for K in (9, 1))
    assert mean_interval(nine).high < 1 and paired_interval(nine, one).high < 0


def test_more_responses_are_worth_more_than_rollouts_of_as_many_tokens():
    run = recorded.load_run("credit-wording", folder=RUNS)
    accuracy, tokens = run.curves("accuracy"), run.curves("tokens")
    many, few = "asides, GRPO, 64 responses", "asides, VinePPO, K = 3"
    assert (tokens[many][:, -1] < 1.1 * tokens[few][:, -1]).all()
    for K in (1, 3, 9):
        rival = accuracy[f"asides, VinePPO, K = {K}"].mean(axis=1)
        assert paired_interval(accuracy[many].mean(axis=1), rival).low > 0


def test_at_equal_tokens_eight_responses_learn_faster_without_rollouts():
    run = recorded.load_run("credit-wording", folder=RUNS)
    accuracy, tokens = run.curves("accuracy"), run.curves("tokens")
    for setting in ("no asides", "asides"):
        ppo, vine = f"{setting}, PPO", f"{setting}, VinePPO, K = 9"
        at = [
            np.interp(limit, x, y)
            for limit, x, y in zip(tokens[ppo][:, -1], tokens[vine], accuracy[vine], strict=True)
        ]
        assert paired_interval(accuracy[ppo][:, -1], at).low > 0


def test_with_eight_responses_nine_rollouts_are_ahead_of_the_critic_per_step():
    accuracy = recorded.load_run("credit-wording", folder=RUNS).curves("accuracy")
    whole = {arm: y.mean(axis=1) for arm, y in accuracy.items()}
    for rival in ("GRPO", "PPO"):
        d = paired_interval(whole["asides, VinePPO, K = 9"], whole[f"asides, {rival}"])
        assert d.low > 0
    for K in (1, 3):
        d = paired_interval(whole[f"asides, VinePPO, K = {K}"], whole["asides, PPO"])
        assert d.low < 0 < d.high


def test_lengths_are_the_same_arms_on_other_chains(small, monkeypatch):
    monkeypatch.setitem(credit_few.SETTINGS, "steps", [4])
    monkeypatch.setitem(credit_few.SETTINGS, "methods", ["GRPO", "PPO"])
    found = credit_few.run(1)
    assert list(found["accuracy"]) == ["4 steps, GRPO", "4 steps, PPO"]
    task, start = study.WithAsides.of(4, 0), load_policy("arithmetic-sft", device="cpu")
    expected = study.learn("PPO", start, task, 301)
    assert found["accuracy"]["4 steps, PPO"] == expected["accuracy"]
    assert found["tokens"]["4 steps, PPO"] == expected["tokens"]


def test_with_eight_responses_nine_rollouts_are_ahead_of_groups_of_two_at_every_length():
    accuracy = recorded.load_run("credit-few", folder=RUNS).curves("accuracy")
    whole = {arm: y.mean(axis=1) for arm, y in accuracy.items()}
    for steps in (3, 8, 16):
        for K in (3, 9):
            arm = f"{steps} steps, VinePPO, K = {K}"
            critic = paired_interval(whole[arm], whole[f"{steps} steps, PPO"])
            group = paired_interval(whole[arm], whole[f"{steps} steps, GRPO"])
            assert critic.low < 0 < critic.high
            assert (group.low > 0) == (K == 9 or steps == 16)
