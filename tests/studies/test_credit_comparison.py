"""The comparison of VinePPO with its rivals: small runs of every arm, and what is recorded."""

from pathlib import Path

import pytest
import torch

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.studies import credit_comparison as study
from rlbook.studies import credit_horizons

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
