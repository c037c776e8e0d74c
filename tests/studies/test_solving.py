"""DQN on CartPole, PPO and A2C on LunarLander: a seed decides everything, and what was reached."""

import importlib.util
from pathlib import Path

import pytest

from rlbook.studies import dqn_cartpole, lunar_lander
from rlbook.studies.catalogue import StudyError
from rlbook.studies.recorded import Run, load_run
from rlbook.studies.runner import checked


def load(name: str) -> Run:
    return load_run(name, folder=Path(__file__).resolve().parents[2] / "data" / "runs")


def test_a_seed_of_dqn_decides_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dqn_cartpole.SETTINGS["config"] | {"gradient_steps": 4, "batch_size": 8}
    for key, value in {"hidden": [16], "x": [1_280, 2_560], "config": config}.items():
        monkeypatch.setitem(dqn_cartpole.SETTINGS, key, value)
    for key in ("evaluated", "evaluated_at_last"):
        monkeypatch.setitem(dqn_cartpole.SETTINGS, key, 2)
    first = checked(dqn_cartpole.run(1))
    assert first == checked(dqn_cartpole.run(1)) != checked(dqn_cartpole.run(2))
    assert len(first["return"]["DQN"]) == len(first["greedy return"]["DQN"]) == 2
    assert first["final"]["DQN"] >= 8.0  # no pole falls sooner


def test_dqn_solves_cartpole_in_four_seeds_of_five() -> None:
    run = load("dqn-cartpole")
    final = run.curves("final")["DQN"]
    assert len(final) == 5 and (final >= 475.0).sum() >= 4
    for measure in ("return", "greedy return"):
        assert run.curves(measure)["DQN"].shape == (5, len(run.settings["x"]))


def test_ppo_lands_in_every_seed_and_a2c_in_none() -> None:
    run = load("lunar-lander")
    greedy, landed = run.curves("greedy"), run.curves("landed")
    assert len(greedy["PPO"]) == 5 and greedy["PPO"].min() >= run.settings["solved"]
    assert greedy["A2C"].max() < 0.0 and landed["A2C"].max() < 0.1 < 0.8 < landed["PPO"].min()
    assert {curve.shape for curve in run.curves("return").values()} == {(5, len(run.settings["x"]))}


def test_a_seed_of_lunar_lander_decides_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("Box2D", reason="the extra box2d is not installed")
    configs = {
        name: options | {"rollout_steps": 64}
        for name, options in lunar_lander.SETTINGS["configs"].items()
    }
    configs["PPO"] |= {"minibatches": 2}
    changes = {"x": [256, 512], "count": 2, "evaluation_episodes": 1, "configs": configs}
    for key, value in changes.items():
        monkeypatch.setitem(lunar_lander.SETTINGS, key, value)
    first = checked(lunar_lander.run(1))
    assert first == checked(lunar_lander.run(1)) != checked(lunar_lander.run(2))
    assert {method: len(curve) for method, curve in first["return"].items()} == dict.fromkeys(
        configs, 2
    )


def test_without_box2d_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "Box2D" else real(name)
    )
    with pytest.raises(StudyError, match=r"^LunarLander needs Box2D.*pip install .*box2d") as error:
        lunar_lander.run(0)
    assert "\n" not in str(error.value)
