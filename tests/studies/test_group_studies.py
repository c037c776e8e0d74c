"""The studies of group methods, small: what is equal among the arms, and what is measured."""

import pytest
import torch

from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.grpo import GRPOConfig, grpo
from rlbook.studies import fixed_set, group_size, grpo_kl, grpo_variants, sharpening, staleness
from rlbook.studies.group_training import held_out, measured_training

TINY = {"train_batch_size": 4, "rollouts_per_prompt": 4, "learning_rate": 1e-3}


@pytest.fixture
def small(monkeypatch):
    def change(study, **settings):
        for key, value in ({"problems": 8, "x": [0, 1, 2]} | settings).items():
            monkeypatch.setitem(study.SETTINGS, key, value)

    return change


def alike_at_the_start(curves):
    return len({curve[0] for curve in curves.values()}) == 1


def test_what_is_measured_is_the_loops_log():
    config = GRPOConfig(updates=3, seed=1, **TINY)
    task = Arithmetic()
    found = measured_training(
        load_policy("arithmetic-sft", device="cpu"), task, config, x=[0, 1, 3],
        problems=held_out(task, 8, 1), logged=["length"],
    )  # fmt: skip
    log = list(grpo(load_policy("arithmetic-sft", device="cpu"), task, config))
    lengths = [report["length"] for report in log]
    expected = [lengths[0], lengths[0], (lengths[1] + lengths[2]) / 2]
    assert found["length"] == pytest.approx(expected)
    assert len(found["accuracy"]) == 3


def test_every_variant_begins_alike(small):
    small(grpo_variants, training=TINY)
    found = grpo_variants.run(0)
    assert set(found) == {"accuracy", "length", "entropy", "truncated", "informative"}
    assert all(list(arms) == grpo_variants.SETTINGS["arms"] for arms in found.values())
    assert alike_at_the_start(found["accuracy"])
    same = {arm: curve for arm, curve in found["length"].items() if arm != "DAPO"}
    assert alike_at_the_start(same)  # the same samples but for the one that draws more


def test_groups_of_every_size_have_as_many_samples(small):
    small(group_size, samples=16, sizes=[2, 8])
    found = group_size.run(0)
    assert list(found["accuracy"]) == ["K = 2", "K = 8"] and alike_at_the_start(found["accuracy"])
    assert all(0.0 <= x <= 1.0 for curve in found["informative"].values() for x in curve)


def test_kl_begins_at_nothing(small):
    small(grpo_kl, betas=[0.0, 1.0], training=TINY)
    found = grpo_kl.run(0)
    assert alike_at_the_start(found["accuracy"])
    assert all(curve[0] == 0.0 for curve in found["kl"].values())


def test_a_sampler_that_lags_has_a_distance(small):
    arms = [["PPO clip", 1], ["PPO clip", 2], ["no ratio", 2]]
    training = {**TINY, "train_batch_size": 16, "learning_rate": 1e-2}
    small(staleness, arms=arms, training=training)
    found = staleness.run(0)
    assert alike_at_the_start(found["accuracy"])
    on, off, ignored = found["kl_old"].values()
    assert max(on) == 0.0 and off[:2] == ignored[:2] == [0.0, 0.0]
    assert off[2] > 0.0 and ignored[2] > 0.0
    # "no ratio" clips the weight of every token whose ratio is not 1
    assert found["clipped"]["no ratio, refresh 2"][2] > found["clipped"]["PPO clip, refresh 2"][2]


def test_the_fixed_set_is_fixed(small):
    small(fixed_set, sets=[4, None], training=TINY)
    found = fixed_set.run(0)
    assert list(found["train"]) == list(found["test"]) == ["4 fixed", "fresh"]
    assert alike_at_the_start(found["test"])
    task = fixed_set.training_task(4, 0)
    drawn = {p.prompt for p in task.problems(40, torch.Generator().manual_seed(5))}
    assert len(drawn) == 4


def test_three_models_answer_the_same_problems(small):
    small(sharpening, x=[1, 2], training=TINY | {"updates": 1})
    found = sharpening.run(0)
    assert list(found["pass@k"]) == ["base", "SFT", "RL"]
    assert all(a <= b for a, b in found["pass@k"].values())
    assert set(found["gained"]) == set(found["lost"]) == {"base", "SFT"}
    assert found["pass@k"]["base"][1] > found["pass@k"]["SFT"][1]
