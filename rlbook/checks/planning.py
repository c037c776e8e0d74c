"""The exercises of chapter 03: planning, over plain arrays.

P [S, A, S], R [S, A]; under a policy P_pi [S, S], R_pi [S]; gamma is the discount.
"""

import numpy as np

from rlbook.checks.cases import random_distributions, random_halves, random_mdp
from rlbook.checks.harness import Exercise, WrongAnswer

GAMMAS = [0.9, 0.5, 0.95, 0.8, 0.0, 0.75]


def evaluate_exactly(P_pi, R_pi, gamma):
    """The values of a policy [S]: the V that solves V = R_π + γ P_π V."""
    identity = np.eye(len(R_pi))
    return np.linalg.solve(identity - gamma * P_pi, R_pi)


def greedy_actions(Q):
    """True for every best action of each state [S, A]; values within 1e-9 of the best tie."""
    best = Q.max(axis=1, keepdims=True)
    return best - Q <= 1e-9


def contraction_bound(V_old, V_new, gamma):
    """How far V_new, one backup of V_old, can be from the fixed point: γ/(1-γ) max |Δ|."""
    largest_change = np.abs(V_new - V_old).max()
    return gamma / (1 - gamma) * largest_change


def finite_horizon_values(P, R, horizon):
    """The best values [H + 1, S] without a discount; row h is for h actions left, row 0 is 0."""
    V = np.zeros((horizon + 1, len(R)))
    for h in range(1, horizon + 1):
        Q = R + P @ V[h - 1]
        V[h] = Q.max(axis=1)
    return V


# --- cases -----------------------------------------------------------------------------------


def _evaluation_cases(rng):
    # State 1 pays 1 for ever: V(1) = 1 / (1 - 1/2) = 2. State 0 leads there: V(0) = 0 + 2/2.
    hand = {
        "P_pi": np.array([[0.0, 1.0], [0.0, 1.0]]),
        "R_pi": np.array([0.0, 1.0]),
        "gamma": 0.5,
    }
    return [hand] + [
        {
            "P_pi": random_distributions(rng, S, S),
            "R_pi": random_halves(rng, S),
            "gamma": gamma,
        }
        for S, gamma in zip([3, 4, 5, 2, 3, 6], GAMMAS, strict=True)
    ]


def _greedy_cases(rng):
    """Gaps are either rounding (below 1e-12) or at least 0.01: any sensible tolerance will do."""
    hand = {"Q": np.array([[1.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.0]])}
    cases = [hand]
    for S, A in [(3, 2), (2, 4), (4, 3), (5, 2), (3, 5), (2, 3)]:
        Q = random_halves(rng, (S, A))
        Q[0] = Q[0].max()  # every action of state 0 ties,
        Q[0, 0] += 4e-15  # but for rounding
        Q[1, -1] = Q[1].max() + 0.01  # and a small gap is no tie
        cases.append({"Q": Q})
    return cases


def _bound_cases(rng):
    # The largest change is 4, downwards: 0.5 / (1 - 0.5) · 4 = 4
    hand = {"V_old": np.array([1.0, 5.0, 0.0]), "V_new": np.array([2.0, 1.0, 0.0]), "gamma": 0.5}
    return [hand] + [
        {"V_old": random_halves(rng, S), "V_new": random_halves(rng, S), "gamma": gamma}
        for S, gamma in zip([3, 4, 5, 2, 3, 6], GAMMAS, strict=True)
    ]


def _horizon_cases(rng):
    # Action 0 stays; action 1 goes to state 1; action 2 tosses a coin. With 1 left: (1, 3).
    # With 2 left: max(1 + 1, 0 + 3, 0 + 2) = 3 and max(3 + 3, 2 + 3, 0 + 2) = 6.
    P = np.array([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]]])
    R = np.array([[1.0, 0.0, 0.0], [3.0, 2.0, 0.0]])
    cases = [{"P": P, "R": R, "horizon": 2}]
    sizes = [(2, 3), (3, 2), (4, 3), (3, 4), (5, 2), (2, 4)]
    for (S, A), horizon in zip(sizes, [3, 1, 4, 2, 5, 3], strict=True):
        P, R = random_mdp(rng, S, A)
        cases.append({"P": P, "R": R, "horizon": horizon})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _starting_with_the_best_reward(P, R, horizon):
    return finite_horizon_values(P, R, horizon + 1)[1:]


def _stopping_one_early(P, R, horizon):
    V = finite_horizon_values(P, R, horizon)
    V[horizon] = 0.0
    return V


def _two_maxima(P, R, horizon):
    V = np.zeros((horizon + 1, len(R)))
    for h in range(1, horizon + 1):
        V[h] = R.max(axis=1) + (P @ V[h - 1]).max(axis=1)
    return V


def _mean_action(P, R, horizon):
    V = np.zeros((horizon + 1, len(R)))
    for h in range(1, horizon + 1):
        V[h] = (R + P @ V[h - 1]).mean(axis=1)
    return V


EXERCISES: dict[str, Exercise] = {
    "evaluate_exactly": Exercise(
        reference=evaluate_exactly,
        cases=_evaluation_cases,
        hint="Bring both terms with V to one side of V = R_π + γ P_π V: which matrix then "
        "multiplies V?",
        wrong_answers=(
            WrongAnswer(
                "the transposed matrix",
                lambda P_pi, R_pi, gamma: np.linalg.solve(np.eye(len(R_pi)) - gamma * P_pi.T, R_pi),
                "This pushes rewards forward to where the chain goes; values come back from there. "
                "The rows of P_π belong to the state that is left.",
            ),
            WrongAnswer(
                "a plus where V changes sides",
                lambda P_pi, R_pi, gamma: np.linalg.solve(np.eye(len(R_pi)) + gamma * P_pi, R_pi),
                "Take γ P_π V to the other side of the equation: what happens to its sign?",
            ),
            WrongAnswer(
                "the matrix applied, not its equations solved",
                lambda P_pi, R_pi, gamma: (np.eye(len(R_pi)) - gamma * P_pi) @ R_pi,
                "The matrix multiplies the unknown V, and R_π is the result. You have gone from "
                "left to right; which way is asked for?",
            ),
            WrongAnswer(
                "discounting the first reward",
                lambda P_pi, R_pi, gamma: gamma * evaluate_exactly(P_pi, R_pi, gamma),
                "R_π(s) is paid at once, so it stands in the equation without γ.",
            ),
            WrongAnswer(
                "one sweep, starting from R_π",
                lambda P_pi, R_pi, gamma: R_pi + gamma * P_pi @ R_pi,
                "That counts two rewards. V is the same on both sides of the equation: which "
                "linear equations does it solve?",
            ),
        ),
    ),
    "greedy_actions": Exercise(
        reference=greedy_actions,
        cases=_greedy_cases,
        hint="Compare every action with the best of its own state. How large a difference is only "
        "rounding?",
        wrong_answers=(
            WrongAnswer(
                "the first argmax only",
                lambda Q: np.eye(Q.shape[1], dtype=bool)[Q.argmax(axis=1)],
                "argmax names one best action and hides the others. Which actions reach the max?",
            ),
            WrongAnswer(
                "exact equality, which rounding breaks",
                lambda Q: Q.max(axis=1, keepdims=True) == Q,
                "0.1 + 0.2 is not 0.3 in floating point. Let values tie that differ by next to "
                "nothing.",
            ),
            WrongAnswer(
                "a tolerance that is too wide",
                lambda Q: Q.max(axis=1, keepdims=True) - Q <= 0.1,
                "A gap of 0.01 is a real difference. Rounding in float64 is near 1e-15 for such "
                "numbers: choose a tolerance between the two.",
            ),
            WrongAnswer(
                "one maximum for the whole table",
                lambda Q: Q.max() - Q <= 1e-9,
                "A poor state has a best action too. Over which axis does the max run?",
            ),
            WrongAnswer(
                "the best state of each action",
                lambda Q: Q.max(axis=0) - Q <= 1e-9,
                "The max runs over states here. Which axis of Q holds the actions?",
            ),
            WrongAnswer(
                "the number of one best action per state",
                lambda Q: Q.argmax(axis=1),
                "One number per state has no room for ties: answer True or False for each action.",
            ),
            WrongAnswer(
                "probabilities, not True and False",
                lambda Q: greedy_actions(Q) / greedy_actions(Q).sum(axis=1, keepdims=True),
                "The actions are the right ones, but this is already a policy. Which step made "
                "their rows sum to 1?",
            ),
        ),
    ),
    "contraction_bound": Exercise(
        reference=contraction_bound,
        cases=_bound_cases,
        hint="After V_new the changes still to come are at most γ, γ², γ³, ... times the last "
        "one. What do they add up to?",
        wrong_answers=(
            WrongAnswer(
                "1/(1-γ) instead of γ/(1-γ)",
                lambda V_old, V_new, gamma: np.abs(V_new - V_old).max() / (1 - gamma),
                "That bounds the distance from V_old. V_new is one backup further on: by which "
                "factor is it nearer?",
            ),
            WrongAnswer(
                "the largest rise, without the absolute value",
                lambda V_old, V_new, gamma: gamma / (1 - gamma) * (V_new - V_old).max(),
                "A value may also have fallen, and further than any other rose.",
            ),
            WrongAnswer(
                "the sum of the changes, not the largest",
                lambda V_old, V_new, gamma: gamma / (1 - gamma) * np.abs(V_new - V_old).sum(),
                "A backup is a contraction in the norm that looks at the worst state alone.",
            ),
            WrongAnswer(
                "the Euclidean distance, not the largest change",
                lambda V_old, V_new, gamma: gamma / (1 - gamma) * np.linalg.norm(V_new - V_old),
                "A backup is a contraction in another norm: the one that looks at the worst state.",
            ),
            WrongAnswer(
                "the next change only",
                lambda V_old, V_new, gamma: gamma * np.abs(V_new - V_old).max(),
                "After the next backup there are more: their sizes form a series. Add it up.",
            ),
            WrongAnswer(
                "the last change itself",
                lambda V_old, V_new, gamma: np.abs(V_new - V_old).max(),
                "A small change is not a small error: with γ near 1 many more such changes follow.",
            ),
            WrongAnswer(
                "the change of the largest value",
                lambda V_old, V_new, gamma: gamma / (1 - gamma) * abs(V_new.max() - V_old.max()),
                "The two largest values may belong to different states. Subtract first.",
            ),
            WrongAnswer(
                "a bound for each state",
                lambda V_old, V_new, gamma: gamma / (1 - gamma) * np.abs(V_new - V_old),
                "The error of a state comes also from those it leads to, so one number must cover "
                "all: which?",
            ),
        ),
    ),
    "finite_horizon_values": Exercise(
        reference=finite_horizon_values,
        cases=_horizon_cases,
        hint="With no action left nothing more can be earned. With h left: take one, and be in "
        "a state with h - 1 left.",
        wrong_answers=(
            WrongAnswer(
                "off by one in the horizon",
                _starting_with_the_best_reward,
                "Row 0 already holds rewards, but with no action left there is none to earn.",
            ),
            WrongAnswer(
                "stopping one step early",
                _stopping_one_early,
                "The last row was never filled. How many backups does a horizon of H need, and "
                "where does your loop end?",
            ),
            WrongAnswer(
                "the table without its row of zeros",
                lambda P, R, horizon: finite_horizon_values(P, R, horizon)[1:],
                "From 0 to H there are H + 1 rows: what are the values with no action left?",
            ),
            WrongAnswer(
                "time running the other way",
                lambda P, R, horizon: finite_horizon_values(P, R, horizon)[::-1],
                "Rows are counted by the actions left, not by those taken: which row is 0?",
            ),
            WrongAnswer(
                "two maxima, one for the reward and one for the future",
                _two_maxima,
                "One action brings both its reward and its next state: you cannot choose a "
                "different one for each.",
            ),
            WrongAnswer(
                "the average action, not the best",
                _mean_action,
                "The values are those of the best plan. What does it do with its next action?",
            ),
            WrongAnswer(
                "the last row only",
                lambda P, R, horizon: finite_horizon_values(P, R, horizon)[-1],
                "The rows before it are asked for too: one for each number of actions left.",
            ),
        ),
    ),
}
