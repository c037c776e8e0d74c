"""pass@k against subsets, votes by hand, a policy whose answers are known."""

import itertools
import math

import numpy as np
import pytest
import torch
from ragged import as_a_user
from small_models import EOS, char_tokenizer, tiny_gpt2

from rlbook.lm import evaluation
from rlbook.lm.evaluation import (
    evaluate,
    majority_vote,
    pass_at_k,
    wilson_interval,
    win_rate,
)
from rlbook.lm.exact import enumerate_responses, expected_pass_at_k, expected_reward
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.task import Problem, Task

# --- pass@k ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * c + [False] * (n - c)
        subsets = [any(subset) for subset in itertools.combinations(samples, k)]
        assert pass_at_k(n, c, k) == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_by_hand_and_its_ends():
    assert pass_at_k(4, 1, 2) == pytest.approx(1 - 3 / 6)  # C(3,2) / C(4,2)
    assert pass_at_k(10, 3, 1) == pytest.approx(3 / 10)
    assert pass_at_k(10, 0, 10) == 0.0
    assert pass_at_k(10, 1, 10) == 1.0


def test_pass_at_k_is_stable_for_large_numbers():
    exact = 1 - math.comb(9_000, 500) / math.comb(10_000, 500)
    assert pass_at_k(10_000, 1_000, 500) == pytest.approx(exact, abs=1e-12)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    """Σ_c Binomial(c; n, p) pass@k(n, c, k) = 1 - (1-p)^k, exactly."""
    n, k, p = 6, 4, 0.2
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(q * pass_at_k(n, c, k) for c, q in enumerate(chances))
    plug_in = sum(q * (1 - (1 - c / n) ** k) for c, q in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert plug_in < mean - 0.02


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError, match=r"needs 1 to n samples|must lie in 0"):
        pass_at_k(n, c, k)


# --- votes, wins -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "7", "3"], [True, True, False], 1.0),
        (["7", "3", "3"], [True, False, False], 0.0),
        (["7", "3"], [True, False], 0.5),  # a tie, by lot
        (["7", "3", "1", "1", "3", "7"], [1, 0, 0, 0, 0, 1], 1 / 3),
        (["", "", "7"], [False, False, True], 1.0),  # no answer, no vote
        (["", ""], [True, True], 0.0),
        ([], [], 0.0),
        (["7", "7", "3"], [True, False, False], 0.5),  # the same answer, judged differently
    ],
)
def test_majority_vote_by_hand(answers, correct, expected):
    assert majority_vote(answers, [bool(c) for c in correct]) == pytest.approx(expected)


def test_the_chance_in_a_tie_is_that_of_drawing_lots():
    """Every order of the answers, the first of the commonest winning: the mean over orders."""
    answers, correct = ["a", "b", "b", "c", "c"], [False, True, True, False, False]
    outcomes = []
    for order in itertools.permutations(range(5)):
        ordered = [answers[i] for i in order]
        winner = max(ordered, key=ordered.count)  # max returns the first of equals
        outcomes.append(correct[answers.index(winner)])
    assert majority_vote(answers, correct) == pytest.approx(np.mean(outcomes)) == 0.5


def test_win_rate_by_hand():
    ours, theirs = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 1.0, 2.0])
    assert win_rate(ours, theirs) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert win_rate(ours, theirs) + win_rate(theirs, ours) == pytest.approx(1.0)
    assert win_rate(ours, ours) == 0.5
    with as_a_user(), pytest.raises(ValueError, match="4 scores against 3"):
        win_rate(ours, theirs[:3])
    with pytest.raises(ValueError, match="not finite"):
        win_rate(ours, theirs.log() * math.nan)


def test_votes_and_judgements_go_in_pairs():
    with pytest.raises(ValueError, match="2 answers, but 1 judgements"):
        majority_vote(["a", "b"], [True])


def test_wilson_interval_against_its_definition():
    """Its ends are the p₀ at which the observed share is 1.96 standard deviations away."""
    for p, n in ((0.3, 50), (0.0, 20), (1.0, 20), (0.9, 400)):
        for end in wilson_interval(p, n):
            if 1e-9 < end < 1 - 1e-9:
                distance = abs(p - end) / math.sqrt(end * (1 - end) / n)
                assert distance == pytest.approx(1.96, abs=1e-9)
    assert wilson_interval(1.0, 20)[0] == pytest.approx(20 / (20 + 1.96**2))
    assert wilson_interval(0.0, 20)[0] == pytest.approx(0.0, abs=1e-12)


# --- a policy on a task ----------------------------------------------------------------------


def coin(chance_of_0, *, prompts=((0,), (1, 0))):
    """A table that answers with one token, 0 or 1 (and EOS = 2), 0 with the given chances."""
    model = TabularLM.with_eos(torch.Generator(), prompts=prompts, max_new_tokens=2)
    with torch.no_grad():
        model.table.fill_(-math.inf)
        for row, chance in zip(model.table.view(len(prompts), 3, 3), chance_of_0, strict=True):
            row[0, :2] = torch.tensor([chance, 1 - chance]).log()
            row[1:, 2] = 0.0
    return Policy(model, None)


class SayZero(Task):
    """Right is the answer "0". The test problems are the two prompts, in turn."""

    name, max_new_tokens = "say-zero", 2
    PROBLEMS = (Problem((0,)), Problem((1, 0)))

    def problems(self, n, generator, *, split="train"):
        return [self.PROBLEMS[i % 2] for i in range(n)]

    def score(self, problems, texts):
        return [float(text == "0") for text in texts]


def test_a_policy_that_is_always_right_and_always_wrong_by_turns():
    policy, generator = coin([1.0, 0.0]), torch.Generator().manual_seed(0)
    result = evaluate(
        policy, SayZero(), problems=4, samples_per_prompt=3, ks=(1, 3), generator=generator
    )
    assert result.rewards.tolist() == [[1.0] * 3, [0.0] * 3] * 2
    assert result.texts == [["0"] * 3, ["1"] * 3] * 2
    assert result.accuracy == result.mean_reward == result.majority == 0.5
    assert result.pass_at == {1: 0.5, 3: 0.5}
    # four problems that show 1, 0, 1, 0: standard deviation √(4·¼ / 3), standard error half of it
    assert result.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)
    assert (result.truncated, result.mean_length, result.greedy) == (0.0, 2.0, False)
    assert [problem.prompt for problem in result.problems] == [(0,), (1, 0)] * 2


def test_accuracy_and_pass_at_k_agree_with_the_exact_figures():
    """N·K = 2·4000 draws: the standard error of accuracy is below 0.0056, so 0.04 is more than
    7 of them: probability below 1e-11. pass@4 varies at most 4 times as much, and 0.1 is 4.4
    standard errors of it: below 1e-4; the seed is fixed."""
    policy = coin([0.3, 0.6])
    responses = enumerate_responses(policy.model)
    rewards = torch.tensor(SayZero().score([], responses.texts)).double()
    generator = torch.Generator().manual_seed(0)
    result = evaluate(
        policy, SayZero(), problems=2, samples_per_prompt=4000, ks=(1, 4), generator=generator
    )
    exact = expected_reward(policy.model, rewards).item()
    assert exact == pytest.approx(0.45, abs=1e-6)
    assert result.accuracy == pytest.approx(exact, abs=0.04)
    assert result.pass_at[1] == pytest.approx(result.accuracy, abs=1e-9)
    exact_4 = expected_pass_at_k(policy.model, rewards, k=4).item()
    assert result.pass_at[4] == pytest.approx(exact_4, abs=0.1)
    assert result.majority == 0.5  # 0.3 of the votes lose, 0.6 win


def test_greedy_takes_the_likeliest_answer():
    result = evaluate(
        coin([0.3, 0.6]), SayZero(), problems=6, temperature=0, generator=torch.Generator()
    )
    assert result.greedy
    assert result.rewards[:, 0].tolist() == [0.0, 1.0] * 3
    with pytest.raises(ValueError, match="samples_per_prompt=2: greedy samples are all the same"):
        evaluate(
            coin([0.3, 0.6]),
            SayZero(),
            temperature=0,
            samples_per_prompt=2,
            generator=torch.Generator(),
        )


def test_truncated_responses_are_wrong_and_have_no_vote():
    policy = coin([1.0, 1.0])
    with torch.no_grad():  # after 0 comes 0 again, so the limit cuts; the reward would be 1
        policy.model.table.view(2, 3, 3)[1, 1] = torch.tensor([0.0, -math.inf, -math.inf])

    class AnyZero(SayZero):
        def score(self, problems, texts):
            return [float("0" in text) for text in texts]

    result = evaluate(
        policy, AnyZero(), problems=2, samples_per_prompt=2, generator=torch.Generator()
    )
    assert result.texts == [["0", "0"], ["0 0", "0 0"]]
    assert result.rewards.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert (result.truncated, result.majority) == (0.5, 0.5)


def test_a_truncated_majority_does_not_outvote_a_finished_answer():
    """1 begins two responses in three, and all of these are cut: only the 0s vote. (No 0 among
    50 samples: probability (2/3)^50 < 2e-9.)"""
    policy = coin([1 / 3, 1 / 3])
    with torch.no_grad():
        policy.model.table.view(2, 3, 3)[:, 2] = torch.tensor([-math.inf, 0.0, -math.inf])
    result = evaluate(
        policy, SayZero(), problems=2, samples_per_prompt=50, generator=torch.Generator()
    )
    assert 0.5 < result.truncated < 0.9
    assert result.majority == 1.0


def test_batches_split_by_problem_and_given_problems_are_taken(monkeypatch):
    sizes = []

    def counted(policy, prompts, **how):
        sizes.append(len(prompts))
        return sample_responses(policy, prompts, **how)

    monkeypatch.setattr(evaluation, "sample_responses", counted)
    problems = [Problem((0,)), Problem((1, 0)), Problem((0,))]
    result = evaluate(
        coin([1.0, 0.0]),
        SayZero(),
        problems=problems,
        samples_per_prompt=2,
        max_rows=3,  # one problem at a time
        generator=torch.Generator(),
    )
    assert result.rewards.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert result.problems == problems
    assert sizes == [1, 1, 1]


def test_rewards_other_than_0_and_1():
    class Half(SayZero):
        def score(self, problems, texts):
            return [1.5 if text == "0" else 0.5 for text in texts]

    result = evaluate(coin([1.0, 0.0]), Half(), problems=2, generator=torch.Generator())
    assert (result.accuracy, result.mean_reward) == (0.5, 1.0)


def test_the_interval_counts_problems_and_keeps_a_width():
    generator = torch.Generator().manual_seed(0)
    right = evaluate(coin([1.0, 1.0]), SayZero(), problems=20, generator=generator)
    assert right.interval == pytest.approx((20 / (20 + 1.96**2), 1.0))
    clustered = evaluate(
        coin([1.0, 0.0]), SayZero(), problems=50, samples_per_prompt=8, generator=generator
    )
    low, high = clustered.interval
    assert low == pytest.approx(wilson_interval(0.5, 49)[0])  # 49, not 400
    assert low + high == pytest.approx(1.0)


def test_strings_go_through_the_tokenizer():
    """A random model on a random task: numbers that fit together, the same for the same seed."""
    policy = Policy(tiny_gpt2(), char_tokenizer())
    task = Task.from_functions(
        ["1+2=", "3"],
        lambda prompts, texts: [float("a" in text) for text in texts],
        test_prompts=["2"],
        max_new_tokens=8,
    )
    one, two = (
        evaluate(
            policy,
            task,
            problems=4,
            samples_per_prompt=2,
            generator=torch.Generator().manual_seed(5),
        )
        for _ in range(2)
    )
    assert one.texts == two.texts
    assert {problem.prompt for problem in one.problems} == {"2"}
    assert policy.tokenizer.eos_token_id == EOS


def test_refusals():
    with pytest.raises(ValueError, match="at least one problem"):
        evaluate(coin([1.0, 1.0]), SayZero(), problems=[], generator=torch.Generator())
    with pytest.raises(ValueError, match="pass@2 needs 1 to n samples, and there are n=1"):
        evaluate(coin([1.0, 1.0]), SayZero(), ks=(2,), generator=torch.Generator())


def test_a_tasks_stop_ends_a_response():
    """A model that goes on after the full stop is judged by what stands before it."""
    policy = Policy(tiny_gpt2(), char_tokenizer())
    mark = policy.decode([next(iter(policy.encode(["1"])[0]))])
    own = {"max_new_tokens": 12, "test_prompts": ["2"]}
    free = Task.from_functions(["3"], lambda p, t: [0.0] * len(t), **own)
    stopped = Task.from_functions(["3"], lambda p, t: [0.0] * len(t), stop=mark, **own)
    found = [
        evaluate(
            policy,
            task,
            problems=1,
            samples_per_prompt=40,
            generator=torch.Generator().manual_seed(1),
        ).texts[0]
        for task in (free, stopped)
    ]
    assert any(mark in text[:-1] for text in found[0])
    assert not any(mark in text[:-1] for text in found[1])
    with pytest.raises(ValueError, match="stop='12' is 2 tokens"):
        Task.from_functions(["3"], lambda p, t: [0.0], stop="12").stop_ids(policy)
