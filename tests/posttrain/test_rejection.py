"""Rejection sampling: best-of-n by hand and by enumeration; filters; the loop; going on."""

import itertools
import math
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from small_policies import small_policy

from rlbook.lm.batch import responses_from_texts
from rlbook.lm.evaluation import pass_at_k
from rlbook.lm.exact import (
    best_of_n_logprobs,
    enumerate_responses,
    expected_pass_at_k,
    expected_reward,
    matching,
    policy_gradient,
    sequence_kl,
    sequence_logprobs,
)
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.gridpath import GridPath
from rlbook.lm.tasks.task import Problem, Task
from rlbook.loop import LoopState
from rlbook.posttrain.experience import Experience
from rlbook.posttrain.packing import encode_examples, rows_of
from rlbook.posttrain.rejection import (
    RejectionConfig,
    best_of_n,
    best_of_n_kl_bound,
    best_of_n_reward,
    chosen_rows,
    examples,
    keep_all,
    keep_both,
    keep_correct,
    keep_judged,
    measure,
    rejection_sampling,
)
from rlbook.posttrain.sft import SFTConfig, sft_loss

CONFIG = RejectionConfig(
    rounds=3,
    train_batch_size=8,
    rollouts_per_prompt=4,
    training=SFTConfig(steps=3, batch_size=4, learning_rate=1e-2, warmup=1),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def even_task(limit: int = 6) -> Task:
    """Reward 1 for a response of an even number of characters: half of them pass at random."""
    return Task.from_functions(
        ["1+2=", "7-4=", "9*9="],
        lambda problems, texts: [float(len(text) % 2 == 0) for text in texts],
        max_new_tokens=limit,
    )


def batch_of(policy: Policy, prompts, texts, rewards, K: int) -> Experience:
    responses = responses_from_texts(policy, prompts, texts)
    return Experience([Problem(p) for p in prompts], responses, torch.tensor(rewards), K)


# --- best-of-n -------------------------------------------------------------------------------


def test_the_best_of_each_group_and_the_first_of_equals():
    scores = torch.tensor([0.1, 0.7, 0.3, 2.0, 1.0, 2.0])
    assert best_of_n(scores, 3).tolist() == [1, 3]
    assert best_of_n(scores, 2).tolist() == [1, 3, 5]
    assert best_of_n(scores, 1).tolist() == list(range(6))


def test_the_estimate_by_hand():
    # Of 1, 2, 4 two are drawn: {1,2} -> 2, {1,4} -> 4, {2,4} -> 4: 10/3
    scores = torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64)
    expected = {1: 7 / 3, 2: 10 / 3, 3: 4.0}
    for n, value in expected.items():
        assert best_of_n_reward(scores, n=n).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_estimate_is_the_mean_over_all_subsets_ties_shared(n):
    generator = seeded(0)
    scores = torch.randint(0, 3, (4, 5), generator=generator).double()
    rewards = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found = best_of_n_reward(scores, rewards, n=n)
    for row in range(4):
        means = []
        for subset in itertools.combinations(range(5), n):
            best = max(scores[row, i] for i in subset)
            means.append(
                torch.stack([rewards[row, i] for i in subset if scores[row, i] == best]).mean()
            )
        assert found[row].item() == pytest.approx(torch.stack(means).mean().item(), abs=1e-12)


def test_with_0_and_1_the_estimate_is_pass_at_n():
    rewards = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    for n in (1, 2, 4, 6):
        found = best_of_n_reward(rewards, n=n).tolist()
        assert found == pytest.approx([pass_at_k(6, 2, n), pass_at_k(6, 0, n)], abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_distribution_is_that_of_every_tuple_of_n(n):
    """Every ordered tuple of n responses, the first of the best ones taken; ties among rewards."""
    model = TabularLM.with_eos(seeded(1), max_new_tokens=2, prompts=((0,), (1,)))
    M = len(model.space.responses)
    rewards = torch.randint(0, 3, (2 * M,), generator=seeded(2)).double()
    found = best_of_n_logprobs(model, rewards, n=n).exp().view(2, M)
    pi = sequence_logprobs(model).exp().view(2, M).tolist()
    for prompt in range(2):
        expected = torch.zeros(M, dtype=torch.float64)
        for group in itertools.product(range(M), repeat=n):
            chance = math.prod(pi[prompt][y] for y in group)
            row = best_of_n(rewards.view(2, M)[prompt, list(group)], n).item()
            expected[group[row]] += chance
        torch.testing.assert_close(found[prompt], expected, rtol=0, atol=1e-12)


def test_the_distribution_at_the_ends():
    model = TabularLM.fixed_length(seeded(3))
    rewards = torch.randint(0, 2, (27,), generator=seeded(4)).double()
    once = best_of_n_logprobs(model, rewards, n=1)
    torch.testing.assert_close(once, sequence_logprobs(model), rtol=0, atol=1e-12)
    p = expected_reward(model, rewards)
    for n in (2, 8):
        best = matching(model, best_of_n_logprobs(model, rewards, n=n))
        assert expected_reward(best, rewards).item() == pytest.approx(
            expected_pass_at_k(model, rewards, k=n).item(), abs=1e-12
        )
    # The best of very many with a 0/1 reward is the policy given that it is right: KL = -log p.
    many = matching(model, best_of_n_logprobs(model, rewards, n=500))
    assert sequence_kl(many, model).item() == pytest.approx(-p.log().item(), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
def test_the_exact_kl_is_below_the_bound_and_further_below_with_ties(n):
    model = TabularLM.fixed_length(seeded(5), vocab_size=4)
    different = torch.randn(64, generator=seeded(6), dtype=torch.float64)
    ties = (different > 0.5).double()
    bound = best_of_n_kl_bound(n)
    exact, tied = (
        sequence_kl(matching(model, best_of_n_logprobs(model, rewards, n=n)), model).item()
        for rewards in (different, ties)
    )
    assert exact <= bound + 1e-12
    assert n == 1 or 0 < tied < exact < bound


def test_the_bound_is_reached_where_no_response_is_likely():
    """1,000 equally likely responses, all different: n = 4 comes within a few thousandths."""
    model = TabularLM([[0]], vocab_size=10, max_new_tokens=3)
    rewards = torch.arange(1000.0)
    kl = sequence_kl(matching(model, best_of_n_logprobs(model, rewards, n=4)), model).item()
    # the missing part is of the order n/M
    assert 0 < best_of_n_kl_bound(4) - kl < 4e-3
    assert best_of_n_kl_bound(1) == 0.0
    assert best_of_n_kl_bound(4) == pytest.approx(math.log(4) - 0.75, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_n(torch.zeros(5), 2), "n=2 does not divide 5 scores"),
        (lambda: best_of_n(torch.zeros(4), 0), "n=0"),
        (lambda: best_of_n(torch.tensor([0.0, math.nan]), 2), r"scores\[1\] is NaN"),
        (lambda: best_of_n_reward(torch.zeros(2, 3), n=4), "n=4"),
        (lambda: best_of_n_reward(torch.zeros(2, 3), torch.zeros(2, 2), n=1), "the same"),
        (lambda: best_of_n_reward(torch.full((1, 2), math.nan), n=1), r"scores\[0\] is NaN"),
        (lambda: best_of_n_kl_bound(0), "n=0"),
        (
            lambda: best_of_n_logprobs(TabularLM.fixed_length(seeded(0)), torch.zeros(27), n=0),
            "n=0",
        ),
    ],
)
def test_what_best_of_n_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- what the fine-tuning follows ------------------------------------------------------------


def test_the_first_step_follows_the_policy_gradient():
    """-E[R · (SFT loss of the summed log-probability)] has gradient ∇J, by enumeration."""
    model = TabularLM.with_eos(seeded(7), prompts=((0,), (1,)))
    every = enumerate_responses(model)
    rewards = torch.randint(0, 2, (len(every),), generator=seeded(8)).double()
    policy = Policy(model, None)
    prompts = every.prompt_ids[:, -1:].tolist()
    total = torch.zeros_like(model.table)
    for row in (rewards * ~every.truncated).nonzero()[:, 0].tolist():
        ids = every.response_ids[row, every.response_mask[row]].tolist()
        rows = rows_of([encode_examples(policy, [(prompts[row], ids)])], pad_id=policy.pad_id)
        loss = sft_loss(model, rows, denominator=1)  # the sum over tokens
        (slope,) = torch.autograd.grad(loss, model.table)
        total -= every.sampler_logprobs[row].sum().exp() / 2 * slope
    whole = rewards * ~every.truncated
    torch.testing.assert_close(total, policy_gradient(model, whole), rtol=0, atol=1e-12)


# --- filters and examples --------------------------------------------------------------------


def test_filters_by_outcome_and_by_process():
    task, policy = Arithmetic(noise=0.0), load_policy("arithmetic-sft", device="cpu")
    prompts = ["2*3+1="] * 3 + ["5*0-1="]
    texts = ["2*3=6;6+1=7.", "2*3=5;5+1=6.", "2*3=5;5+1=7.", "5*0=5;5-1=9."]
    problems = [Problem(p, a) for p, a in zip(prompts, "7779", strict=True)]
    batch = Experience(
        problems,
        responses_from_texts(policy, prompts, texts),
        task.rewards(problems, texts),
        4,
    )
    generator = seeded(0)
    sound = keep_judged(partial(task.judge_steps, error=0.0))
    wrong = keep_judged(partial(task.judge_steps, error=1.0))
    assert keep_all(batch, generator).tolist() == [True] * 4
    assert keep_correct(batch, generator).tolist() == [True, False, True, True]
    assert sound(batch, generator).tolist() == [True, False, False, False]
    assert wrong(batch, generator).tolist() == [False, False, True, True]  # every step is wrong
    assert keep_both(keep_correct, sound)(batch, generator).tolist() == [True, False, False, False]
    steps = keep_judged(lambda problem, text, g: [problem.answer == "9", True])
    assert keep_both(steps, keep_correct)(batch, generator).tolist() == [False] * 3 + [True]


def test_a_sound_path_may_miss_the_goal_and_pass_the_judge():
    task, policy = GridPath(), load_policy("gridpath-sft", device="cpu")
    prompts, texts = ["open 40>44:"] * 3, ["UUUU.", "RRRR.", "LRRRR."]
    problems = [Problem(p, "44") for p in prompts]
    responses = responses_from_texts(policy, prompts, texts)
    batch = Experience(problems, responses, task.rewards(problems, texts), 3)
    judge = keep_judged(partial(task.judge_steps, error=0.0))
    assert judge(batch, seeded(0)).tolist() == [True, True, False]
    assert keep_correct(batch, seeded(0)).tolist() == [False, True, True]


def test_repeats_go_first_then_what_is_too_much(policy):
    prompts = ["1=", "1=", "1=", "2=", "2=", "1="]
    batch = batch_of(policy, prompts, ["1.", "1.", "2.", "1.", "3.", "3."], [1.0] * 6, 3)
    passed = torch.tensor([True, True, True, True, False, True])
    assert chosen_rows(batch, passed) == [0, 2, 3, 5]
    assert chosen_rows(batch, passed, unique=False) == [0, 1, 2, 3, 5]
    assert chosen_rows(batch, passed, per_prompt=2) == [0, 2, 3]
    assert chosen_rows(batch, passed, per_prompt=2, unique=False) == [0, 1, 3]
    counts = torch.zeros(6)
    for seed in range(300):
        drawn = chosen_rows(batch, passed, most=2, generator=seeded(seed))
        assert len(drawn) == 2 and drawn == sorted(drawn)
        counts[drawn] += 1
    # each of the four with probability 1/2: ±0.17 is 6 standard deviations, failing 1 in 10^8
    assert (counts[[0, 2, 3, 5]] / 300 - 0.5).abs().max() < 0.17


def test_the_metrics_of_a_round_by_hand(policy):
    prompts = ["1=", "1=", "1=", "2=", "2=", "2="]
    batch = batch_of(policy, prompts, ["1.", "1.", "2.", "1.", "3.", "3."], [1.0, 1, 0, 0, 0, 0], 3)
    found = measure(batch, keep_correct(batch, seeded(0)))
    assert found["reward"] == found["kept"] == pytest.approx(1 / 3)
    assert (found["unique"], found["solved"]) == (0.5, 0.5)
    assert (found["length"], found["truncated"]) == (3.0, 0.0)


def test_the_examples_are_the_tokens_that_were_chosen(policy):
    batch = batch_of(policy, ["1=", "2="], ["13.", "2."], [1.0, 1.0], 1)
    pairs = examples(batch, [1, 0])
    assert [prompt for prompt, _ in pairs] == ["2=", "1="]
    assert [policy.decode(ids) for _, ids in pairs] == ["2.", "13."]
    assert all(ids[-1] == policy.eos_id for _, ids in pairs)


# --- the loop --------------------------------------------------------------------------------


def test_it_learns_what_is_kept(policy):
    config = replace(CONFIG, rounds=6, train_batch_size=32, training=SFTConfig(steps=10))
    reports = list(rejection_sampling(policy, even_task(), config))
    assert reports[-1]["reward"] > reports[0]["reward"] + 0.2
    assert [report.update for report in reports] == [1, 2, 3, 4, 5, 6]
    for report in reports:
        # cut responses earn 0 and are never kept
        assert report["kept"] == pytest.approx(report["reward"])
        assert report["kept"] <= 1 - report["truncated"] + 1e-6
        assert 0 < report["unique"] <= 1 and report["kept"] <= report["solved"] <= 1
        assert report["examples"] <= 32 * 4 * report["kept"] + 1e-3
        assert math.isfinite(report["loss"])
    assert reports[-1].samples == pytest.approx(
        sum(report["length"] * 32 * 4 for report in reports), rel=1e-6
    )


def test_a_cut_response_is_not_kept_by_any_filter(policy):
    task = even_task(limit=2)
    (report,) = islice(rejection_sampling(policy, task, CONFIG, keep=keep_all), 1)
    assert 0.1 < report["truncated"] < 1
    assert report["kept"] == pytest.approx(1 - report["truncated"])


def test_a_round_that_keeps_nothing_changes_nothing(policy):
    before = [p.clone() for p in policy.model.parameters()]
    nothing = lambda batch, generator: torch.zeros_like(batch.rewards, dtype=torch.bool)  # noqa: E731
    reports = list(rejection_sampling(policy, even_task(), CONFIG, keep=nothing))
    assert all(math.isnan(r["loss"]) and math.isnan(r["unique"]) for r in reports)
    assert [r["examples"] for r in reports] == [0.0] * 3
    for old, new in zip(before, policy.model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_from_the_start_every_round_fine_tunes_the_same_weights(policy):
    """With a rate of (nearly) nothing the policy is its start again, wherever it has been."""
    start = small_policy(seed=5)
    still = replace(CONFIG, rounds=1, training=replace(CONFIG.training, learning_rate=1e-12))
    kept = [p.clone() for p in start.model.parameters()]
    list(rejection_sampling(policy, even_task(), still, start=start))
    for a, b, c in zip(policy.model.parameters(), start.model.parameters(), kept, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert torch.equal(b, c)


def test_caps_hold_in_the_loop(policy):
    config = replace(CONFIG, train_batch_size=32, per_prompt=1, rounds=1)
    (report,) = rejection_sampling(policy, even_task(), config)
    assert report["examples"] == 3  # different prompts
    config = replace(CONFIG, train_batch_size=32, most_examples=2, rounds=1)
    (report,) = rejection_sampling(small_policy(), even_task(), config)
    assert report["examples"] == 2


def test_a_filter_draws_from_the_runs_own_generator(policy):
    def coin(batch, generator):
        return torch.rand(len(batch.rewards), generator=generator) < 0.5

    (first,) = islice(rejection_sampling(policy, even_task(), CONFIG, keep=coin), 1)
    (again,) = islice(rejection_sampling(small_policy(), even_task(), CONFIG, keep=coin), 1)
    assert first.metrics == again.metrics and 0 < first["kept"] < 1


def test_going_on_is_bit_for_bit_the_same(policy, tmp_path):
    start = small_policy(seed=3)
    whole = list(rejection_sampling(policy, even_task(), CONFIG, start=start))
    half, state = small_policy(), LoopState()
    for report in rejection_sampling(half, even_task(), CONFIG, start=start, state=state):
        if report.update == 2:
            half.save(tmp_path), state.save(tmp_path / "state.pt")
            break
    rest = load_policy(tmp_path, device="cpu")
    more = list(
        rejection_sampling(
            rest, even_task(), CONFIG, start=start, state=LoopState.load(tmp_path / "state.pt")
        )
    )
    assert [(r.update, r.samples, r.metrics) for r in more] == [
        (r.update, r.samples, r.metrics) for r in whole[2:]
    ]
    for a, b in zip(policy.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_seed_of_the_training_is_the_rounds_own(policy):
    other = replace(CONFIG, rounds=2, training=replace(CONFIG.training, seed=7))
    first = list(rejection_sampling(policy, even_task(), replace(CONFIG, rounds=2)))
    second = list(rejection_sampling(small_policy(), even_task(), other))
    assert [r.metrics for r in first] == [r.metrics for r in second]


def test_a_table_learns_as_well():
    model = TabularLM.with_eos(seeded(9), vocab_size=4)
    policy = Policy(model, None)
    task = Task.from_functions(
        [(0,)], lambda problems, texts: [float("1" in t) for t in texts], max_new_tokens=3
    )
    training = SFTConfig(steps=10, batch_size=16, learning_rate=0.1)
    config = RejectionConfig(rounds=4, train_batch_size=8, training=training)
    reports = list(rejection_sampling(policy, task, config))
    assert reports[-1]["reward"] > reports[0]["reward"] + 0.15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"train_batch_size": 0}, "train_batch_size=0"),
        ({"rollouts_per_prompt": 0}, "rollouts_per_prompt=0"),
        ({"per_prompt": 0}, "per_prompt=0"),
        ({"most_examples": 0}, "most_examples=0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(policy, changes, message):
    with pytest.raises(ValueError, match=message):
        next(rejection_sampling(policy, even_task(), replace(CONFIG, **changes)))


def test_other_mistakes_are_named(policy):
    with pytest.raises(ValueError, match="start is the policy itself"):
        next(rejection_sampling(policy, even_task(), CONFIG, start=policy))
    other = load_policy("gridpath-sft", device="cpu")
    with pytest.raises(ValueError, match="vocabulary"):
        next(rejection_sampling(policy, even_task(), CONFIG, start=other))
    with pytest.raises(ValueError, match="bools"):
        next(rejection_sampling(policy, even_task(), CONFIG, keep=lambda b, g: b.rewards))
    with pytest.raises(ValueError, match="one bool for each"):
        short = lambda batch, generator: keep_correct(batch, generator)[:3]  # noqa: E731
        next(rejection_sampling(policy, even_task(), CONFIG, keep=short))
