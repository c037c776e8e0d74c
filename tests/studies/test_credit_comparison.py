"""The comparison of VinePPO with its rivals: small runs of every arm, and what is recorded."""

from pathlib import Path

import pytest
import torch

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import credit_comparison as study
from rlbook.studies import credit_horizons, credit_tuning, recorded

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
ARMS = list(study.SETTINGS["rates"])
SMALL = {
    "practised": 6, "updates": 4, "prompts": 2, "samples": 2, "points": 2, "problems": 5,
    "rest_em": {"rounds": 2, "steps": 10, "batch_size": 4},
    "dpo": {"pairs_per_prompt": 1, "steps": 4, "batch_size": 2, "beta": 0.1},
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(study.SETTINGS, name, value)
    torch.set_num_threads(1)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_measured_on_the_way(small, arm):
    found = study.learn(arm, "arithmetic-sft", Arithmetic.horizon(3), 1e-4, 0)
    points = len(found["accuracy"])
    assert points == (5 if arm == "DPO+" else 3)
    assert len(found["trained"]) == points - 1
    for name in ("tokens", "steps", "seconds"):
        assert found[name][0] == 0.0 and len(found[name]) == points
        assert all(a <= b for a, b in zip(found[name], found[name][1:], strict=False))
    assert all(0 <= share <= 1 for share in found["accuracy"] + found["trained"])
    assert found["steps"][-1] == (20.0 if arm == "ReST-EM" else 4.0) and found["tokens"][-1] > 0.1
    again = study.learn(arm, "arithmetic-sft", Arithmetic.horizon(3), 1e-4, 0)
    for name in ("accuracy", "trained", "tokens", "kl"):
        assert again[name] == found[name]


def test_rollouts_for_values_count_as_generated_tokens(small):
    tokens = {
        arm: study.learn(arm, "arithmetic-sft", Arithmetic.horizon(5), 1e-4, 0)["tokens"][-1]
        for arm in ("GRPO", "VinePPO, K = 1", "VinePPO, K = 9")
    }
    assert tokens["GRPO"] < tokens["VinePPO, K = 1"] < tokens["VinePPO, K = 9"]


def test_horizons_are_the_same_arms_on_other_settings(small, monkeypatch):
    monkeypatch.setitem(credit_horizons.SETTINGS, "steps", [3])
    found = credit_horizons.run(0)
    arms = [
        f"{s}, {a}" for s in ("3 steps", "grid paths") for a in credit_horizons.SETTINGS["arms"]
    ]
    assert list(found["accuracy"]) == arms
    expected = study.learn("GRPO", "arithmetic-sft", Arithmetic.horizon(3), 1e-3, 0)
    assert found["accuracy"]["3 steps, GRPO"] == expected["accuracy"]


def test_per_step_the_methods_are_alike_and_rollouts_cost():
    run = recorded.load_run("credit-comparison", folder=RUNS)
    accuracy, tokens = run.curves("accuracy"), run.curves("tokens")
    assert len(run.seeds) >= 5
    for arm in ("PPO, λ = 1", "GRPO", "RLOO", "VinePPO, K = 1", "VinePPO, K = 3", "VinePPO, K = 9"):
        assert mean_interval(accuracy[arm][:, -1]).low > 0.9
    for K in (3, 9):
        for rival in ("PPO, λ = 1", "GRPO"):
            ours, theirs = (accuracy[a].mean(axis=1) for a in (f"VinePPO, K = {K}", rival))
            d = paired_interval(ours, theirs)
            assert d.low < 0 < d.high
    for arm in ("ReST-EM", "DPO+"):
        d = paired_interval(accuracy[arm][:, -1], accuracy["GRPO"][:, -1])
        assert d.high < 0
    assert (tokens["VinePPO, K = 9"][:, -1] > 5 * tokens["GRPO"][:, -1]).all()


def test_no_horizon_tells_the_methods_apart():
    run = recorded.load_run("credit-horizons", folder=RUNS)
    accuracy = run.curves("accuracy")
    assert len(run.seeds) >= 5 and len(accuracy) == 12
    for setting in ("3 steps", "5 steps", "16 steps", "grid paths"):
        ours = accuracy[f"{setting}, VinePPO, K = 3"].mean(axis=1)
        for rival in ("PPO, λ = 1", "GRPO"):
            d = paired_interval(ours, accuracy[f"{setting}, {rival}"].mean(axis=1))
            assert d.low < 0 < d.high


def test_every_arm_gets_the_best_of_three_rates():
    mean = recorded.load_run("credit-tuning", folder=RUNS).curves("mean")
    for arm, rate in study.SETTINGS["rates"].items():
        tried = {name: y.mean() for name, y in mean.items() if name.rpartition(", ")[0] == arm}
        assert len(tried) == 3
        assert max(tried, key=tried.get) == f"{arm}, {rate:.0e}"
    spread = [abs(y[0] - y[1]) for name, y in mean.items() if "value network" in name]
    for arm in ("PPO, λ = 1", "PPO, λ = 0.95"):
        others = [y.mean() for name, y in mean.items() if name.startswith(f"{arm}, 1e-03, value")]
        assert len(others) == 2 and max(others) - mean[f"{arm}, 1e-03"].mean() < max(spread)


def test_tuning_runs_the_arms_as_they_are_compared(small, monkeypatch):
    monkeypatch.setitem(credit_tuning.SETTINGS, "arms", ["PPO, λ = 1", "DPO+"])
    monkeypatch.setitem(credit_tuning.SETTINGS, "first_seed", 3)
    rates = {name: study.SETTINGS[name] for name in study.SETTINGS if name != "rates"} | SMALL
    monkeypatch.setitem(credit_tuning.SETTINGS, "shared", rates | {"steps": 3})
    found = credit_tuning.run(4)
    assert len(found["final"]) == 8 and set(found["mean"]) == set(found["accuracy"])
    task = Arithmetic.horizon(3)
    plain = study.learn("PPO, λ = 1", "arithmetic-sft", task, 3e-3, 7)["accuracy"]
    assert found["accuracy"]["PPO, λ = 1, 3e-03"] == plain
    assert found["final"]["PPO, λ = 1, 3e-03"] == plain[-1]
    assert found["mean"]["PPO, λ = 1, 3e-03"] == sum(plain[1:]) / 2
    ways = {**rates, "value_rate": 4e-3}
    other = study.learn("PPO, λ = 1", "arithmetic-sft", task, 1e-3, 7, settings=ways)["accuracy"]
    assert found["accuracy"]["PPO, λ = 1, 1e-03, value network 4e-03"] == other
