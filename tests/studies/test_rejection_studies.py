"""The studies of rejection sampling, small: what is equal among the arms, and what is measured."""

import pytest
import torch

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.experience import gather_experience
from rlbook.studies import filtering, rejection_rounds


@pytest.fixture
def small_filtering(monkeypatch):
    tasks = {
        name: settings | {"prompts": 64, "examples": 8}
        for name, settings in filtering.SETTINGS["tasks"].items()
    }
    changes = {"tasks": tasks, "problems": 8, "problem_samples": 2}
    training = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0}
    for key, value in (changes | {"training": training}).items():
        monkeypatch.setitem(filtering.SETTINGS, key, value)


def test_every_filter_gives_as_many_examples(small_filtering):
    found = filtering.run(0)
    for name in ("gridpath", "chains"):
        arms = found[f"{name}: examples"]
        assert set(arms) == {"none", "outcome", "process", "both"}
        assert arms["none"] == arms["outcome"] == arms["process"] == 8.0
        assert found[f"{name}: kept correct"]["outcome"] == 1.0
        assert found[f"{name}: kept correct"]["both"] == 1.0
        assert found[f"{name}: passed"]["none"] > 0.98
        assert found[f"{name}: passed"]["both"] < found[f"{name}: passed"]["outcome"]
        assert set(found[f"{name}: accuracy"]) == {"before", *arms}
        for measure in ("accuracy", "sound", "honest"):
            assert all(0.0 <= value <= 1.0 for value in found[f"{name}: {measure}"].values())


def test_a_right_answer_from_wrong_steps_is_correct_and_not_sound(monkeypatch):
    task = Arithmetic()
    policy = load_policy("arithmetic-sft", device="cpu")
    batch = gather_experience(
        policy, task, prompts=2, rollouts_per_prompt=1, temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    batch.problems[:] = [Problem("2*2+1=", "5"), Problem("2*3+1=", "7")]
    batch.responses.texts[:] = ["2*2=4;4+1=5.", "2*3=5;5+2=7."]
    batch.rewards[:] = 1.0
    found = filtering.quality(batch, [0, 1], task)
    assert found == {"examples": 2.0, "kept correct": 1.0, "kept sound": 0.5}


def test_rounds_of_every_arm(monkeypatch):
    training = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0}
    changes = {"x": [0, 1, 2], "prompts": 8, "problems": 6, "problem_samples": 8}
    for key, value in (changes | {"training": training}).items():
        monkeypatch.setitem(rejection_rounds.SETTINGS, key, value)
    found = rejection_rounds.run(0)
    arms = rejection_rounds.SETTINGS["arms"]
    assert list(found["accuracy"]) == list(found["pass@8"]) == arms
    first = {curve[0] for curve in found["accuracy"].values()}
    assert len(first) == 1  # the same model, problems and random numbers
    # one round of either way of using right answers is the same: they part in the second
    goes_on, start = (found["accuracy"][arm] for arm in arms[:2])
    assert goes_on[1] == start[1] and all(len(curve) == 3 for curve in found["accuracy"].values())
    assert 0.0 < found["demonstrators"]["exact"] < 1.0
