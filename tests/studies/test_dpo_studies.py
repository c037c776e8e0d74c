"""The studies of DPO, small: what is equal among the arms, and what is measured."""

import pytest

from rlbook.lm.tasks.task import Problem
from rlbook.studies import dpo_beta, offline_online


def test_one_beta_after_another_from_the_same_start(monkeypatch):
    changes = {"betas": [0.1, 1.0], "x": [0, 1, 2], "prompts": 12, "problems": 8}
    changes["training"] = {"batch_size": 4, "learning_rate": 1e-3}
    for key, value in changes.items():
        monkeypatch.setitem(dpo_beta.SETTINGS, key, value)
    found = dpo_beta.run(0)
    assert found["pairs"]["training"] > 0 and found["pairs"]["held out"] > 0
    for name in ("accuracy", "in form", "kl", "chosen", "rejected", "margin", "ordered"):
        low, high = found[name]["β = 0.1"], found[name]["β = 1"]
        assert len(low) == len(high) == 3 and low[0] == high[0]
        # Adam's first step does not see how large a gradient is: a factor of β makes none
        assert low[1] == pytest.approx(high[1], abs=0.3)
    assert found["ordered"]["β = 1"][0] == 0.5 and found["margin"]["β = 1"][0] == 0.0
    assert found["kl"]["β = 1"][0] == pytest.approx(0.0, abs=1e-5)
    for b in ("β = 0.1", "β = 1"):
        chosen, rejected, margin = (found[n][b][2] for n in ("chosen", "rejected", "margin"))
        assert margin == pytest.approx(chosen - rejected, abs=1e-4)


def test_what_is_in_form():
    problem = Problem("3+5*4=", "2")
    assert dpo_beta.in_form(problem, "3+5=8;8*4=2.")
    assert dpo_beta.in_form(problem, "3+5=8;8*4=7.")  # results do not matter
    for text in ("3+5=8.", "3+5=8;8+4=2.", "3+5=8;8*5=0.", "3+5=8;8*4=2", "3+5=8;8*4=2;"):
        assert not dpo_beta.in_form(problem, text)


def test_every_way_is_evaluated_along_its_samples(monkeypatch):
    small = {
        "offline": {"steps": 2, "batch_size": 4},
        "online": {"steps": 2, "batch_size": 4},
        "rejection": {"steps": 1, "batch_size": 4, "warmup": 0},
        "grpo": {"updates": 2, "train_batch_size": 2, "rollouts_per_prompt": 4},
    }
    for way, training in small.items():
        settings = offline_online.SETTINGS[way]
        changes = {"training": settings["training"] | training, "every": 1}
        changes["training"] |= {"mini_batch_size": 2} if way == "grpo" else {}
        counts = {"rounds": 2, "prompts": 8, "samples": 4} if way == "rejection" else {}
        counts = {"prompts": 8} if way == "offline" else counts
        monkeypatch.setitem(offline_online.SETTINGS, way, settings | changes | counts)
    for key, value in {"problems": 8, "budget": 64, "seconds": 0.01}.items():
        monkeypatch.setitem(offline_online.SETTINGS, key, value)
    found = offline_online.run(0)
    assert found["samples"]["offline DPO"] == [0, 64, 64]
    assert found["samples"]["on-policy DPO"] == [0, 8, 16]
    assert found["samples"]["rejection sampling"] == [0, 32, 64]
    assert found["samples"]["GRPO"] == [0, 8, 16]
    for arm in offline_online.ARMS:
        seconds, accuracy = found["seconds"][arm], found["accuracy"][arm]
        assert seconds[0] < seconds[1] < seconds[2]
        assert found["at equal samples"][arm] == accuracy[-1]  # all are within the budget
        assert found["best"][arm] == max(accuracy)
        assert min(accuracy) <= found["at equal time"][arm] <= max(accuracy)
    starts = {curve[0] for curve in found["accuracy"].values()}
    assert len(starts) == 1
