"""The exercises of chapter 04: returns, averages, intervals and importance weights.

Rewards [T] follow actions [T]; states [T] are those in which the actions were taken. Answers in
32-bit numbers are right too: mistakes are off by far more than ``FLOAT32``.
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.tabular.monte_carlo import epsilon_greedy, first_visits, returns_to_go

GAMMAS = [0.5, 0.9, 0.75, 0.8, 0.95, 0.25]


def confidence_interval(returns):
    """Low and high end [2] of a 95% interval for the mean: Ḡ ± 1.96 s / √n.

    s² = Σ (G - Ḡ)² / (n - 1).
    """
    mean = returns.mean()
    half_width = 1.96 * returns.std(ddof=1) / np.sqrt(len(returns))
    return np.array([mean - half_width, mean + half_width])


def importance_weights(policy, behaviour, states, actions):
    """ρ_t for every t [T]: the product of π(a_k|s_k) / b(a_k|s_k) over k = t, t+1, ..., T-1."""
    ratios = policy[states, actions] / behaviour[states, actions]
    weights = np.ones(len(ratios))
    running = 1.0
    for t in reversed(range(len(ratios))):
        running = ratios[t] * running
        weights[t] = running
    return weights


def importance_estimates(weights, returns):
    """Two estimates of a value [2]: ordinary Σ ρ G / n, and weighted Σ ρ G / Σ ρ."""
    total = (weights * returns).sum()
    return np.array([total / len(returns), total / weights.sum()])


# --- cases -----------------------------------------------------------------------------------


def _return_cases(rng):
    # 2;  -4 + 0.5·2 = -3;  3 + 0.5·(-3) = 1.5
    hand = {"rewards": np.array([3.0, -4.0, 2.0]), "gamma": 0.5}
    sizes = [4, 6, 5, 3, 7, 4]
    return [hand] + [
        {"rewards": random_halves(rng, T), "gamma": gamma}
        for T, gamma in zip(sizes, GAMMAS, strict=True)
    ]


def _visit_cases(rng):
    # 5 is met at 0, 2 at 1, 5 again at 2, 3 at 3, 2 again at 4
    cases = [{"states": np.array([5, 2, 5, 3, 2])}]
    return cases + [{"states": rng.integers(0, 4, size=T)} for T in (6, 8, 5, 9, 7, 10)]


def _interval_cases(rng):
    # mean 3; the deviations -3, -1, 1, 3 give s² = 20/3, so the half-width is 1.96 √(20/3 / 4)
    hand = {"returns": np.array([0.0, 2.0, 4.0, 6.0])}
    return [hand] + [{"returns": random_halves(rng, n)} for n in (3, 5, 8, 12, 6, 20)]


def _policy_cases(rng):
    # ε/A = 0.1 each. State 0: one best action, 0.1 + 0.6. State 1: two best, 0.1 + 0.3 each.
    Q = np.array([[0.0, 1.0, 0.0, -1.0], [2.0, 0.0, 2.0, 1.0]])
    cases = [{"Q": Q, "epsilon": 0.4}]
    shapes = [(3, 2), (2, 4), (4, 3), (5, 2), (3, 5), (2, 3)]
    for shape, epsilon in zip(shapes, [0.1, 0.5, 0.2, 0.3, 0.25, 0.6], strict=True):
        Q = random_halves(rng, shape)
        Q[0, [0, -1]] = Q[0].max() + 0.5  # two best actions in state 0
        Q[1, -1] = Q[1].max() + 1.0  # one in state 1, the last
        cases.append({"Q": Q, "epsilon": epsilon})
    return cases


def _weight_cases(rng):
    # ratios at (0, 0), (1, 1), (0, 1): 0.75/0.5 = 1.5, 0.5/0.25 = 2, 0.25/0.5 = 0.5.
    # From the end: 0.5;  2·0.5 = 1;  1.5·1 = 1.5
    policy, behaviour = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.75, 0.25]])
    hand = {"states": np.array([0, 1, 0]), "actions": np.array([0, 1, 1])}
    cases = [{"policy": policy, "behaviour": behaviour} | hand]
    for T, A in [(4, 3), (5, 2), (6, 3), (3, 4), (5, 3), (4, 2)]:
        shape = (3, A)
        policy, behaviour = rng.integers(1, 6, shape) / 1.0, rng.integers(1, 6, shape) / 1.0
        cases.append(
            {
                "policy": policy / policy.sum(axis=1, keepdims=True),
                "behaviour": behaviour / behaviour.sum(axis=1, keepdims=True),
                "states": rng.integers(0, 3, size=T),
                "actions": rng.integers(0, A, size=T),
            }
        )
    return cases


def _estimate_cases(rng):
    # Σ ρG = 2·5 + 0·3 + 4·8 = 42: ordinary 42/3 = 14, weighted 42/(2 + 0 + 4) = 7
    cases = [{"weights": np.array([2.0, 0.0, 4.0]), "returns": np.array([5.0, 3.0, 8.0])}]
    for n in (4, 6, 5, 8, 3, 7):
        weights = rng.integers(0, 9, size=n) / 2.0
        weights[0], weights[1] = 0.0, 2.5  # one weight is 0, and not all are
        cases.append({"weights": weights, "returns": random_halves(rng, n)})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _forwards(rewards, gamma):
    G = np.zeros(len(rewards))
    running = 0.0
    for t in range(len(rewards)):
        running = rewards[t] + gamma * running
        G[t] = running
    return G


def _same_power_everywhere(rewards, gamma):
    """The rewards keep the discount that they have as seen from the start."""
    discounted = gamma ** np.arange(len(rewards)) * rewards
    return discounted[::-1].cumsum()[::-1]


def _last_visits(states):
    reversed_times = first_visits(states[::-1])
    return np.sort(len(states) - 1 - reversed_times)


def _new_since_the_last_step(states):
    return np.flatnonzero(np.append(True, states[1:] != states[:-1]))


def _interval(returns, half_width):
    return np.array([returns.mean() - half_width, returns.mean() + half_width])


def _spread(returns):
    return returns.std(ddof=1)


def _one_best(Q, epsilon):
    return epsilon / Q.shape[1] + (1.0 - epsilon) * np.eye(Q.shape[1])[Q.argmax(axis=1)]


def _one_best_without_its_share(Q, epsilon):
    policy = np.full(Q.shape, epsilon / Q.shape[1])
    policy[np.arange(len(Q)), Q.argmax(axis=1)] = 1.0 - epsilon
    return policy


def _best(Q):
    return Q == Q.max(axis=1, keepdims=True)


def _shared(Q):
    return _best(Q) / _best(Q).sum(axis=1, keepdims=True)


def _ratios(policy, behaviour, states, actions):
    return policy[states, actions] / behaviour[states, actions]


EXERCISES: dict[str, Exercise] = {
    "returns_to_go": Exercise(
        reference=returns_to_go,
        tolerance=FLOAT32,
        cases=_return_cases,
        hint="The last return is the last reward. How does each earlier one follow from the "
        "return one step later?",
        wrong_answers=(
            WrongAnswer(
                "the rewards so far, not the rewards to come",
                _forwards,
                "You accumulate from the first step. What is earned after time t, and not before, "
                "belongs to G_t: from which end should the loop run?",
            ),
            WrongAnswer(
                "discounting the first reward",
                lambda rewards, gamma: gamma * returns_to_go(rewards, gamma=gamma),
                "The reward that follows the action at once counts in full: which term is the "
                "first to be discounted?",
            ),
            WrongAnswer(
                "no discount at all",
                lambda rewards, gamma: returns_to_go(rewards, gamma=1.0),
                "These are plain sums of what follows. Where does γ come in?",
            ),
            WrongAnswer(
                "discounts counted from the start of the episode",
                _same_power_everywhere,
                "A reward k steps after time t has weight γ to the k: k counts from t, not from "
                "the beginning.",
            ),
            WrongAnswer(
                "off by one: the return of the next step",
                lambda rewards, gamma: np.append(returns_to_go(rewards, gamma=gamma)[1:], 0.0),
                "Your answer at t is what follows from t + 1 on. In which order do you store and "
                "update?",
            ),
            WrongAnswer(
                "the first return only",
                lambda rewards, gamma: returns_to_go(rewards, gamma=gamma)[0],
                "That is the return of the whole episode. Every state on the way needs its own.",
            ),
            WrongAnswer(
                "the returns in reverse order",
                lambda rewards, gamma: returns_to_go(rewards, gamma=gamma)[::-1].copy(),
                "A list filled from the back comes out the wrong way round: entry 0 belongs to "
                "time 0.",
            ),
        ),
    ),
    "first_visits": Exercise(
        reference=first_visits,
        cases=_visit_cases,
        hint="Walk through the episode and remember which states you have seen. What do you note "
        "when one is new?",
        wrong_answers=(
            WrongAnswer(
                "the last visits",
                _last_visits,
                "Each state is there once, but by its last time. A later visit must not overwrite "
                "an earlier one.",
            ),
            WrongAnswer(
                "a mask, not the times",
                lambda states: np.isin(np.arange(len(states)), first_visits(states)),
                "True and False are in the right places. Wanted are the times at which it is true.",
            ),
            WrongAnswer(
                "the states, sorted",
                lambda states: np.unique(states),
                "Each state is there once, but the question is when it was met first.",
            ),
            WrongAnswer(
                "the states, not their times",
                lambda states: states[first_visits(states)],
                "You have found the right moments and report who was met. The question is when.",
            ),
            WrongAnswer(
                "times in the order of the state numbers",
                lambda states: np.unique(states, return_index=True)[1],
                "The times are right and their order is not: which comes first in the episode?",
            ),
            WrongAnswer(
                "every change of state",
                _new_since_the_last_step,
                "A state that comes back after others is not new. Comparing with the step before "
                "is not enough: compare with the whole past.",
            ),
            WrongAnswer(
                "every visit",
                lambda states: np.arange(len(states)),
                "All times are listed, also those at which the state had been seen before.",
            ),
            WrongAnswer(
                "states that are visited only once",
                lambda states: np.flatnonzero((states[:, None] == states).sum(axis=1) == 1),
                "A state that comes back still has a first visit.",
            ),
        ),
    ),
    "confidence_interval": Exercise(
        reference=confidence_interval,
        tolerance=FLOAT32,
        cases=_interval_cases,
        hint="The mean of n independent returns varies less than one return does: by which factor?",
        wrong_answers=(
            WrongAnswer(
                "the spread of one return, not of their mean",
                lambda returns: _interval(returns, 1.96 * _spread(returns)),
                "This holds 95% of single returns, however many there are. More returns should "
                "make the interval shorter.",
            ),
            WrongAnswer(
                "divided by n instead of its root",
                lambda returns: _interval(returns, 1.96 * _spread(returns) / len(returns)),
                "The variance of a mean falls like 1/n. What does its standard deviation do?",
            ),
            WrongAnswer(
                "the variance where the standard deviation belongs",
                lambda returns: _interval(
                    returns, 1.96 * returns.var(ddof=1) / np.sqrt(len(returns))
                ),
                "A variance has the unit of a squared return: it cannot be added to a mean.",
            ),
            WrongAnswer(
                "one standard error, not 1.96",
                lambda returns: _interval(returns, _spread(returns) / np.sqrt(len(returns))),
                "One standard error either side holds a normal variable about 68% of the time.",
            ),
            WrongAnswer(
                "a variance that divides by n",
                lambda returns: _interval(returns, 1.96 * returns.std() / np.sqrt(len(returns))),
                "Deviations are measured from the mean of the same returns, so they come out a "
                "little small. Which divisor makes up for it?",
            ),
            WrongAnswer(
                "the high end first",
                lambda returns: confidence_interval(returns)[::-1].copy(),
                "Both ends are right: which of them comes first?",
            ),
            WrongAnswer(
                "the middle 95% of the returns",
                lambda returns: np.percentile(returns, [2.5, 97.5]),
                "These are percentiles of single returns: they stay where they are, however many "
                "returns there are. The interval is for the mean.",
            ),
            WrongAnswer(
                "the mean and the half-width",
                lambda returns: np.array(
                    [returns.mean(), 1.96 * _spread(returns) / np.sqrt(len(returns))]
                ),
                "Both numbers are right. The two ends of the interval are asked for.",
            ),
        ),
    ),
    "epsilon_greedy": Exercise(
        reference=epsilon_greedy,
        tolerance=FLOAT32,
        cases=_policy_cases,
        hint="With probability ε draw from all actions alike, the best included. What is left over "
        "for the best ones, and how do several share it?",
        wrong_answers=(
            WrongAnswer(
                "ε spread over the other actions only",
                lambda Q, epsilon: np.where(
                    _best(Q),
                    (1.0 - epsilon) / _best(Q).sum(axis=1, keepdims=True),
                    epsilon / (~_best(Q)).sum(axis=1, keepdims=True).clip(1),
                ),
                "The random draw is from all actions: the best one is drawn by chance too.",
            ),
            WrongAnswer(
                "1 - ε for the best, without its share of the draw",
                lambda Q, epsilon: np.where(
                    _best(Q), (1.0 - epsilon) * _shared(Q), epsilon / Q.shape[1]
                ),
                "Your rows sum to less than 1: the random draw can hit a best action as well.",
            ),
            WrongAnswer(
                "1 - ε for the first best action, without its share of the draw",
                _one_best_without_its_share,
                "Two things. Your rows sum to less than 1: the random draw can hit the best action "
                "as well. And where actions tie, argmax sees only one of them.",
            ),
            WrongAnswer(
                "everything to the first of several best actions",
                _one_best,
                "Where two actions tie, argmax sees only one of them. Who else should share?",
            ),
            WrongAnswer(
                "the greedy share alone",
                lambda Q, epsilon: (1.0 - epsilon) * _shared(Q),
                "Your rows sum to 1 - ε. Where has the rest gone?",
            ),
            WrongAnswer(
                "the full share for each of several best actions",
                lambda Q, epsilon: epsilon / Q.shape[1] + (1.0 - epsilon) * _best(Q),
                "Where two actions tie, your row sums to more than 1. They share what one would "
                "have had.",
            ),
            WrongAnswer(
                "ε and 1 - ε exchanged",
                lambda Q, epsilon: epsilon_greedy(Q, 1.0 - epsilon),
                "At ε = 0 this policy would be random. Which share explores?",
            ),
            WrongAnswer(
                "greedy, without exploring",
                lambda Q, epsilon: _shared(Q),
                "Actions that look bad have probability 0 here, so nothing more is ever learned "
                "about them.",
            ),
            WrongAnswer(
                "the best of the whole table",
                lambda Q, epsilon: (
                    epsilon / Q.shape[1] + (1.0 - epsilon) * (Q.max() == Q) / (Q.max() == Q).sum()
                ),
                "Each state has its own best action. Over which axis does the max run?",
            ),
        ),
    ),
    "importance_weights": Exercise(
        reference=importance_weights,
        tolerance=FLOAT32,
        cases=_weight_cases,
        hint="G_t depends on the actions from t on. Which of them are still to come, and how do "
        "probabilities of several choices combine?",
        wrong_answers=(
            WrongAnswer(
                "the ratio upside down",
                lambda policy, behaviour, states, actions: (
                    1.0 / importance_weights(policy, behaviour, states, actions)
                ),
                "An action that the policy takes more often than the behaviour should count more.",
            ),
            WrongAnswer(
                "a sum of ratios",
                lambda policy, behaviour, states, actions: _ratios(
                    policy, behaviour, states, actions
                )[::-1].cumsum()[::-1],
                "The probability that several things all happen is not the sum of their "
                "probabilities.",
            ),
            WrongAnswer(
                "the ratio of the whole episode at every step",
                lambda policy, behaviour, states, actions: np.full(
                    len(states), _ratios(policy, behaviour, states, actions).prod()
                ),
                "G_t does not depend on the actions before t: their ratios only add noise.",
            ),
            WrongAnswer(
                "the actions so far, not the actions to come",
                lambda policy, behaviour, states, actions: _ratios(
                    policy, behaviour, states, actions
                ).cumprod(),
                "Your product runs from the start to t. Which actions is G_t the result of?",
            ),
            WrongAnswer(
                "each step's own ratio, without a product",
                _ratios,
                "The return after t is shaped by all the actions that follow, not by the next one.",
            ),
            WrongAnswer(
                "a product that leaves out the action at t",
                lambda policy, behaviour, states, actions: np.append(
                    importance_weights(policy, behaviour, states, actions)[1:], 1.0
                ),
                "V is wanted, and under π the action at t was a choice as well. For Q, where it "
                "is given, your product would be right.",
            ),
            WrongAnswer(
                "the weights in reverse order",
                lambda policy, behaviour, states, actions: importance_weights(
                    policy, behaviour, states, actions
                )[::-1].copy(),
                "A list filled from the back comes out the wrong way round: entry 0 belongs to "
                "time 0.",
            ),
            WrongAnswer(
                "the policy's probability alone",
                lambda policy, behaviour, states, actions: policy[states, actions][::-1].cumprod()[
                    ::-1
                ],
                "How often the behaviour gives rise to such an episode matters as well.",
            ),
        ),
    ),
    "importance_estimates": Exercise(
        reference=importance_estimates,
        tolerance=FLOAT32,
        cases=_estimate_cases,
        hint="Both estimates have the same numerator. One divides by how many returns there are, "
        "the other by how much they weigh.",
        wrong_answers=(
            WrongAnswer(
                "the two in the wrong order",
                lambda weights, returns: importance_estimates(weights, returns)[::-1].copy(),
                "The ordinary estimate comes first: which of the two divides by a plain count?",
            ),
            WrongAnswer(
                "a plain mean, without weights",
                lambda weights, returns: np.full(2, returns.mean()),
                "This is the value of the behaviour. Where do the ratios come in?",
            ),
            WrongAnswer(
                "a count that leaves out the weights of 0",
                lambda weights, returns: np.array(
                    [
                        (weights * returns).sum() / (weights > 0.0).sum(),
                        (weights * returns).sum() / weights.sum(),
                    ]
                ),
                "An episode with weight 0 did happen: without it the ordinary estimate is too "
                "large.",
            ),
            WrongAnswer(
                "sums that are not divided",
                lambda weights, returns: np.full(2, (weights * returns).sum()),
                "That is the common numerator. Each estimate divides it by something.",
            ),
            WrongAnswer(
                "weights divided by their sum, returns averaged again",
                lambda weights, returns: np.array(
                    [
                        (weights * returns).mean(),
                        (weights / weights.sum() * returns).mean(),
                    ]
                ),
                "The first is right. In the second the weights already sum to 1: one division too "
                "many.",
            ),
            WrongAnswer(
                "returns weighted by their ratio twice",
                lambda weights, returns: np.array(
                    [
                        (weights**2 * returns).mean(),
                        (weights**2 * returns).sum() / weights.sum(),
                    ]
                ),
                "Each return is multiplied by its ratio once: where does the square come from?",
            ),
        ),
    ),
}
