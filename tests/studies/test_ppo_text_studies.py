"""The studies of PPO for text: small runs of their parts, and what their records say."""

import math
from pathlib import Path

import pytest
import torch

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.replies import Replies
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import over_optimisation, ppo_starts, ppo_value_network, recorded

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


def record(name):
    return recorded.load_run(name, folder=RUNS)


# --- one body or two ------------------------------------------------------------------------------


@pytest.fixture
def small_value_network(monkeypatch):
    settings = ppo_value_network.SETTINGS
    monkeypatch.setitem(settings, "x", [0, 3])
    monkeypatch.setitem(settings, "problems", 8)
    small = {"updates": 3, "train_batch_size": 4, "rollouts_per_prompt": 2, "mini_batch_size": 4}
    monkeypatch.setitem(settings, "ppo", settings["ppo"] | small)


def test_a_seed_of_the_value_networks_is_the_same_again(small_value_network):
    first = ppo_value_network.train(3, share=True, weight=0.1)
    again = ppo_value_network.train(3, share=True, weight=0.1)
    assert len(first["accuracy"]) == 2 and first["accuracy"] == again["accuracy"]
    assert 0 <= first["accuracy"][0] <= 1 and first["seconds"] > 0


def test_both_kinds_of_value_network_learn():
    accuracy = record("ppo-value-network").curves("accuracy")
    assert len(record("ppo-value-network").seeds) >= 5
    for curve in accuracy.values():
        assert paired_interval(curve[:, -1], curve[:, 0]).low > 0.3


# --- elicited or learnt ---------------------------------------------------------------------------


@pytest.fixture
def small_starts(monkeypatch):
    settings = ppo_starts.SETTINGS
    monkeypatch.setitem(settings, "x", [0, 1])
    monkeypatch.setitem(settings, "problems", 8)
    small = {"updates": 1, "train_batch_size": 4, "rollouts_per_prompt": 2, "mini_batch_size": 4}
    monkeypatch.setitem(settings, "ppo", settings["ppo"] | small)
    monkeypatch.setitem(settings, "imitation", settings["imitation"] | {"steps": 2, "warmup": 1})
    training = settings["novice"]["training"] | {"steps": 2, "warmup": 1}
    monkeypatch.setitem(settings, "novice", settings["novice"] | {"training": training})


@pytest.mark.parametrize("arm", ["base", "novice, biased"])
def test_an_arm_has_what_is_measured_before_and_after(small_starts, arm):
    found = ppo_starts.train(ppo_starts.start(arm, 0), 0)
    assert len(found["accuracy"]) == 2
    for name in ("pass16", "greedy", "harder"):
        assert len(found[name]) == 2 and all(0 <= share <= 1 for share in found[name])
    if arm == "base":
        assert found["pass16"][0] == 1.0
    else:
        assert found["accuracy"][0] < 0.5  # two steps of reading


def test_the_first_state_is_a_kl_of_zero(small_starts):
    policy = load_policy("arithmetic-sft", device="cpu")
    assert ppo_starts.kl(policy, policy, 0) == 0.0


def test_what_was_biased_is_mended_and_the_base_model_has_nothing_to_gain():
    run = record("ppo-starts")
    accuracy = run.curves("accuracy")
    assert len(run.seeds) >= 5
    biased = accuracy["biased"]
    assert mean_interval(biased[:, 0]).high < 0.5 < 0.85 < mean_interval(biased[:, -1]).low
    assert mean_interval(accuracy["base"][:, 0]).low > 0.98
    novice = accuracy["novice, biased"]
    assert paired_interval(novice[:, -1], novice[:, 0]).low > 0.2


# --- a learned reward -----------------------------------------------------------------------------


def test_the_best_of_n_by_the_gold_score_is_the_mean_of_maxima():
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 4.0, 4.0, 6.0]])
    assert over_optimisation.best(scores, scores, 1) == (25 / 8, 25 / 8)
    assert over_optimisation.best(scores, -scores, 2) == ((3 + 2 + 5 + 6) / 4, -(3 + 2 + 5 + 6) / 4)
    assert over_optimisation.best(scores, scores, 4) == (4.5, 4.5)


def test_people_compare_two_different_replies_of_a_policy():
    task, policy = Replies(), load_policy("replies-sft", device="cpu")
    found = over_optimisation.compared(task, policy, 20, torch.Generator().manual_seed(0))
    assert 10 <= len(found) <= 20
    assert all(c.chosen != c.rejected for c in found)


def test_a_price_raises_the_gold_score_and_without_one_the_judge_is_fooled():
    run = record("over-optimisation")
    gold, kl, learned = (run.curves(name) for name in ("gold", "kl", "learned"))
    assert len(run.seeds) >= 5
    free, priced = "round 1, β = 0.0", "round 1, β = 0.05"
    for arm in (priced, "round 1, β = 0.2", "round 1, KL held", "round 2, β = 0.05"):
        assert paired_interval(gold[arm][:, -1], gold[arm][:, 0]).low > 0.3
        assert mean_interval(kl[arm][:, -1]).high < 5
    # the judge sees no difference between the two, and the hidden score does
    assert abs(paired_interval(learned[priced][:, -1], learned[free][:, -1]).mean) < 0.1
    assert paired_interval(gold[priced][:, -1], gold[free][:, -1]).low > 0.2
    assert mean_interval(kl[free][:, -1]).low > 4
    held = kl["round 1, KL held"][:, -3:].mean(axis=1)
    assert 3 < mean_interval(held).mean < 5  # its target is 3
    n = over_optimisation.SETTINGS["ns"]
    assert kl["best of n, round 1"][0].tolist() == pytest.approx(
        [math.log(k) - (k - 1) / k for k in n], abs=1e-5
    )
    chosen = gold["best of n, round 2"]
    assert paired_interval(chosen[:, -1], chosen[:, 0]).low > 0.9
