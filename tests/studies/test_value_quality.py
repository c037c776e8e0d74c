"""The study of value estimates: its parts by hand, a small run, and what its record says."""

import itertools
from pathlib import Path

import pytest
import torch

from rlbook.lm.heads import ScalarModel, token_values
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.step_values import states_of, steps_of
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import recorded
from rlbook.studies import value_quality as study

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def policy():
    return load_policy("arithmetic-sft", device="cpu")


@pytest.fixture
def small(monkeypatch):
    settings = study.SETTINGS
    ppo = {"train_batch_size": 4, "rollouts_per_prompt": 2, "mini_batch_size": 4}
    fit = {"at": 2, "prompts": 4, "samples": 2, "epochs": 1, "rows": 4}
    changes = {
        "steps": 3, "practised": 8, "x": [1, 2], "truth": 16, "K": [1, 3], "responses": 6,
        "ranked": 4, "most": 4, "ppo": settings["ppo"] | ppo, "fit": settings["fit"] | fit,
    }  # fmt: skip
    for key, value in changes.items():
        monkeypatch.setitem(settings, key, value)
    return settings


def test_a_seed_is_the_same_again_and_measures_each_moment(small):
    found = study.run(3)
    assert found == study.run(3)
    assert set(found["agreement"]) == {"critic", "critic, fitted", "MC, K = 1", "MC, K = 3"}
    assert len(found["agreement"].pop("critic, fitted")) == 1  # at one moment alone
    assert len(found["error_by_depth"].pop("critic, fitted")) == 1
    assert set(found["error"]) == {*found["ties"], "mean", "truth"}
    for name, shares in found["agreement"].items():
        ties = found["ties"][name]
        assert len(shares) == len(ties) == 2
        assert all(abs(s - 0.5) <= 0.5001 - t / 2 for s, t in zip(shares, ties, strict=True))
    assert all(n >= 4 * 3 for n in map(sum, zip(*found["pairs"].values(), strict=True)))
    for errors in found["error_by_depth"].values():
        assert [len(depths) for depths in errors] == [3, 3]
    assert 0 < found["error"]["truth"][0] < 0.15  # √(2/π · ¼/15) is the most


def test_the_critic_is_read_where_ppo_reads_it(policy, small):
    model = ScalarModel(policy, init="reward", generator=seeded())
    task = Arithmetic.horizon(3)
    batch = gather_experience(
        policy, task, prompts=5, rollouts_per_prompt=2, temperature=1.0, generator=seeded()
    )
    index = steps_of(policy, task, batch)
    states, _ = states_of(batch, index)
    along = token_values(model, batch.responses).detach()
    first = index.diff(dim=1, prepend=index.new_full((len(index), 1), -1)) > 0
    expected = along[first & batch.responses.response_mask]
    torch.testing.assert_close(
        study.critic_values(policy, model, states), expected, rtol=0, atol=1e-5
    )
    assert expected.std() > 0.01 and len(states) == len(expected)


def test_next_states_are_one_different_step_further(policy, small):
    task = Arithmetic.horizon(3)
    states, depth = study.drawn_states(policy, task, seeded(1))
    assert sorted(set(depth.tolist())) == [0, 1, 2] and len(states) == len(depth) == 18
    parents = [state for state, step in zip(states, depth.tolist(), strict=True) if step < 2]
    groups = study.next_states(policy, task, parents, seeded(2))
    assert len(groups) > 2
    for group in groups:
        texts = [policy.decode(state.written) for state in group]
        before = {text[: text[:-1].rfind(";") + 1] for text in texts}
        assert len(before) == 1 and before <= {
            policy.decode(s.written) for s in parents if s.prompt == group[0].prompt
        }
        assert all(text[-1] == ";" for text in texts) and 3 <= len(set(texts)) == len(texts) <= 4


def test_pairs_and_their_order_by_hand():
    pairs = study.pairs_within([3, 2])
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    truth = torch.tensor([0.9, 0.5, 0.45, 0.0, 0.0])
    variance = truth * (1 - truth) / 255
    # 0.05 is less than three times √(2 · ¼/255) = 0.044; two zeros are equal
    assert study.ordered_by(truth, variance, pairs).tolist() == [True, True, False, False]
    estimate = torch.tensor([1.0, 1.0, 0.0, 0.3, 0.6])
    assert study.agreement_signs(estimate, truth, pairs[:2]).tolist() == [0.0, 1.0]
    assert study.agreement_signs(-estimate, truth, pairs[:3]).tolist() == [0.0, -1.0, -1.0]


def test_the_mean_squared_error_is_freed_of_the_truths_own(monkeypatch, small, policy):
    """A perfect estimate has an error of 0: V known, the "truth" a mean of 16 coins."""
    V, n = 0.3, 20_000
    truth = (torch.rand(n, 16, generator=seeded()) < V).float().mean(dim=1)
    found = study.Estimates(truth, truth * (1 - truth) / 15, {"exact": torch.full((n,), V)})
    depth = torch.arange(n) % 3
    monkeypatch.setattr(study, "drawn_states", lambda *arguments: ([], depth))
    monkeypatch.setattr(study, "estimated", lambda *arguments: found)
    measured = study.accuracy(policy, {}, Arithmetic.horizon(3), seeded())
    # standard errors: √(V(1-V)/16/n) = 0.0008, and about 1.5 · 0.013/√n = 0.00014
    assert measured["bias"]["exact"] == pytest.approx(0.0, abs=0.004)
    assert measured["mse"]["exact"] == pytest.approx(0.0, abs=0.0008)
    assert measured["variance"]["V(1 - V)"] == pytest.approx(V * (1 - V), abs=0.004)
    assert measured["error"]["truth"] == pytest.approx(measured["error"]["exact"], rel=0.05)
    assert measured["error"]["mean"] == pytest.approx(measured["error"]["exact"], rel=0.02)


def test_a_fitted_critic_fits_better(policy, small, monkeypatch):
    fit = {"prompts": 32, "samples": 4, "epochs": 3, "rows": 32}
    monkeypatch.setitem(small, "fit", small["fit"] | fit)
    task = Arithmetic.horizon(3).fixed(32, seeded())
    model = ScalarModel(policy, init="zero")
    better = study.fitted(policy, model, task, seeded(1))
    assert all((p == 0).all() for p in model.head.parameters())  # the one before is left alone
    batch = gather_experience(
        policy, task, prompts=32, rollouts_per_prompt=4, temperature=1.0, generator=seeded(2)
    )
    mask = batch.responses.response_mask
    errors = [
        (token_values(m, batch.responses) - batch.rewards[:, None])[mask].square().mean().item()
        for m in (model, better)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_by_depth_is_a_mean_for_each_step(small):
    x, depth = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([0, 1, 0, 2])
    assert study.by_depth(x, depth) == [2.0, 2.0, 5.0]
    assert list(itertools.chain(study.by_depth(x, torch.tensor([0, 1, 2, 2])))) == [1.0, 2.0, 4.0]


def test_rollouts_rank_steps_and_the_critic_does_not():
    run = recorded.load_run("value-quality", folder=RUNS)
    agreement, error, bias = (run.curves(name) for name in ("agreement", "error", "bias"))
    assert len(run.seeds) >= 5 and (run.curves("pairs")["ordered"] > 0).all()
    critic = agreement["critic"].mean(axis=1)
    assert mean_interval(critic).low < 0.5 < mean_interval(critic).high < 0.65
    for K in (1, 3, 9):
        assert paired_interval(agreement[f"MC, K = {K}"].mean(axis=1), critic).low > 0.3
        chance = mean_interval(bias[f"MC, K = {K}"].mean(axis=1))
        assert -0.03 < chance.low and chance.high < 0.03
    assert paired_interval(error["critic"][:, 0], error["MC, K = 9"][:, 0]).low > 0.15
    # where nearly all is solved, one number for all states is as good as the critic
    assert error["mean"][:, -1].mean() < error["critic"][:, -1].mean() < 0.07
