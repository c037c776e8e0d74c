"""The study of credit in text: its weights against enumeration, and what its recorded run says."""

from pathlib import Path

import pytest
import torch

from rlbook.functional.policy_losses import reinforce_loss
from rlbook.lm.exact import (
    enumerated_logprobs,
    expected_reward,
    policy_gradient,
    sequence_logprobs,
)
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import recorded, runner
from rlbook.studies import tabular_reinforce as study

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(study.SETTINGS, "tokens", 3)
    monkeypatch.setitem(study.SETTINGS, "x", [0, 5])
    model, rewards = study.game(0)
    noise = torch.randn(model.table.shape, generator=torch.Generator().manual_seed(2))
    return model.like(noise.double()), rewards


def test_a_game_pays_the_sum_of_its_scores(small) -> None:
    model, rewards = small
    scores = torch.randn((13, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    row = model.space.prefixes.index
    by_hand = scores[row(()), 2] + scores[row((2,)), 0] + scores[row((2, 0)), 1]
    assert rewards[model.space.responses.index((2, 0, 1))] == pytest.approx(by_hand / 3**0.5)
    assert not torch.equal(study.game(1)[1], rewards)


@pytest.mark.parametrize("arm", ["none", "value", "credit"])
def test_the_weights_have_the_exact_gradient_as_their_mean(small, arm: str) -> None:
    model, rewards = small
    weights = study.token_weights(model, rewards, torch.arange(27), arm)
    chances = sequence_logprobs(model).exp().detach()
    loss = (chances[:, None] * reinforce_loss(enumerated_logprobs(model), weights)).sum()
    (gradient,) = torch.autograd.grad(-loss, model.table)
    torch.testing.assert_close(gradient, policy_gradient(model, rewards), rtol=0, atol=1e-12)


def test_the_mean_leaves_the_own_reward_out(small) -> None:
    model, _ = small
    rewards = torch.arange(27.0, dtype=torch.float64)
    weights = study.token_weights(model, rewards, torch.tensor([1, 4, 10]), "mean")
    assert weights[:, 0].tolist() == [1 - 7.0, 4 - 5.5, 10 - 2.5]


def test_credit_shares_out_what_the_response_was_better_than_expected(small) -> None:
    model, rewards = small
    credit = study.token_weights(model, rewards, torch.arange(27), "credit")
    J = expected_reward(model, rewards).detach()
    torch.testing.assert_close(credit.sum(dim=1), rewards - J, rtol=0, atol=1e-12)


def test_one_update_by_hand(small, monkeypatch) -> None:
    monkeypatch.setitem(study.SETTINGS, "x", [0, 1])
    model, rewards = small
    chances = sequence_logprobs(model).exp().detach()
    generator = torch.Generator().manual_seed(1_003)
    drawn = torch.multinomial(chances, 4, replacement=True, generator=generator).tolist()
    table, pi = model.table.detach().clone(), torch.softmax(model.table.detach(), dim=1)
    for n in drawn:
        text = model.space.responses[n]
        advantage = rewards[n] - (sum(rewards[i] for i in drawn) - rewards[n]) / 3
        for t, token in enumerate(text):
            row = model.space.prefixes.index(text[:t])
            table[row] -= 2.0 / 4 * advantage * pi[row]
            table[row, token] += 2.0 / 4 * advantage
    before, after = (expected_reward(m, rewards).item() for m in (model, model.like(table)))
    gain = (after - before) / (float(rewards.max()) - before)
    found = study.learn(model, rewards, "mean", rate=2.0, seed=3)
    assert found == pytest.approx([0.0, gain], abs=1e-12)


@pytest.mark.parametrize("arm", ["none", "mean", "value", "credit"])
def test_the_variance_is_that_of_the_enumerated_estimates(small, arm: str) -> None:
    model, rewards = small
    chances = sequence_logprobs(model).exp().detach()
    if arm == "mean":
        weights = (rewards - chances @ rewards)[:, None].expand(27, 3)
    else:
        weights = study.token_weights(model, rewards, torch.arange(27), arm)
    logprobs = enumerated_logprobs(model)
    rows = [
        torch.autograd.grad(logprobs[n] @ weights[n], model.table, retain_graph=True)[0]
        for n in range(27)
    ]
    gradients = torch.stack(rows)
    mean = (chances[:, None, None] * gradients).sum(0)
    expected = (chances[:, None, None] * (gradients - mean) ** 2).sum().item()
    assert study.gradient_variance(model, rewards, arm) == pytest.approx(expected, rel=1e-9)


def test_a_seed_decides_everything(small) -> None:
    first = runner.checked(study.run(3))
    assert first == runner.checked(study.run(3))
    assert first != runner.checked(study.run(4))
    assert all(abs(curve[0]) < 1e-12 for curve in first["gain, rate 2"].values())
    assert first["gradient variance"]["none"] == 1.0


def test_credit_scatters_least_and_pays_with_large_steps() -> None:
    run = recorded.load_run("tabular-reinforce", folder=RUNS)
    scatter = run.curves("gradient variance")
    assert mean_interval(scatter["credit"]).high < 0.2
    assert mean_interval(scatter["value"]).high < 0.6
    assert mean_interval(scatter["mean"]).high < 1.0
    end = {arm: curve[:, -1] for arm, curve in run.curves("gain, rate 2").items()}
    for arm in ("mean", "value", "credit"):
        assert paired_interval(end[arm], end["none"]).low > 0.0
    assert len(run.settings["x"]) == run.curves("gain, rate 0.5")["none"].shape[1]
