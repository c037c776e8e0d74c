"""The study of λ: a seed decides everything, and the recorded run shows what chapter 08 says."""

from pathlib import Path

import numpy as np
import pytest

from rlbook.statistics import paired_interval
from rlbook.studies import gae_lambda
from rlbook.studies.recorded import Run, load_run
from rlbook.studies.runner import checked


@pytest.fixture(scope="module")
def recorded() -> Run:
    return load_run("gae-lambda", folder=Path(__file__).resolve().parents[2] / "data" / "runs")


def test_a_seed_decides_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    small = gae_lambda.SETTINGS["a2c"] | {"total_steps": 512, "rollout_steps": 8}
    for key, value in {"a2c": small, "envs": 4, "lams": [0.0, 1.0], "updates_per_point": 4}.items():
        monkeypatch.setitem(gae_lambda.SETTINGS, key, value)
    first = checked(gae_lambda.run(1))
    assert first == checked(gae_lambda.run(1)) != checked(gae_lambda.run(2))
    assert {arm: len(curve) for arm, curve in first["return"].items()} == {"λ = 0": 4, "λ = 1": 4}


def test_points_lie_where_the_settings_say(recorded: Run) -> None:
    settings = recorded.settings
    step = settings["envs"] * settings["a2c"]["rollout_steps"] * settings["updates_per_point"]
    points = settings["a2c"]["total_steps"] // step
    assert settings["x"] == [step * (k + 1) for k in range(points)]
    for measure in ("return", "explained"):
        curves = recorded.curves(measure)
        assert list(curves) == [f"λ = {lam:g}" for lam in settings["lams"]]
        assert {curve.shape for curve in curves.values()} == {(len(recorded.seeds), points)}


def test_a_one_step_advantage_unlearns_first_and_a_long_one_learns(recorded: Run) -> None:
    returns = recorded.curves("return")
    late = {arm: curve[:, -10:].mean(axis=1) for arm, curve in returns.items()}
    assert returns["λ = 0"].mean(axis=0).min() < 15.0 < 20.0 < returns["λ = 0"][:, 0].mean()
    for lam in ("0", "0.5", "0.8"):
        assert paired_interval(late["λ = 0.95"], late[f"λ = {lam}"]).low > 0.0
    # λ = 1: the mean alone, the interval holds 0
    assert np.mean(late["λ = 0.95"]) > np.mean(late["λ = 1"])
