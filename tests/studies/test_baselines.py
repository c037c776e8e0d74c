"""The study of REINFORCE's baselines: its parts by hand, and what its recorded run says."""

from pathlib import Path

import pytest
import torch

from rlbook.control.collect import episodes, make_envs
from rlbook.control.networks import ActorCritic, sizes
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import action_logprobs, reinforce_loss
from rlbook.report import StepReport
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import baselines, recorded, runner

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.fixture
def played():
    envs = make_envs("CartPole-v1", 5)
    network = ActorCritic(*sizes(envs), seed=0)
    return network, episodes(envs, network.policy, generator=torch.Generator().manual_seed(0))


def test_a_variance_by_hand() -> None:
    # columns 1, 3 and 0, 4: sample variances 2 and 8
    assert baselines.total_variance(torch.tensor([[1.0, 0.0], [3.0, 4.0]])) == 10.0


def test_the_gradients_of_the_episodes_sum_to_that_of_the_batch(played) -> None:
    network, batch = played
    advantages = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1))
    rows = baselines.episode_gradients(network, batch, advantages)
    logprobs = action_logprobs(network.policy(batch.observations), batch.actions)
    loss = aggregate(reinforce_loss(logprobs, advantages), batch.mask, "fixed-length", length=1)
    gradients = torch.autograd.grad(-loss, list(network.actor.parameters()))
    expected = torch.cat([g.flatten() for g in gradients])
    # float32 sums in another order
    torch.testing.assert_close(rows.mean(dim=0), expected, rtol=1e-4, atol=1e-5)


def test_curves_are_read_off_between_updates(monkeypatch) -> None:
    monkeypatch.setitem(baselines.SETTINGS, "x", [50, 150, 400])
    reports = [StepReport(1, 100), StepReport(2, 200)]
    assert baselines.against_steps(reports, [10.0, 30.0]).tolist() == [10.0, 20.0, 30.0]


def test_a_seed_decides_everything(monkeypatch) -> None:
    for key, value in {"x": [200, 400], "moments": [200], "moment_episodes": 4}.items():
        monkeypatch.setitem(baselines.SETTINGS, key, value)
    first = runner.checked(baselines.run(3))
    assert first == runner.checked(baselines.run(3))
    assert first != runner.checked(baselines.run(4))
    assert first["gradient variance"]["none"] == [1.0]


def test_baselines_take_most_of_the_variance_away_and_learn_no_slower() -> None:
    run = recorded.load_run("baselines", folder=RUNS)
    assert all(c.shape[1] == len(run.settings["x"]) for c in run.curves("return").values())
    scatter = run.curves("gradient variance")
    for arm in ("mean", "value"):
        assert scatter[arm].shape[1] == len(run.settings["moments"])
        assert (mean_interval(scatter[arm]).high < 0.7).all()
        assert mean_interval(scatter[arm]).high[-1] < 0.15
    earned = {arm: curve.mean(axis=1) for arm, curve in run.curves("return").items()}
    assert paired_interval(earned["value"], earned["none"]).low > 0.0
