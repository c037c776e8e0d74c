"""VinePPO: its advantages, its first step, learning, resuming, bad input."""

import copy
from dataclasses import replace
from itertools import islice

import pytest
import torch
from small_policies import CHARACTERS, small_policy

from rlbook.functional.returns import gae
from rlbook.lm import gpt2
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState
from rlbook.posttrain import vineppo as module
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.step_values import RolloutValues, states_of, steps_of
from rlbook.posttrain.vineppo import VinePPOConfig, vine_advantages, vineppo

LIMIT = 8
CONFIG = VinePPOConfig(
    updates=3, train_batch_size=4, rollouts_per_prompt=3, value_rollouts=2, mini_batch_size=2,
    epochs=2, learning_rate=1e-3,
)  # fmt: skip


def sevens(prompts, texts):
    return [text.count("7") / LIMIT for text in texts]


def digits(prompts, texts):
    return [sum(c.isdigit() for c in text) / LIMIT for text in texts]


def pairs_of_characters(text):
    return [*range(2, len(text), 2), len(text)]


@pytest.fixture
def task() -> Task:
    return Task.from_functions(
        list(CHARACTERS[:8]), sevens, pairs_of_characters, max_new_tokens=LIMIT
    )


def batch_of(policy, task, *, N=4, seed=0):
    return gather_experience(
        policy, task, prompts=N, rollouts_per_prompt=3, temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def planted(monkeypatch, value):
    """Values that are a known function of the state instead of rollouts."""

    def rollout_values(policy, task, states, **options):
        values = torch.tensor([value(state) for state in states])
        return RolloutValues(values, len(set(states)), 0, 0)

    monkeypatch.setattr(module, "rollout_values", rollout_values)


def some_value(state):
    return (sum(state.prompt) * 7 + sum((i + 1) * t for i, t in enumerate(state.written))) % 11 / 11


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("most", [None, 2])
def test_the_advantage_of_a_token_is_that_of_its_step_by_a_slow_loop(
    policy, task, monkeypatch, lam, most
):
    planted(monkeypatch, some_value)
    config = replace(CONFIG, lam=lam, normalise=False, max_valued_steps=most)
    batch = batch_of(policy, task)
    ours, values, _ = vine_advantages(policy, task, batch, config, torch.Generator())
    index = steps_of(policy, task, batch, most=most).tolist()
    states, exists = states_of(batch, torch.tensor(index))
    rows = exists.nonzero()[:, 0].tolist()
    longest = 0
    for b, R in enumerate(batch.rewards.tolist()):
        V = [some_value(s) for s, row in zip(states, rows, strict=True) if row == b]
        assert values[b].isfinite().sum() == len(V)
        assert values[b, : len(V)].tolist() == pytest.approx(V)
        S, T = len(V), int(batch.responses.lengths[b])
        deltas = [(R if i == S - 1 else V[i + 1]) - V[i] for i in range(S)]
        A = [sum(lam ** (j - i) * deltas[j] for j in range(i, S)) for i in range(S)]
        if lam == 0:
            assert sum(A) == pytest.approx(R - V[0], abs=1e-6)
        expected = [A[index[b][t]] if t < T else 0.0 for t in range(ours.shape[1])]
        assert ours[b].tolist() == pytest.approx(expected, abs=1e-6)
        longest = max(longest, S)
    assert longest == (most or 4)


def test_with_a_token_per_step_it_is_gae(policy, monkeypatch):
    """Steps of one token: PPO's advantages, with planted values in place of a network."""
    planted(monkeypatch, some_value)
    task = Task.from_functions(
        list(CHARACTERS[:8]), digits, lambda t: [*range(1, len(t)), len(t)], max_new_tokens=LIMIT
    )
    config = replace(CONFIG, lam=0.9, normalise=False)
    batch = batch_of(policy, task, N=16)
    ours, values, _ = vine_advantages(policy, task, batch, config, torch.Generator())
    mask = batch.responses.response_mask
    index = steps_of(policy, task, batch)
    V = torch.where(mask, values.gather(1, index.clamp(min=0)), 0.0)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    single = (index.max(dim=1).values + 1) == batch.responses.lengths  # EOS joins the last step
    assert single.sum() > 2
    rewards = torch.where(last, batch.rewards[:, None], 0.0)
    following = torch.where(last, 0.0, V.roll(-1, dims=1))
    theirs = gae(rewards, V, following, terminated=last, ended=last, gamma=1.0, lam=0.9)
    torch.testing.assert_close(ours[single], torch.where(mask, theirs, 0.0)[single])


def test_advantages_are_whitened_over_tokens(policy):
    task = Task.from_functions(
        list(CHARACTERS[:8]), digits, pairs_of_characters, max_new_tokens=LIMIT
    )
    batch = batch_of(policy, task)
    whitened, _, _ = vine_advantages(policy, task, batch, CONFIG, torch.Generator().manual_seed(0))
    raw, _, _ = vine_advantages(
        policy, task, batch, replace(CONFIG, normalise=False), torch.Generator().manual_seed(0)
    )
    mask = batch.responses.response_mask
    assert whitened[mask].mean().abs() < 1e-5
    assert whitened[mask].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    line = torch.corrcoef(torch.stack([whitened[mask], raw[mask]]))[0, 1]
    assert line == pytest.approx(1.0, abs=1e-5) and (whitened[~mask] == 0).all()


def test_the_first_step_has_ratio_one_and_an_idle_clip(policy, task):
    config = replace(CONFIG, epochs=1, mini_batch_size=4)
    for extra, ref in ((0.0, None), (0.1, small_policy(seed=9))):
        report = next(vineppo(copy.deepcopy(policy), task, replace(config, beta=extra), ref=ref))
        assert report["ratio"] == pytest.approx(1.0, abs=1e-5)
        assert report["clip_fraction"] == 0.0 and report["optimiser_steps"] == 1
        assert (report["kl_ref"] != 0) == (ref is not None)
    many = next(vineppo(policy, task, CONFIG))
    assert many["optimiser_steps"] == 4  # 4 prompts in 2s, twice


def test_micro_batches_change_memory_alone(exact_policy, task):
    config = replace(CONFIG, updates=1, beta=0.1)
    weights = []
    for cells in (None, 40):
        learner = copy.deepcopy(exact_policy)
        ref = small_policy(seed=9, dtype=torch.float64)
        next(vineppo(learner, task, replace(config, micro_tokens=cells), ref=ref))
        weights.append(torch.cat([p.flatten() for p in learner.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-7)  # after Adam, which divides by √v


def test_tokens_and_states_are_counted(policy, task, monkeypatch):
    read, hidden_states = [], gpt2.hidden_states

    def noted(model, ids, *, attention_mask=None, cache=None, **options):
        if cache is not None and cache.length == 0:
            read.append(ids.numel() if attention_mask is None else int(attention_mask.sum()))
        return hidden_states(model, ids, attention_mask=attention_mask, cache=cache, **options)

    monkeypatch.setattr(gpt2, "hidden_states", noted)
    report = next(vineppo(policy, task, CONFIG))
    assert report["prefilled"] == sum(read) and len(read) == 2  # the prompts, and the states
    assert report["states"] < report["steps"] <= 12 * 4
    assert report.samples == report["generated"] > report["states"] * CONFIG.value_rollouts
    for part in ("sampling", "values", "training"):
        assert report[f"seconds_{part}"] > 0
    assert 0 <= report["value"] <= 1
    read.clear()  # now of eight prompts, of one token each, twelve are drawn, and are all states
    alone = next(vineppo(policy, task, replace(CONFIG, train_batch_size=12, max_valued_steps=1)))
    assert alone["states"] <= 8 and alone["steps"] == 36
    assert alone["prefilled"] == sum(read) == 2 * alone["states"]


def test_it_learns_what_is_rewarded(policy, task):
    config = replace(
        CONFIG, updates=14, train_batch_size=16, mini_batch_size=16, learning_rate=1e-2
    )
    rewards = [report["reward"] for report in vineppo(policy, task, config)]
    assert sum(rewards[:3]) / 3 < 0.2 < 0.4 < sum(rewards[-3:]) / 3


def test_a_table_learns_too():
    """A policy without a tokenizer, a step per token."""
    model = TabularLM.with_eos(torch.Generator().manual_seed(0), prompts=[[0], [1]])
    task = Task.from_functions(
        [[0], [1]],
        lambda prompts, texts: [float(text == "1 0") for text in texts],
        lambda text: [*range(1, len(text), 2), len(text)],
        max_new_tokens=3,
    )
    config = replace(
        CONFIG, updates=11, train_batch_size=8, rollouts_per_prompt=6, value_rollouts=1, epochs=1,
        learning_rate=0.4, seed=1,
    )  # fmt: skip
    rewards = [report["reward"] for report in vineppo(Policy(model), task, config)]
    assert sum(rewards[-3:]) / 3 > 0.8 > 0.2 > sum(rewards[:3]) / 3


def test_a_price_holds_the_policy_near_the_reference(policy, task):
    config = replace(CONFIG, updates=8, train_batch_size=8, mini_batch_size=8, learning_rate=3e-3)
    far = {}
    for beta in (0.0, 0.5):
        learner, ref = copy.deepcopy(policy), copy.deepcopy(policy)
        *_, last = vineppo(learner, task, replace(config, beta=beta), ref=ref)
        far[beta] = last["kl_ref"]
    assert far[0.5] < 0.5 * far[0.0]


def test_going_on_is_bit_for_bit_the_same(policy, task, tmp_path):
    config = replace(CONFIG, beta=0.05)
    ref, whole = copy.deepcopy(policy), copy.deepcopy(policy)
    reports = list(vineppo(whole, task, config, ref=ref))
    state = LoopState()
    list(islice(vineppo(policy, task, config, ref=ref, state=state), 2))
    policy.save(tmp_path / "policy")
    state.save(tmp_path / "state.pt")
    resumed, state = load_policy(tmp_path / "policy"), LoopState.load(tmp_path / "state.pt")
    (rest,) = vineppo(resumed, task, config, ref=ref, state=state)

    def timeless(report):
        return {k: v for k, v in report.metrics.items() if not k.startswith("seconds")}

    assert timeless(rest) == timeless(reports[-1]) and rest.samples == reports[-1].samples
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_in_bfloat16_keeps_its_weights_in_float32(policy, task):
    config = replace(CONFIG, updates=2, bf16=True, recompute=True)
    before = copy.deepcopy(policy.model.state_dict())
    reports = list(vineppo(policy, task, config))
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    assert any((before[name] != x).any() for name, x in policy.model.state_dict().items())
    assert reports[0]["ratio"] == pytest.approx(1.0, abs=0.05)


def test_temperature_is_that_of_the_sampling_and_the_scoring(policy, task):
    config = replace(CONFIG, temperature=2.0, updates=1, epochs=1, mini_batch_size=2)
    assert next(vineppo(policy, task, config))["ratio"] == pytest.approx(1.0, abs=0.05)


def test_where_nothing_is_at_stake_nothing_moves(policy):
    """No response earns anything: all values and advantages are 0, whitened or not."""
    task = Task.from_functions(
        ["1"], lambda p, t: [0.0] * len(t), pairs_of_characters, max_new_tokens=LIMIT
    )
    before = copy.deepcopy(policy.model.state_dict())
    (report,) = vineppo(policy, task, replace(CONFIG, updates=1))
    assert report["grad_norm"] == report["value"] == report["reward"] == 0.0
    assert all(torch.equal(before[name], x) for name, x in policy.model.state_dict().items())


def test_settings_arrive_where_they_are_used(policy, task, monkeypatch):
    """Those of the optimiser steps in grpo.py's settings, those of the rollouts in the rollouts."""
    changes = {
        "train_batch_size": 3, "rollouts_per_prompt": 2, "mini_batch_size": 1, "micro_tokens": 77,
        "epochs": 5, "clip": 0.1, "clip_high": 0.3, "beta": 0.7, "temperature": 0.9,
        "max_grad_norm": 0.6, "bf16": True, "recompute": True,
    }  # fmt: skip
    steps = replace(CONFIG, **changes).steps
    assert {name: getattr(steps, name) for name in changes} == changes
    assert (steps.ratio, steps.loss, steps.aggregation) == ("token", "ppo", "token-mean")
    seen = {}

    def noted(policy, task, states, **options):
        seen.update(options)
        return RolloutValues(torch.zeros(len(states)), len(set(states)), 0, 0)

    monkeypatch.setattr(module, "rollout_values", noted)
    config = replace(CONFIG, value_rollouts=7, temperature=0.9, rollout_rows=5)
    vine_advantages(policy, task, batch_of(policy, task), config, torch.Generator())
    seen.pop("generator")
    assert seen == {"rollouts": 7, "temperature": 0.9, "most_rows": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_rollouts": 0}, "value_rollouts=0 must be at least 1"),
        ({"rollout_rows": 0}, "rollout_rows=0 must be at least 1"),
        ({"max_valued_steps": 0}, "max_valued_steps=0 must be at least 1, or None"),
        ({"lam": 1.5}, "lam=1.5 must lie in 0 to 1"),
        ({"beta": -0.1}, "beta=-0.1 must not be negative"),
        ({"beta": 0.1}, "needs a reference"),
    ],
)
def test_settings_that_mean_nothing_are_refused(policy, task, changes, message):
    with pytest.raises(ValueError, match=message):
        next(vineppo(policy, task, replace(CONFIG, **changes)))


def test_another_vocabulary_and_boundaries_that_are_none_are_named(policy, task):
    table = TabularLM.fixed_length(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="the reference chooses among 3 tokens"):
        next(vineppo(policy, task, replace(CONFIG, beta=0.1), ref=Policy(table)))
    broken = Task.from_functions(["1"], sevens, lambda text: [1], max_new_tokens=LIMIT)
    with pytest.raises(ValueError, match="boundaries"):
        next(vineppo(policy, broken, CONFIG))
