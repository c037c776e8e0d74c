"""The study of KL placements: its limits by the exact gradient, its losses by the auditor."""

from pathlib import Path

import pytest
import torch

from rlbook.audit import audit, default_model
from rlbook.lm.exact import (
    expected_reward,
    fixed_prefix_kl,
    sequence_kl,
    sequence_logprobs,
)
from rlbook.lm.tabular_lm import TabularLM
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import kl_placement as study
from rlbook.studies import recorded

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
PENALTY = {
    "k1 in the reward": "KL(π‖ref)",
    "k2 in the loss": "KL(π‖ref) at fixed prefixes",
    "k3 in the loss": "KL(ref‖π) at fixed prefixes",
}
ARMS = list(PENALTY)


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_has_the_gradient_that_its_name_promises(arm: str) -> None:
    """J - 0.3 · the KL of the table above, exactly: the rest of d is the penalty's gradient."""

    def loss(logprobs, old, ref, rewards, mask):
        return study.penalised_loss(logprobs, ref, rewards, mask, beta=0.3, arm=arm)

    found = audit(loss, group=2)
    left = -found.expected - found.gradients["J"] + 0.3 * found.gradients[PENALTY[arm]]
    assert left.norm() < 1e-12
    others = [name for name in PENALTY.values() if name != PENALTY[arm]]
    for name in others:
        wrong = -found.expected - found.gradients["J"] + 0.3 * found.gradients[name]
        assert wrong.norm() > 1e-3


def gradient_at(model: TabularLM, ref: TabularLM, rewards, beta: float, arm: str):
    price = {
        "k1 in the reward": lambda: sequence_kl(model, ref),
        "k2 in the loss": lambda: fixed_prefix_kl(model, ref),
        "k3 in the loss": lambda: fixed_prefix_kl(ref, model, drawn_by=model),
    }[arm]
    value = expected_reward(model, rewards) - beta * price()
    return torch.autograd.grad(value, model.table)[0]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_gradient_vanishes_at_an_arms_own_limit_and_not_at_the_others(arm, beta) -> None:
    ref, rewards = study.game(3)
    limit = study.stationary(ref, rewards, beta, arm)
    assert gradient_at(limit, ref, rewards, beta, arm).norm() < 1e-10
    for other in set(ARMS) - {arm}:
        elsewhere = study.stationary(ref, rewards, beta, other)
        assert gradient_at(elsewhere, ref, rewards, beta, arm).norm() > 1e-4


def test_limits_with_an_end_token_and_two_prompts() -> None:
    ref = default_model()
    rewards = torch.arange(14, dtype=torch.float64) % 3 / 2
    for arm in ARMS:
        limit = study.stationary(ref, rewards, 0.3, arm)
        assert gradient_at(limit, ref, rewards, 0.3, arm).norm() < 1e-10


def test_the_distance_to_the_optimum_is_what_is_lost() -> None:
    """max - (J - β KL(π‖ref)) = β KL(π‖π*), for any π."""
    (ref, rewards), beta = study.game(1), 0.2
    best = study.stationary(ref, rewards, beta, "k1 in the reward")
    most = beta * torch.logsumexp(sequence_logprobs(ref) + rewards / beta, dim=0)
    for model in (ref, study.stationary(ref, rewards, beta, "k3 in the loss")):
        has = expected_reward(model, rewards) - beta * sequence_kl(model, ref)
        assert (most - has).item() == pytest.approx(beta * sequence_kl(model, best).item())


def test_one_choice_has_one_limit_for_k1_and_k2() -> None:
    ref, rewards = TabularLM([[0]], vocab_size=3, max_new_tokens=1), torch.tensor([0.0, 0.5, 1.0])
    ref = ref.like(torch.tensor([[0.1, 0.7, 0.2]]).double().log())
    first, second, third = (study.stationary(ref, rewards, 0.4, arm) for arm in ARMS)
    assert sequence_kl(second, first).item() == pytest.approx(0.0, abs=1e-12)
    assert sequence_kl(third, first).item() > 1e-3


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(study.SETTINGS, "games", study.SETTINGS["games"] | {"per_seed": 2})
    monkeypatch.setitem(study.SETTINGS, "x", [0, 2, 4])


def test_a_seed_of_the_games_gives_the_same_numbers_again(small) -> None:
    first = study.play(5, 0.5, "k3 in the loss")
    assert first == study.play(5, 0.5, "k3 in the loss")
    assert len(first["distance"]) == 3 and first["distance"][2] < first["distance"][0]
    assert study.play(5, 0.5, "k1 in the reward")["distance"][0] == first["distance"][0]


def test_the_second_part_reports_the_last_updates(monkeypatch) -> None:
    few = {"updates": 2, "train_batch_size": 2, "rollouts_per_prompt": 2, "mini_batch_size": 2}
    monkeypatch.setitem(study.SETTINGS, "arithmetic", study.SETTINGS["arithmetic"] | few)
    monkeypatch.setitem(study.SETTINGS, "last", 1)
    found = study.arithmetic(0, "loss")
    assert set(found) == {"reward", "kl"} and 0.0 <= found["reward"] <= 1.0
    assert found["kl"] != 0.0  # of the second update: the first has moved the policy


def test_what_the_recorded_run_says() -> None:
    run = recorded.load_run("kl-placement", folder=RUNS)
    assert len(run.seeds) >= 5
    for beta in ("0.5", "0.2"):
        end = {arm: y[:, -1] for arm, y in run.curves(f"distance, β {beta}").items()}
        for arm in ARMS[1:]:
            assert paired_interval(end[arm], end["k1 in the reward"]).low > 0.0
        assert mean_interval(end["k1 in the reward"]).high < 0.05
    paid = run.curves("arithmetic reward")
    assert paired_interval(paid["k1 in the reward"], paid["k3 in the loss"]).low > 0.0
    kl = run.curves("arithmetic kl")
    assert paired_interval(kl["k1 in the reward"], kl["k3 in the loss"]).low > 0.0
