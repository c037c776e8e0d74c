"""The exercises of chapter 15: the best of n, what is kept, and what that follows.

Plain arrays. A prompt's A possible answers have probabilities [A]; rewards are numbers, and where
they are 0 or 1 the answer is wrong or right.
"""

from math import comb

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import Exercise, WrongAnswer


def best_of_n_probabilities(p, rewards, n):
    """Probability [A] that each answer is the best of n; of equal ones the first drawn is given."""
    up_to = np.array([p[rewards <= r].sum() for r in rewards])
    below = np.array([p[rewards < r].sum() for r in rewards])
    return p * (up_to**n - below**n) / (up_to - below)


def best_of_n_estimate(rewards, n):
    """Mean, over all subsets of n of the K rewards, of the subset's highest."""
    K = len(rewards)
    total = 0.0
    for i, reward in enumerate(np.sort(rewards)):  # i others stand below it
        total += reward * comb(i, n - 1)
    return total / comb(K, n)


def expected_kept(p, K, most):
    """Expected number of examples of each prompt [N]: right ones of K samples, at most ``most``."""
    expected = np.zeros(len(p))
    for right in range(K + 1):
        chance = comb(K, right) * p**right * (1 - p) ** (K - right)
        expected += min(right, most) * chance
    return expected


def rows_to_keep(prompts, texts, rewards, most):
    """Row numbers of the examples: right, no repeats, at most ``most`` of each prompt."""
    rows, seen, counts = [], set(), {}
    for row, (prompt, text, reward) in enumerate(zip(prompts, texts, rewards, strict=True)):
        full = counts.get(prompt, 0) == most
        if reward < 1 or (prompt, text) in seen or full:
            continue
        seen.add((prompt, text))
        counts[prompt] = counts.get(prompt, 0) + 1
        rows.append(row)
    return rows


def improve(logits, correct, draws, rate):
    """The logits [N, A] after rounds of: sample, keep what is right, one step on the mean log π."""
    logits = logits.copy()
    N, A = logits.shape
    for u in draws:  # [N, K]: K samples of each prompt
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        answers = (np.cumsum(pi, axis=1)[:, None, :] <= u[:, :, None]).sum(axis=2)
        answers = np.minimum(answers, A - 1).flatten()
        prompts = np.repeat(np.arange(N), u.shape[1])
        kept = correct[prompts, answers]
        gradient = np.zeros_like(logits)
        for x, a in zip(prompts[kept], answers[kept], strict=True):
            gradient[x] -= pi[x] / kept.sum()
            gradient[x, a] += 1 / kept.sum()
        logits += rate * gradient
    return logits


# --- cases -----------------------------------------------------------------------------------


def _distribution(rng, A):
    return (rng.multinomial(20 - A, np.full(A, 1 / A)) + 1) / 20


def _best_cases(rng):
    # Worst ½, middle ¼, best ¼; n = 2: ½² = ¼; (¾)² - (½)² = 5/16; 1 - (¾)² = 7/16
    first = {"p": np.array([0.5, 0.25, 0.25]), "rewards": np.array([0.0, 1.0, 2.0]), "n": 2}
    # Two right answers, ¼ and ½, share 1 - (¼)³ = 63/64 as 1 to 2
    second = {"p": np.array([0.25, 0.25, 0.5]), "rewards": np.array([0.0, 1.0, 1.0]), "n": 3}
    cases = [first, second]
    for A, n in ((4, 2), (5, 3), (6, 4), (5, 8), (4, 1)):
        rewards = rng.integers(0, 3, size=A).astype(float)
        rewards[:3] = 0.0, 1.0, 1.0  # a tie, and two levels, in every case
        p = _distribution(rng, A)
        p[1] += p[2] / 2
        p[2] /= 2
        cases.append({"p": p, "rewards": rewards, "n": n})
    return cases


def _estimate_cases(rng):
    # Of 1, 2, 4 two: max 2, 4, 4, mean 10/3
    cases = [{"rewards": np.array([1.0, 4.0, 2.0]), "n": 2}]
    for K, n in ((4, 2), (5, 3), (6, 2), (6, 4), (8, 3), (5, 4)):
        rewards = np.sort(random_halves(rng, K)) + np.arange(K) / 8
        rewards[:-1] = rng.permutation(rewards[:-1])  # the highest is not among the first n
        cases.append({"rewards": rewards, "n": n})
    cases.append({"rewards": np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0]), "n": 2})
    return cases


def _kept_cases(rng):
    # K = 2, at most 1: 1 - (1 - ½)² = ¾
    cases = [{"p": np.array([0.5]), "K": 2, "most": 1}]
    for N, K, most in ((3, 4, 2), (2, 8, 3), (4, 5, 2), (3, 6, 4), (3, 3, 2), (2, 4, 3)):
        cases.append({"p": rng.integers(1, 20, size=N) / 20, "K": K, "most": most})
    return cases


def _row_cases(rng):
    cases = [
        {
            "prompts": ["a", "a", "a", "b", "b", "b"],
            "texts": ["1", "1", "2", "1", "3", "2"],
            "rewards": np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
            "most": 2,
        },
        {
            "prompts": ["a"] * 5 + ["b"] * 5,
            "texts": ["1", "4", "4", "2", "3", "4", "2", "2", "1", "1"],
            "rewards": np.array([0.0, 1, 1, 1, 1, 1, 1, 1, 0, 1]),
            "most": 2,
        },
    ]
    for N, K, most in ((2, 6, 2), (3, 6, 3), (2, 8, 3), (3, 5, 1)):
        prompts = [name for name in "abc"[:N] for _ in range(K)]
        texts = [str(t) for t in rng.integers(0, 5, size=N * K)]
        rewards = (rng.random(N * K) < 0.7).astype(float)
        cases.append({"prompts": prompts, "texts": texts, "rewards": rewards, "most": most})
    return cases


def _loop_cases(rng):
    cases = []
    # One prompt, two answers at ½; samples 0 and 1, the second right: +½ and -½ times the rate
    one = {"logits": np.zeros((1, 2)), "correct": np.array([[False, True]])}
    cases.append(one | {"draws": np.array([[[0.2, 0.7]]]), "rate": 1.0})
    for N, A, K, rounds in ((2, 3, 3, 1), (3, 3, 2, 2), (3, 4, 4, 3), (4, 3, 5, 4)):
        correct = np.zeros((N, A), dtype=bool)
        correct[np.arange(N), np.arange(N) % A] = True
        correct[0, A - 1] = True
        draws = rng.integers(0, 1000, size=(rounds, N, K)) / 1000 + 0.0005
        logits = random_halves(rng, (N, A)) / 5
        cases.append({"logits": logits, "correct": correct, "draws": draws, "rate": 2.0})
    none = {"logits": np.zeros((1, 2)), "correct": np.array([[False, True]])}
    cases.append(none | {"draws": np.array([[[0.2, 0.1]], [[0.9, 0.3]]]), "rate": 1.0})
    return cases


# --- wrong answers ---------------------------------------------------------------------------


def _levels(p, rewards):
    up_to = np.array([p[rewards <= r].sum() for r in rewards])
    below = np.array([p[rewards < r].sum() for r in rewards])
    return up_to, below


def _whole_level(p, rewards, n):
    up_to, below = _levels(p, rewards)
    return up_to**n - below**n


def _equal_shares(p, rewards, n):
    up_to, below = _levels(p, rewards)
    return (up_to**n - below**n) / np.array([(rewards == r).sum() for r in rewards])


def _as_sorted(p, rewards, n):
    order = np.argsort(rewards, kind="stable")
    F = np.cumsum(p[order])
    found = np.empty(len(p))
    found[order] = F**n - (F - p[order]) ** n
    return found


def _first_n(rewards, n):
    return float(rewards[:n].max())


def _with_replacement(rewards, n):
    K, ordered = len(rewards), np.sort(rewards)
    i = np.arange(1, K + 1)
    return float((ordered * ((i / K) ** n - ((i - 1) / K) ** n)).sum())


def _counted_from_one(rewards, n):
    ordered = np.sort(rewards)
    return sum(r * comb(i + 1, n - 1) for i, r in enumerate(ordered)) / comb(len(rewards), n)


def _downwards(rewards, n):
    ordered = np.sort(rewards)[::-1]
    return sum(r * comb(i, n - 1) for i, r in enumerate(ordered)) / comb(len(rewards), n)


def _keep(prompts, texts, rewards, most, *, same_text=False, cap_first=False, cap_all=False,
          repeats=False, wrong_too=False, last=False):  # fmt: skip
    """rows_to_keep with one thing changed."""
    order = range(len(prompts) - 1, -1, -1) if last else range(len(prompts))
    rows, seen, counts = [], set(), {}
    for row in order:
        prompt, key = prompts[row], texts[row] if same_text else (prompts[row], texts[row])
        right = rewards[row] >= 1
        if cap_all:  # every response counts towards the limit
            counts[prompt] = counts.get(prompt, 0) + 1
            full = counts[prompt] > most
        else:
            full = counts.get(prompt, 0) == most
        if full or not (right or wrong_too):
            continue
        repeated = key in seen and not repeats
        if not cap_all and (cap_first or not repeated):
            counts[prompt] = counts.get(prompt, 0) + 1
        if repeated:
            continue
        seen.add(key)
        rows.append(row)
    return sorted(rows)


def _loop(logits, correct, draws, rate, *, tile=False, every=False, whole=False, frozen=False,
          summed=False, pull_only=False, by_prompt=False):  # fmt: skip
    """improve with one thing changed."""
    logits = logits.copy()
    N, A = logits.shape
    first = logits.copy()
    for u in draws:
        K = u.shape[1]
        source = first if frozen else logits
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        drawn = np.exp(source - source.max(axis=1, keepdims=True))
        drawn /= drawn.sum(axis=1, keepdims=True)
        answers = (np.cumsum(drawn, axis=1)[:, None, :] <= u[:, :, None]).sum(axis=2)
        answers = np.minimum(answers, A - 1).flatten()
        prompts = np.repeat(np.arange(N), K)
        kept = np.ones(N * K, dtype=bool) if every else correct[prompts, answers]
        if tile:
            prompts = np.tile(np.arange(N), K)
        count = 1 if summed else (N * K if whole else max(kept.sum(), 1))
        gradient = np.zeros_like(logits)
        for x, a in zip(prompts[kept], answers[kept], strict=True):
            if by_prompt:
                count = kept[prompts == x].sum()
            if not pull_only:
                gradient[x] -= pi[x] / count
            gradient[x, a] += 1 / count
        logits += rate * gradient
    return logits


# --- the exercises ---------------------------------------------------------------------------

EXERCISES = {
    "best_of_n_probabilities": Exercise(
        reference=best_of_n_probabilities,
        cases=_best_cases,
        hint="When is the best reward among n at most r? When all n are. Take the chance of at "
        "most r and of less than r; answers of one reward share the difference as p does.",
        wrong_answers=(
            WrongAnswer(
                "every answer gets its whole level",
                _whole_level,
                "Add your numbers up: where two answers earn the same, the sum is above 1.",
            ),
            WrongAnswer(
                "equally good answers share equally",
                _equal_shares,
                "Of two equally good answers, is not the likelier one drawn first more often?",
            ),
            WrongAnswer(
                "ties broken by position",
                _as_sorted,
                "Two answers of one reward: neither beats the other, wherever it stands in the "
                "array. Compare rewards, do not sort.",
            ),
            WrongAnswer(
                "the chance to be drawn at all",
                lambda p, rewards, n: 1 - (1 - p) ** n,
                "That is the chance that an answer is among the n. The best must also beat the "
                "others.",
            ),
            WrongAnswer(
                "the worst of n",
                lambda p, rewards, n: best_of_n_probabilities(p, -rewards, n),
                "This prefers low rewards. The best is at most r when all n are at most r.",
            ),
            WrongAnswer(
                "one sample too few",
                lambda p, rewards, n: best_of_n_probabilities(p, rewards, max(n - 1, 0)),
                "With n = 1 nothing is chosen and the answer must be p.",
            ),
            WrongAnswer(
                "the power of p",
                lambda p, rewards, n: p**n / (p**n).sum(),
                "This is what all n samples agree on, and rewards play no part in it.",
            ),
        ),
    ),
    "best_of_n_estimate": Exercise(
        reference=best_of_n_estimate,
        cases=_estimate_cases,
        hint="Sort the rewards. A reward with i others below it is the best of a subset of n if "
        "the other n - 1 come from those i.",
        wrong_answers=(
            WrongAnswer(
                "the first n alone",
                _first_n,
                "Right on average, but K - n samples are thrown away. Use every subset of n.",
            ),
            WrongAnswer(
                "drawn with replacement",
                _with_replacement,
                "The same sample cannot be drawn twice into a subset: an estimate that allows it "
                "lies too low.",
            ),
            WrongAnswer(
                "the best of all K",
                lambda rewards, n: float(rewards.max()),
                "That is the best of K, not of n.",
            ),
            WrongAnswer(
                "the mean",
                lambda rewards, n: float(rewards.mean()),
                "That is best-of-1: nothing is chosen.",
            ),
            WrongAnswer(
                "counted from one",
                _counted_from_one,
                "The lowest reward has no others below it. Do your weights add up to 1?",
            ),
            WrongAnswer(
                "the worst of n",
                _downwards,
                "Sorted from the top, the others of a subset come from above.",
            ),
        ),
    ),
    "expected_kept": Exercise(
        reference=expected_kept,
        cases=_kept_cases,
        hint="How many of K samples are right is binomial. Average min(right, most) over it.",
        wrong_answers=(
            WrongAnswer(
                "the limit of the mean",
                lambda p, K, most: np.minimum(K * p, most),
                "The mean of a minimum is not the minimum of the mean: even an easy prompt has "
                "unlucky draws.",
            ),
            WrongAnswer(
                "no limit",
                lambda p, K, most: K * p,
                "A prompt gives at most so many examples, however many samples are right.",
            ),
            WrongAnswer(
                "solved or not",
                lambda p, K, most: 1 - (1 - p) ** K,
                "That is the chance of at least one right sample: right for most = 1 alone.",
            ),
            WrongAnswer(
                "all or nothing",
                lambda p, K, most: most * (1 - (1 - p) ** K),
                "A solved prompt need not have as many right samples as the limit allows.",
            ),
            WrongAnswer(
                "only the first samples",
                lambda p, K, most: most * p,
                "The limit is on what is kept. All K samples may be looked at to fill it.",
            ),
        ),
    ),
    "rows_to_keep": Exercise(
        reference=rows_to_keep,
        cases=_row_cases,
        hint="Go through the rows once. Remember which (prompt, text) you have taken, and how "
        "many of each prompt.",
        wrong_answers=(
            WrongAnswer(
                "a text is a repeat under any prompt",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, same_text=True
                ),
                "The same text under another prompt is another example.",
            ),
            WrongAnswer(
                "repeats count towards the limit",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, cap_first=True
                ),
                "A repeat that is thrown away takes no place. Which comes first, the limit or "
                "the repeats?",
            ),
            WrongAnswer(
                "wrong responses count towards the limit",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, cap_all=True
                ),
                "The limit is on examples. What is not kept takes no place.",
            ),
            WrongAnswer(
                "repeats are kept",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, repeats=True
                ),
                "Some prompt has the same text twice in your rows.",
            ),
            WrongAnswer(
                "wrong responses are kept",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, wrong_too=True
                ),
                "Look at the rewards of your rows: each must be 1.",
            ),
            WrongAnswer(
                "the last ones instead of the first",
                lambda prompts, texts, rewards, most: _keep(
                    prompts, texts, rewards, most, last=True
                ),
                "Of repeats, and of too many, the earlier ones stay.",
            ),
        ),
    ),
    "improve": Exercise(
        reference=improve,
        cases=_loop_cases,
        hint="Print, for each pair that is learnt from, whether it is right *as a pair*. The "
        "answers are flattened prompt by prompt: which prompt does each belong to?",
        wrong_answers=(
            WrongAnswer(
                "answers paired with other prompts",
                lambda logits, correct, draws, rate: _loop(logits, correct, draws, rate, tile=True),
                "The K answers of a prompt stand next to one another, so each prompt's number "
                "must be repeated K times in place: 0 0 0 1 1 1, not 0 1 0 1 0 1.",
            ),
            WrongAnswer(
                "everything is kept",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, every=True
                ),
                "Wrong answers are learnt as well: nothing is selected.",
            ),
            WrongAnswer(
                "divided by all samples",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, whole=True
                ),
                "That is REINFORCE's mean over all samples. SFT averages over its examples: what "
                "was kept.",
            ),
            WrongAnswer(
                "averaged within each prompt",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, by_prompt=True
                ),
                "Divide by all that was kept, of all prompts together: that is the mean that SFT "
                "takes. Yours gives a prompt with one right sample the weight of one with many.",
            ),
            WrongAnswer(
                "summed",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, summed=True
                ),
                "The step is on the mean log-probability of what was kept.",
            ),
            WrongAnswer(
                "sampled from the first policy for ever",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, frozen=True
                ),
                "Each round samples from the policy as it is by then.",
            ),
            WrongAnswer(
                "no softmax in the gradient",
                lambda logits, correct, draws, rate: _loop(
                    logits, correct, draws, rate, pull_only=True
                ),
                "∇ log π(a) is 1 at a *minus π everywhere*.",
            ),
        ),
    ),
}
