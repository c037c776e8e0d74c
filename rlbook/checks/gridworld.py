"""The exercises of chapter 02: returns and the Bellman equations, over plain arrays.

P [S, A, S], R [S, A], policy [S, A], V [S], Q [S, A]; gamma is the discount.
"""

import numpy as np

from rlbook.checks.cases import random_distributions, random_halves, random_mdp
from rlbook.checks.harness import Exercise, WrongAnswer
from rlbook.tabular import episodes

SIZES = [(2, 3), (3, 2), (4, 3), (3, 4), (5, 2), (2, 4)]  # (S, A); S ≠ A: mixed-up axes show
GAMMAS = [0.9, 0.5, 1.0, 0.8, 0.0, 0.99]


def discounted_return(rewards, gamma):
    """The return of one episode: G_0 = r_0 + γ r_1 + γ² r_2 + ..."""
    total = 0.0
    for t, reward in enumerate(rewards):
        total += gamma**t * reward
    return total


def bellman_expectation(P, R, policy, V, gamma):
    """One backup of V under a policy [S]: Σ_a π(a|s) [ R(s, a) + γ Σ_s' P(s'|s, a) V(s') ]."""
    Q = R + gamma * P @ V
    return (policy * Q).sum(axis=1)


def bellman_optimality(P, R, Q, gamma):
    """One optimal backup of Q [S, A]: R(s, a) + γ Σ_s' P(s'|s, a) max_a' Q(s', a')."""
    best_next = Q.max(axis=1)
    return R + gamma * P @ best_next


def advantage(Q, policy):
    """How much better than the policy each action is [S, A]: Q(s, a) - Σ_a' π(a'|s) Q(s, a')."""
    V = (policy * Q).sum(axis=1, keepdims=True)
    return Q - V


# --- cases -----------------------------------------------------------------------------------


def _return_cases(rng):
    hand = {"rewards": np.array([1.0, 2.0, 4.0]), "gamma": 0.5}  # 1 + 2/2 + 4/4 = 3
    lengths = [5, 3, 8, 1, 4, 6]
    return [hand] + [
        {"rewards": random_halves(rng, length), "gamma": gamma}
        for length, gamma in zip(lengths, GAMMAS, strict=True)
    ]


def _two_states():
    """Two states and three actions; the last action may lead to either state."""
    P = np.array([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
    R = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    return P, R


def _expectation_cases(rng):
    P, R = _two_states()
    policy = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    # s = 0: (0 + 10/2 + 1 + 20/2) / 2 = 8;  s = 1: 1 + (10 + 20)/2 / 2 = 8.5
    cases = [{"P": P, "R": R, "policy": policy, "V": np.array([10.0, 20.0]), "gamma": 0.5}]
    for (S, A), gamma in zip(SIZES, GAMMAS, strict=True):
        P, R = random_mdp(rng, S, A)
        policy, V = random_distributions(rng, A, S), random_halves(rng, S)
        cases.append({"P": P, "R": R, "policy": policy, "V": V, "gamma": gamma})
    return cases


def _optimality_cases(rng):
    P, R = _two_states()
    # best next values 4 and 6: action 0 backs up 4/2, action 1 6/2, action 2 (4 + 6)/2 / 2
    Q = np.array([[4.0, 0.0, 1.0], [2.0, 6.0, 0.0]])
    cases = [{"P": P, "R": R, "Q": Q, "gamma": 0.5}]
    for (S, A), gamma in zip(SIZES, GAMMAS, strict=True):
        P, R = random_mdp(rng, S, A)
        cases.append({"P": P, "R": R, "Q": random_halves(rng, (S, A)), "gamma": gamma})
    return cases


def _advantage_cases(rng):
    # V = (1 + 3)/2 = 2 and 6: the advantages are -1, 1, 3 and -6, 0, -3
    Q = np.array([[1.0, 3.0, 5.0], [0.0, 6.0, 3.0]])
    cases = [{"Q": Q, "policy": np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])}]
    for S, A in SIZES:
        policy = random_distributions(rng, A, S)
        cases.append({"Q": random_halves(rng, (S, A)), "policy": policy})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _discounted_from_the_end(rewards, gamma):
    total = 0.0
    for reward in rewards:
        total = reward + gamma * total
    return total


def _returns_of_all_steps(rewards, gamma):
    return [discounted_return(rewards[t:], gamma) for t in range(len(rewards))]


EXERCISES: dict[str, Exercise] = {
    "discounted_return": Exercise(
        reference=discounted_return,
        shown=episodes.discounted_return,
        cases=_return_cases,
        hint="Write the sum out for three rewards. Which power of γ stands before the first one?",
        wrong_answers=(
            WrongAnswer(
                "discounting the first reward",
                lambda rewards, gamma: gamma * discounted_return(rewards, gamma),
                "The reward at t = 0 counts in full: what is γ to the power 0?",
            ),
            WrongAnswer(
                "the plain sum of the rewards",
                lambda rewards, gamma: rewards.sum(),
                "A reward that comes later counts for less. Where does γ enter?",
            ),
            WrongAnswer(
                "discounting from the wrong end",
                _discounted_from_the_end,
                "Here the last reward counts in full and the first one least. The recursion "
                "G_t = r_t + γ G_{t+1} needs the future first: in which order must the "
                "rewards be visited?",
            ),
            WrongAnswer(
                "the same γ for every later reward",
                lambda rewards, gamma: rewards[0] + gamma * rewards[1:].sum(),
                "Two steps of delay are discounted twice: γ must grow into a power of γ.",
            ),
            WrongAnswer(
                "the return from every step, not from the first",
                _returns_of_all_steps,
                "The answer is one number, G_0. Which entry of your list is it?",
            ),
        ),
    ),
    "bellman_expectation": Exercise(
        reference=bellman_expectation,
        cases=_expectation_cases,
        hint="First the value of each action [S, A]: its reward, plus γ times the expected V of "
        "where it leads. Then average over the actions with the policy.",
        wrong_answers=(
            WrongAnswer(
                "the value of the best action, not the policy's average",
                lambda P, R, policy, V, gamma: (R + gamma * P @ V).max(axis=1),
                "The max belongs to the optimality equation. What does this policy do in a state, "
                "and how often?",
            ),
            WrongAnswer(
                "the average with equal weights",
                lambda P, R, policy, V, gamma: (R + gamma * P @ V).mean(axis=1),
                "The policy does not choose all actions equally often: which weights does it give?",
            ),
            WrongAnswer(
                "the sum over actions without the policy's probabilities",
                lambda P, R, policy, V, gamma: (R + gamma * P @ V).sum(axis=1),
                "Each action counts as often as π(a|s) says: the weights must sum to 1.",
            ),
            WrongAnswer(
                "a backup without γ",
                lambda P, R, policy, V, gamma: (policy * (R + P @ V)).sum(axis=1),
                "V(s') is the value one step later. By how much is it discounted?",
            ),
            WrongAnswer(
                "discounting the reward too",
                lambda P, R, policy, V, gamma: gamma * (policy * (R + P @ V)).sum(axis=1),
                "The reward arrives now, the value of s' one step later. What does γ multiply?",
            ),
            WrongAnswer(
                "a backup without the reward",
                lambda P, R, policy, V, gamma: (policy * (gamma * P @ V)).sum(axis=1),
                "Only what comes after the step is counted. What does the step itself pay?",
            ),
            WrongAnswer(
                "P read backwards, from s' to s",
                lambda P, R, policy, V, gamma: (
                    policy * (R + gamma * np.einsum("tas,t->sa", P, V))
                ).sum(axis=1),
                "P[s, a, s'] starts at s. Over which of its axes does V(s') run?",
            ),
        ),
    ),
    "bellman_optimality": Exercise(
        reference=bellman_optimality,
        cases=_optimality_cases,
        hint="The next state is drawn before the next action is chosen. So which comes first: "
        "the best value in each next state, or the average over next states?",
        wrong_answers=(
            WrongAnswer(
                "the max outside the sum",
                lambda P, R, Q, gamma: R + gamma * (P @ Q).max(axis=-1),
                "This picks one next action for all next states together. The agent sees s' "
                "before it chooses, so it may choose differently in each.",
            ),
            WrongAnswer(
                "the max over the state's own actions",
                lambda P, R, Q, gamma: R + gamma * Q.max(axis=1, keepdims=True),
                "The max is taken in s, where the action was already chosen. Where is the agent "
                "when it chooses next, and with what probability?",
            ),
            WrongAnswer(
                "the mean over next actions",
                lambda P, R, Q, gamma: R + gamma * P @ Q.mean(axis=1),
                "That evaluates a policy that picks at random. What does an optimal one pick?",
            ),
            WrongAnswer(
                "the same action once more",
                lambda P, R, Q, gamma: R + gamma * np.einsum("sat,ta->sa", P, Q),
                "Nothing forces the agent to repeat its action in s': which may it take there?",
            ),
            WrongAnswer(
                "the values of the states, not of the actions",
                lambda P, R, Q, gamma: bellman_optimality(P, R, Q, gamma).max(axis=1),
                "One max too many: the backup of Q has a number for every state and action.",
            ),
            WrongAnswer(
                "a backup without γ",
                lambda P, R, Q, gamma: R + P @ Q.max(axis=1),
                "The best value of s' is reached one step later. By how much is it discounted?",
            ),
        ),
    ),
    "advantage": Exercise(
        reference=advantage,
        cases=_advantage_cases,
        hint="Compare each action with what the policy gets on average in the same state. "
        "Averaged with the policy, the advantages of a state are 0: a test for your answer.",
        wrong_answers=(
            WrongAnswer(
                "Q minus max Q",
                lambda Q, policy: Q - Q.max(axis=1, keepdims=True),
                "That compares with the best action (it is the advantage over an optimal policy). "
                "What is the value of a state under this policy?",
            ),
            WrongAnswer(
                "Q minus its plain mean",
                lambda Q, policy: Q - Q.mean(axis=1, keepdims=True),
                "That is V only for a policy that picks at random: weigh the actions as this "
                "policy does.",
            ),
            WrongAnswer(
                "V minus Q",
                lambda Q, policy: -advantage(Q, policy),
                "The sign is turned round: an action better than average has a positive advantage.",
            ),
            WrongAnswer(
                "V itself",
                lambda Q, policy: (policy * Q).sum(axis=1),
                "This is the policy's average. How far from it is each action?",
            ),
            WrongAnswer(
                "the advantage times the probability of the action",
                lambda Q, policy: policy * advantage(Q, policy),
                "An action's advantage does not depend on how often it is taken: the "
                "probabilities are needed for V alone.",
            ),
            WrongAnswer(
                "an average over states",
                lambda Q, policy: Q - (policy * Q).sum(axis=0),
                "V(s) sums over the actions of one state. Which axis of Q holds the actions?",
            ),
        ),
    ),
}
