"""The exercises of chapter 01: bandits, over plain arrays.

Q, counts, means, H [A], one entry per arm; arms and rewards [T], one entry per pull.
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import Exercise, WrongAnswer

SIZES = [3, 4, 2, 5, 3, 6]  # arms of the random cases


def update_estimates(Q, counts, arm, reward):
    """The averages Q [A] after one more reward: Q(a) ← Q(a) + (r - Q(a)) / n(a), a the arm."""
    Q = Q.copy()
    n = counts[arm] + 1  # this pull included
    Q[arm] += (reward - Q[arm]) / n
    return Q


def cumulative_regret(means, arms, rewards):
    """Regret after each pull [T]: Σ_{i ≤ t} (max_a μ(a) - μ(A_i)); the rewards play no part."""
    gaps = means.max() - means
    return np.cumsum(gaps[arms])


def ucb_scores(Q, counts, c):
    """Upper confidence bounds [A]: Q(a) + c √(ln t / n(a)), t = Σ n; ∞ for an untried arm."""
    t = counts.sum()
    width = c * np.sqrt(np.log(t) / np.maximum(counts, 1))
    return np.where(counts == 0, np.inf, Q + width)


def beta_posterior(arms, rewards, A):
    """Beta parameters [A, 2]: (1 + successes, 1 + failures) of each arm after 0/1 rewards."""
    posterior = np.ones((A, 2))
    for arm, reward in zip(arms, rewards, strict=True):
        posterior[arm] += (reward, 1 - reward)
    return posterior


def gradient_step(H, arm, reward, baseline, alpha):
    """The preferences [A] after a pull: H(a) + α (r - baseline) (1[a pulled] - π(a))."""
    weights = np.exp(H - H.max())
    pi = weights / weights.sum()
    pulled = np.arange(len(H)) == arm
    return H + alpha * (reward - baseline) * (pulled - pi)


def reward_gradient(H, means):
    """The gradient [A] of the expected reward J = Σ π(a) μ(a): π(a) (μ(a) - J)."""
    weights = np.exp(H - H.max())
    pi = weights / weights.sum()
    return pi * (means - pi @ means)


# --- cases -----------------------------------------------------------------------------------


def _update_cases(rng):
    # Arm 1 has the average 2 of three rewards; a fourth, 4, moves it by (4 - 2) / 4 to 2.5.
    hand = {
        "Q": np.array([1.0, 2.0, 0.0]),
        "counts": np.array([5, 3, 0]),
        "arm": 1,
        "reward": 4.0,
    }
    # the first pull of an arm with the optimistic estimate 5: its first reward replaces it
    first = {"Q": np.array([5.0, 0.5]), "counts": np.array([0, 2]), "arm": 0, "reward": 1.0}
    cases = [hand, first]
    for A in SIZES:
        cases.append(
            {
                "Q": random_halves(rng, A),
                "counts": rng.integers(1, 9, size=A),
                "arm": int(rng.integers(A)),
                "reward": float(rng.integers(11, 20)) / 2.0,  # above every Q: no zero steps
            }
        )
    return cases


def _regret_cases(rng):
    # Gaps (2, 0, 3): arms 0, 2, 1 add 2, 3, 0. The lucky reward 9 of arm 0 does not matter.
    hand = {
        "means": np.array([1.0, 3.0, 0.0]),
        "arms": np.array([0, 2, 1]),
        "rewards": np.array([9.0, 1.0, 2.0]),
    }
    cases = [hand]
    for i, (A, T) in enumerate(zip(SIZES, [5, 3, 6, 4, 8, 5], strict=True)):
        means = random_halves(rng, A)
        # every second agent never meets the best arm: one better than all others, at the end
        means[-1] = means.max() + 1.5
        arms = rng.integers(A - 1 if i % 2 else A, size=T)
        cases.append({"means": means, "arms": arms, "rewards": random_halves(rng, T)})
    return cases


def _ucb_cases(rng):
    # t = 4: ln 4 = 1.3863. 1 + √(ln 4 / 1) = 2.1774; 0.5 + √(ln 4 / 3) = 1.1798; untried: ∞
    hand = {"Q": np.array([1.0, 0.5, 0.0]), "counts": np.array([1, 3, 0]), "c": 1.0}
    cases = [hand]
    for A, c in zip(SIZES, [2.0, 0.5, 1.5, 0.5, 2.0, 3.0], strict=True):
        counts = rng.integers(2, 20, size=A)
        if A > 3:
            counts[-1] = 0
        cases.append({"Q": random_halves(rng, A), "counts": counts, "c": c})
    # After a single pull ln t = 0: the width of the arm pulled is 0, that of the others still ∞.
    for counts in ([1, 0], [0, 0, 1]):
        cases.append({"Q": counts / np.array(2.0), "counts": np.array(counts), "c": 2.0})
    return cases


def _posterior_cases(rng):
    # Arm 0: one success; arm 1: one success, two failures; arm 2: never pulled.
    hand = {"arms": np.array([1, 0, 1, 1]), "rewards": np.array([1.0, 1.0, 0.0, 0.0]), "A": 3}
    return [hand] + [
        {"arms": rng.integers(A, size=T), "rewards": rng.integers(2, size=T) / 1.0, "A": A}
        for A, T in zip(SIZES, [6, 9, 5, 12, 4, 10], strict=True)
    ]


def _step_cases(rng):
    # π = (1/2, 1/2); 1/2 (5 - 1) = 2 times (1 - 1/2, -1/2) = (1, -1)
    hand = {"H": np.zeros(2), "arm": 0, "reward": 5.0, "baseline": 1.0, "alpha": 0.5}
    return [hand] + [
        {
            "H": random_halves(rng, A) / 2.0,
            "arm": int(rng.integers(A)),
            "reward": float(random_halves(rng, 1)[0]) + 8.0,
            "baseline": float(random_halves(rng, 1)[0]) / 2.0 + 0.25,
            "alpha": alpha,
        }
        for A, alpha in zip(SIZES, [0.5, 0.25, 1.5, 0.5, 2.0, 0.25], strict=True)
    ]


def _gradient_cases(rng):
    # π = (1/2, 1/2) and J = 2: 1/2 (1 - 2) = -1/2 and 1/2 (3 - 2) = 1/2
    hand = {"H": np.zeros(2), "means": np.array([1.0, 3.0])}
    return [hand] + [
        {"H": random_halves(rng, A) / 2.0, "means": random_halves(rng, A)} for A in SIZES
    ]


# --- mistakes --------------------------------------------------------------------------------


def _softmax(H):
    return np.exp(H) / np.exp(H).sum()


def _old_count(Q, counts, arm, reward):
    with np.errstate(all="ignore"):  # an arm without pulls: a division by zero
        return Q + (np.arange(len(Q)) == arm) * (reward - Q[arm]) / np.float64(counts[arm])


def _all_pulls(Q, counts, arm, reward):
    return Q + (np.arange(len(Q)) == arm) * (reward - Q) / (counts.sum() + 1)


def _divided_by_zero(Q, counts, c):
    with np.errstate(all="ignore"):
        return Q + c * np.sqrt(np.log(counts.sum()) / counts)


def _last_pulls_only(arms, rewards, A):
    posterior = np.ones((A, 2))
    posterior[arms, 0] += rewards
    posterior[arms, 1] += 1.0 - rewards
    return posterior


def _one_by_one(H, arm, reward, baseline, alpha):
    H = H.copy()
    for a in range(len(H)):
        H[a] += alpha * (reward - baseline) * ((a == arm) - _softmax(H)[a])
    return H


def _step_with(pi_term):
    """A gradient step whose direction is ``pi_term(pulled, pi)``."""

    def step(H, arm, reward, baseline, alpha):
        pulled = (np.arange(len(H)) == arm).astype(float)
        return H + alpha * (reward - baseline) * pi_term(pulled, _softmax(H))

    return step


EXERCISES: dict[str, Exercise] = {
    "update_estimates": Exercise(
        reference=update_estimates,
        cases=_update_cases,
        hint="How many rewards has the arm paid once this one is counted? The new one pulls the "
        "average by that share of its distance.",
        wrong_answers=(
            WrongAnswer(
                "dividing by the count before this pull",
                _old_count,
                "`counts` does not know of this reward yet. What would the first pull divide by?",
            ),
            WrongAnswer(
                "dividing by the pulls of all arms",
                _all_pulls,
                "An arm's average knows only the arm's own rewards: whose pulls should count?",
            ),
            WrongAnswer(
                "adding the reward to the average and dividing by the count",
                lambda Q, counts, arm, reward: np.where(
                    np.arange(len(Q)) == arm, (Q + reward) / (counts + 1), Q
                ),
                "The division by n needs the sum of all n rewards. How do you get the earlier "
                "sum back from an average?",
            ),
            WrongAnswer(
                "adding the reward, not its distance from the estimate",
                lambda Q, counts, arm, reward: (
                    Q + (np.arange(len(Q)) == arm) * reward / (counts[arm] + 1)
                ),
                "With rewards that are all 1 this estimate passes 1 and keeps growing. What should "
                "happen when the reward equals the estimate?",
            ),
            WrongAnswer(
                "moving away from the reward",
                lambda Q, counts, arm, reward: (
                    Q - (np.arange(len(Q)) == arm) * (reward - Q) / (counts[arm] + 1)
                ),
                "A reward above the estimate has lowered it. Which way does the error point?",
            ),
            WrongAnswer(
                "updating every arm",
                lambda Q, counts, arm, reward: Q + (reward - Q) / (counts + 1),
                "The reward says something about one arm only: which entry may change?",
            ),
            WrongAnswer(
                "keeping only the latest reward",
                lambda Q, counts, arm, reward: np.where(np.arange(len(Q)) == arm, reward, Q),
                "The earlier rewards are forgotten. By what share should one reward among n move "
                "an average?",
            ),
        ),
    ),
    "cumulative_regret": Exercise(
        reference=cumulative_regret,
        cases=_regret_cases,
        hint="What does one pull of an arm cost on average, compared with the best arm? Then add "
        "up as you go.",
        wrong_answers=(
            WrongAnswer(
                "counting the realised rewards",
                lambda means, arms, rewards: np.cumsum(means.max() - rewards),
                "A lucky reward makes a bad choice look good. Compare what the arms pay on "
                "average, which luck does not touch.",
            ),
            WrongAnswer(
                "the loss of each pull, not the sum so far",
                lambda means, arms, rewards: means.max() - means[arms],
                "Each entry has its own pull only. Regret after t pulls counts all of them.",
            ),
            WrongAnswer(
                "the best arm among those pulled",
                lambda means, arms, rewards: np.cumsum(means[arms].max() - means[arms]),
                "An agent that never finds the best arm would have no regret. Best of which arms?",
            ),
            WrongAnswer(
                "a comparison with the average arm",
                lambda means, arms, rewards: np.cumsum(means.mean() - means[arms]),
                "This can be negative. Regret measures the distance from the best one could do.",
            ),
            WrongAnswer(
                "regret with its sign turned",
                lambda means, arms, rewards: np.cumsum(means[arms] - means.max()),
                "Regret is what was missed: it should never fall below zero.",
            ),
            WrongAnswer(
                "the average per pull, not the sum",
                lambda means, arms, rewards: (
                    cumulative_regret(means, arms, rewards) / np.arange(1, len(arms) + 1)
                ),
                "Dividing by t hides growth: asked for is how much was missed in all.",
            ),
            WrongAnswer(
                "the final regret only",
                lambda means, arms, rewards: (means.max() - means[arms]).sum(),
                "That is the last entry. The curve needs the sum after every pull.",
            ),
        ),
    ),
    "ucb_scores": Exercise(
        reference=ucb_scores,
        cases=_ucb_cases,
        hint="Two different counts occur: the pulls of all arms under the logarithm, and an "
        "arm's own pulls below the line. What is the bound of an arm that was never tried?",
        wrong_answers=(
            WrongAnswer(
                "leaving an untried arm at its estimate",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    Q,
                    Q + c * np.sqrt(np.log(counts.sum()) / np.maximum(counts, 1)),
                ),
                "Nothing is known about that arm, so nothing limits how good it may be.",
            ),
            WrongAnswer(
                "treating an untried arm as pulled once",
                lambda Q, counts, c: Q + c * np.sqrt(np.log(counts.sum()) / np.maximum(counts, 1)),
                "Avoiding the division by zero is right, but what does the formula tend to as the "
                "count goes to 0?",
            ),
            WrongAnswer(
                "the logarithm of the arm's own count",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + c * np.sqrt(np.log(np.maximum(counts, 1)) / np.maximum(counts, 1)),
                ),
                "Then waiting never makes a neglected arm attractive again. Which count grows "
                "while an arm waits?",
            ),
            WrongAnswer(
                "the logarithm of t + 1",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + c * np.sqrt(np.log(counts.sum() + 1) / np.maximum(counts, 1)),
                ),
                "Some books number the pull that is about to be made. What does t count here?",
            ),
            WrongAnswer(
                "a division by the count of an untried arm",
                _divided_by_zero,
                "Dividing by 0 gives ∞, except where ln t is 0 as well: after a single pull it "
                "gives nan. How can untried arms be kept out of the formula?",
            ),
            WrongAnswer(
                "the logarithm to base 10",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + c * np.sqrt(np.log10(counts.sum()) / np.maximum(counts, 1)),
                ),
                "The bound comes from solving an exponential e^(...) for its width: which "
                "logarithm undoes it?",
            ),
            WrongAnswer(
                "c under the root",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + np.sqrt(c * np.log(counts.sum()) / np.maximum(counts, 1)),
                ),
                "Doubling c should double the width.",
            ),
            WrongAnswer(
                "the root of the logarithm only",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + c * np.sqrt(np.log(counts.sum())) / np.maximum(counts, 1),
                ),
                "Four times the pulls should halve the width. What else belongs under the root?",
            ),
            WrongAnswer(
                "no root at all",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q + c * np.log(counts.sum()) / np.maximum(counts, 1),
                ),
                "An average of n rewards is uncertain by about 1/√n, not by 1/n.",
            ),
            WrongAnswer(
                "the lower bound",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    Q - c * np.sqrt(np.log(counts.sum()) / np.maximum(counts, 1)),
                ),
                "That is what the arm is worth at least. Optimism asks for the other end.",
            ),
            WrongAnswer(
                "the widths alone",
                lambda Q, counts, c: np.where(
                    counts == 0,
                    np.inf,
                    c * np.sqrt(np.log(counts.sum()) / np.maximum(counts, 1)),
                ),
                "This explores and never uses what it has learnt. To what is the width added?",
            ),
        ),
    ),
    "beta_posterior": Exercise(
        reference=beta_posterior,
        cases=_posterior_cases,
        hint="Beta(1, 1) stands for knowing nothing. Each success adds 1 to one parameter of its "
        "arm, each failure adds 1 to the other.",
        wrong_answers=(
            WrongAnswer(
                "successes and failures swapped",
                lambda arms, rewards, A: beta_posterior(arms, rewards, A)[:, ::-1],
                "Beta(a, b) has the mean a / (a + b). Which parameter should a success raise?",
            ),
            WrongAnswer(
                "the counts without the prior",
                lambda arms, rewards, A: beta_posterior(arms, rewards, A) - 1.0,
                "An arm that was never pulled would have Beta(0, 0), which is no distribution. "
                "Where does the prior come in?",
            ),
            WrongAnswer(
                "all pulls in place of the failures",
                lambda arms, rewards, A: (
                    beta_posterior(arms, rewards, A) @ np.array([[1.0, 1.0], [0.0, 1.0]])
                    - np.array([0.0, 1.0])
                ),
                "After successes alone the second parameter should still be 1. What does it count?",
            ),
            WrongAnswer(
                "one posterior for all arms",
                lambda arms, rewards, A: np.tile(
                    (1.0 + rewards.sum(), 1.0 + (1.0 - rewards).sum()), (A, 1)
                ),
                "A success of one arm says nothing about another: which row may a pull change?",
            ),
            WrongAnswer(
                "the prior added again at every pull",
                lambda arms, rewards, A: (
                    beta_posterior(arms, rewards, A)
                    + np.bincount(arms, minlength=A)[:, None].astype(float)
                ),
                "The prior is there once, before the first pull. Then the posterior of one pull is "
                "the prior of the next.",
            ),
            WrongAnswer(
                "counting only the last pull of each arm",
                _last_pulls_only,
                "`array[arms] += ...` adds once to an arm, however often it stands in `arms`. "
                "How do you add once per pull?",
            ),
            WrongAnswer(
                "the mean of the posterior",
                lambda arms, rewards, A: (
                    beta_posterior(arms, rewards, A)[:, 0]
                    / beta_posterior(arms, rewards, A).sum(axis=1)
                ),
                "The mean alone has lost how sure the agent is. Give both parameters of each arm.",
            ),
        ),
    ),
    "gradient_step": Exercise(
        reference=gradient_step,
        cases=_step_cases,
        hint="Compute π first. Then every preference moves: the pulled arm by its missing "
        "probability, the others by theirs, downwards if the pull paid more than the baseline.",
        wrong_answers=(
            WrongAnswer(
                "a step downhill",
                _step_with(lambda pulled, pi: pi - pulled),
                "A reward above the baseline has made its arm less likely. Ascent or descent?",
            ),
            WrongAnswer(
                "moving the pulled arm only",
                _step_with(lambda pulled, pi: pulled * (1.0 - pi)),
                "The probabilities sum to 1: what does a good pull of one arm say about the "
                "preferences of the others?",
            ),
            WrongAnswer(
                "the full step for the pulled arm, nothing for the others",
                _step_with(lambda pulled, pi: pulled),
                "The derivative of ln π has a second term, from the sum in the softmax. It "
                "concerns every arm.",
            ),
            WrongAnswer(
                "the second term for the other arms only",
                _step_with(lambda pulled, pi: pulled - (1.0 - pulled) * pi),
                "The sum in the softmax contains the pulled arm as well: its own probability must "
                "be subtracted too.",
            ),
            WrongAnswer(
                "raising the other arms too",
                _step_with(lambda pulled, pi: pulled * (1.0 - pi) + (1.0 - pulled) * pi),
                "Adding the same to all preferences changes nothing. If one arm gains, what must "
                "the others do?",
            ),
            WrongAnswer(
                "the gradient of π, not of its logarithm",
                lambda H, arm, reward, baseline, alpha: (
                    H + (gradient_step(H, arm, reward, baseline, alpha) - H) * _softmax(H)[arm]
                ),
                "The arm was already drawn with probability π: weighting by π again counts it "
                "twice.",
            ),
            WrongAnswer(
                "the baseline multiplied",
                lambda H, arm, reward, baseline, alpha: gradient_step(
                    H, arm, reward * baseline, 0.0, alpha
                ),
                "A baseline answers: how much better than usual? Which operation compares?",
            ),
            WrongAnswer(
                "no step size",
                lambda H, arm, reward, baseline, alpha: gradient_step(
                    H, arm, reward, baseline, 1.0
                ),
                "The direction is right. How far should one sample move the agent?",
            ),
            WrongAnswer(
                "a new π for each preference",
                _one_by_one,
                "All preferences move at once. With which H was the arm drawn?",
            ),
            WrongAnswer(
                "no baseline",
                lambda H, arm, reward, baseline, alpha: gradient_step(H, arm, reward, 0.0, alpha),
                "Right on average, but it is not the step asked for: where has the baseline gone?",
            ),
            WrongAnswer(
                "the step alone",
                lambda H, arm, reward, baseline, alpha: (
                    gradient_step(H, arm, reward, baseline, alpha) - H
                ),
                "That is by how much the preferences change. What are they afterwards?",
            ),
        ),
    ),
    "reward_gradient": Exercise(
        reference=reward_gradient,
        cases=_gradient_cases,
        hint="Raising one preference moves probability to that arm from all arms in proportion. "
        "What is gained, compared with the policy's own average?",
        wrong_answers=(
            WrongAnswer(
                "the plain average of the arms",
                lambda H, means: _softmax(H) * (means - means.mean()),
                "J weighs each arm by its probability; here all arms weigh the same.",
            ),
            WrongAnswer(
                "a comparison with the best arm",
                lambda H, means: _softmax(H) * (means - means.max()),
                "No preference would ever rise. With what does the policy compare an arm?",
            ),
            WrongAnswer(
                "nothing subtracted",
                lambda H, means: _softmax(H) * means,
                "Adding a constant to all preferences leaves π as it is, so the entries of the "
                "gradient must sum to 0. Which term is missing?",
            ),
            WrongAnswer(
                "no probability in front",
                lambda H, means: means - _softmax(H) @ means,
                "An arm that is almost never pulled has almost no influence on J.",
            ),
            WrongAnswer(
                "only the arm's own probability moving",
                lambda H, means: _softmax(H) * (1.0 - _softmax(H)) * means,
                "What one arm gains in probability the others lose: they have rewards too.",
            ),
            WrongAnswer(
                "a step downhill",
                lambda H, means: -reward_gradient(H, means),
                "Following this lowers J. Check it on two arms: which preference should rise?",
            ),
            WrongAnswer(
                "the expected reward itself",
                lambda H, means: _softmax(H) @ means,
                "That is J. Asked for is how J changes with each preference: one number per arm.",
            ),
        ),
    ),
}
