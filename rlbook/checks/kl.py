"""The exercises of chapter 16: the best policy under a price on KL, and how to follow the price.

Plain arrays. ``x`` is the log-ratio log π - log π_ref of a token. Batches are [B, T], padded on the
right; states and tokens are numbers; tables are logits [S, V]. Answers in 32 bits count
(``FLOAT32``).
"""

import numpy as np

from rlbook.checks.cases import random_distributions, random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.checks.token_mdp import log_softmax, scattered, to_go


def tilted_policy(ref, rewards, beta):
    """π* [A] ∝ ref · exp(rewards / beta): the most of E[R] - β KL(π‖ref). A ref of 0 stays 0."""
    best = rewards[ref > 0].max()  # taken away first, so that nothing overflows
    weights = np.where(ref > 0, ref * np.exp(np.minimum(rewards - best, 0.0) / beta), 0.0)
    return weights / weights.sum()


def soft_values(next_state, rewards, ref, beta):
    """V [S] of the best policy, price included: β log Σ_a ref(a|s) exp((r + V(next)) / β)."""
    S = len(next_state)
    V = np.zeros(S + 1)  # V[S] = 0: the end
    for s in reversed(range(S)):
        Q = rewards[s] + V[next_state[s]]
        V[s] = Q.max() + beta * np.log(ref[s] @ np.exp((Q - Q.max()) / beta))
    return V[:S]


def kl_slopes(logprobs, ref_logprobs):
    """The derivatives of k1, k2 and k3 with respect to log π, one row each [3, B]."""
    x = logprobs - ref_logprobs
    return np.stack([np.ones_like(x), x, 1.0 - np.exp(-x)])


def penalised_update(table, ref_table, states, tokens, mask, rewards, beta, rate):
    """The table [S, V] after one REINFORCE step on E[R] - β KL(π‖ref); rewards [B]."""

    def log_policy(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    log_pi, log_ref = log_policy(table), log_policy(ref_table)
    x = np.where(mask, (log_pi - log_ref)[states, tokens], 0.0)
    to_come = x[:, ::-1].cumsum(axis=1)[:, ::-1]  # of this token and all that follow
    weights = rewards[:, None] - beta * to_come
    gradient = np.zeros_like(log_pi)
    for b, t in zip(*np.nonzero(mask), strict=True):
        s, a = states[b, t], tokens[b, t]
        gradient[s] -= weights[b, t] * np.exp(log_pi[s])
        gradient[s, a] += weights[b, t]
    return table + rate * gradient / len(rewards)


def controlled_betas(beta, kls, target, horizon, responses):
    """β after each measured KL [n]: × (1 + e · responses / horizon), e clipped to ±0.2."""
    betas = np.zeros(len(kls))
    for n, kl in enumerate(kls):
        error = min(max(kl / target - 1.0, -0.2), 0.2)
        beta = beta * (1.0 + error * responses / horizon)
        betas[n] = beta
    return betas


# --- cases -----------------------------------------------------------------------------------


def _tilted_cases(rng):
    # Weights 1/2, 1/4 and 1/4 · exp(log 2) = 1/2, so 0.4, 0.2, 0.4.
    cases = [
        {
            "ref": np.array([0.5, 0.25, 0.25]), "rewards": np.array([0.0, 0.0, 1.0]),
            "beta": float(1 / np.log(2.0)),
        }
    ]  # fmt: skip
    for A, beta in ((2, 1.0), (4, 0.5), (5, 2.0), (3, 3.0)):
        ref = rng.permutation(np.arange(1.0, A + 1))
        cases.append({"ref": ref / ref.sum(), "rewards": random_halves(rng, A), "beta": beta})
    cases.append(  # the best reward belongs to what the reference never does
        {
            "ref": np.array([0.5, 0.0, 0.5]), "rewards": np.array([1.0, 3.0, 0.0]), "beta": 0.5,
        }
    )  # fmt: skip
    for n in (2, 3):  # exp(1000) is too large for a float
        cases.append(dict(cases[n], beta=0.002, rewards=cases[n]["rewards"] + 3.0))
    cases.append(dict(cases[5], beta=0.002))  # the best that the reference reaches lies far below
    cases.append(
        {
            "ref": np.array([0.25, 0.75, 0.0, 0.0]), "rewards": np.array([0.5, 0.0, 2.0, 4.0]),
            "beta": 0.004,
        }
    )  # fmt: skip
    return cases


def _soft_cases(rng):
    # Two prefixes; from the second one the text ends. V(1) = log(3/4 + 1/4 e^{log 5}) = log 2,
    # V(0) = log(1/2 · 1 + 1/2 · 2) = log 3/2.
    cases = [
        {
            "next_state": np.array([[2, 1], [2, 2]]),
            "rewards": np.array([[0.0, 0.0], [0.0, np.log(5.0)]]),
            "ref": np.array([[0.5, 0.5], [0.75, 0.25]]),
            "beta": 1.0,
        }
    ]
    for S, V, beta in ((3, 2, 0.5), (4, 3, 2.0), (6, 3, 0.25), (5, 4, 1.5)):
        leads = [rng.integers(s + 1, S + 1, size=V) for s in range(S)]
        leads = np.array(leads)
        leads[0, 0], leads[-2, 0] = S - 1, S - 1
        cases.append(
            {
                "next_state": leads,
                "rewards": random_halves(rng, (S, V)),
                "ref": (random_distributions(rng, V, S) + 0.1) / (1 + 0.1 * V),
                "beta": beta,
            }
        )
    for n in (2, 3):  # exp(1000) is too large for a float
        cases.append(dict(cases[n], beta=0.003, rewards=cases[n]["rewards"] + 3.0))
    return cases


def _slope_cases(rng):
    # x = log 2: slopes 1, log 2, 1 - 1/2.
    cases = [{"logprobs": np.log(np.array([0.5])), "ref_logprobs": np.log(np.array([0.25]))}]
    for B in (1, 2, 3, 5, 8):
        x = rng.integers(1, 9, size=(2, B)) / 10.0
        cases.append({"logprobs": np.log(x[0]), "ref_logprobs": np.log(x[1])})
    return cases


def _update_cases(rng):
    # π = 1/2 everywhere, ref = 2/3, 1/3; one response of two tokens, 1 and 1; reward 3; β = 1.
    # x = log 3/2 each, so the weights are 3 - 2 log 3/2 and 3 - log 3/2; score (-1/2, 1/2).
    half = np.log(np.array([[2 / 3, 1 / 3], [2 / 3, 1 / 3]]))
    cases = [
        {
            "table": np.zeros((2, 2)), "ref_table": half, "states": np.array([[0, 1]]),
            "tokens": np.array([[1, 1]]), "mask": np.array([[True, True]]),
            "rewards": np.array([3.0]), "beta": 1.0, "rate": 1.0,
        }
    ]  # fmt: skip
    for S, V, B, T, beta, rate in (
        (3, 2, 3, 3, 0.5, 0.5), (4, 3, 4, 4, 2.0, 0.5), (5, 3, 5, 3, 0.25, 1.0),
        (4, 4, 6, 4, 1.5, 0.25), (3, 3, 4, 5, 1.0, 0.5),
    ):  # fmt: skip
        lengths = rng.integers(1, T + 1, size=B)
        lengths[0], lengths[1] = T, T - 1
        mask = np.arange(T) < lengths[:, None]
        cases.append(
            {
                "table": random_halves(rng, (S, V)) / 4,
                "ref_table": random_halves(rng, (S, V)) / 4,
                "states": rng.integers(S, size=(B, T)), "tokens": rng.integers(V, size=(B, T)),
                "mask": mask, "rewards": random_halves(rng, B), "beta": beta, "rate": rate,
            }
        )  # fmt: skip
    return cases


def _beta_cases(rng):
    # Target 5, 200 of 1000 responses. 5.5: e = 0.1, so 0.5 · 1.02 = 0.51. 40: e is cut to 0.2, so
    # 0.51 · 1.04 = 0.5304. 5: e = 0.
    rows = [
        (0.5, [5.5, 40.0, 5.0], 5.0, 1000.0, 200), (0.2, [1.0, 3.9], 4.0, 500.0, 100),
        (0.1, [4.2, 4.3, 9.0, 3.9], 4.0, 2000.0, 512), (2.0, [3.6], 4.0, 300.0, 60),
        (0.3, [-0.5, 0.0, 5.5, 8.0], 6.0, 800.0, 64), (1.0, [0.2, 0.7, 1.2], 0.6, 100.0, 10),
    ]  # fmt: skip
    names = ("beta", "kls", "target", "horizon", "responses")
    cases = [dict(zip(names, row, strict=True)) for row in rows]
    return [case | {"kls": np.array(case["kls"])} for case in cases]


# --- mistakes --------------------------------------------------------------------------------


def _tilted_with(exponent, reference=lambda ref: ref):
    """A maker of wrong answers: other exponents of (rewards, beta), another reference."""

    def answer(ref, rewards, beta):
        height = exponent(rewards, beta)
        weights = reference(ref) * np.exp(np.minimum(height - height[ref > 0].max(), 0.0))
        return weights / weights.sum()

    return answer


def _overflowing(ref, rewards, beta):
    with np.errstate(all="ignore"):
        weights = ref * np.exp(rewards / beta)
        return weights / weights.sum()


def _highest_of_all(ref, rewards, beta):
    with np.errstate(all="ignore"):
        weights = ref * np.exp((rewards - rewards.max()) / beta)
        return weights / weights.sum()


def _not_normalised(ref, rewards, beta):
    with np.errstate(all="ignore"):
        return ref * np.exp(rewards / beta)


def _greedy(ref, rewards, beta):
    best = np.where(ref > 0, rewards, -np.inf)
    return (best == best.max()) / (best == best.max()).sum()


def _ref_as_logit(ref, rewards, beta):
    height = ref + rewards / beta
    weights = np.exp(height - height.max())
    return weights / weights.sum()


def _soft_with(backup):
    """A maker of wrong values: another backup of (rewards, values after, ref, beta)."""

    def answer(next_state, rewards, ref, beta):
        S = len(next_state)
        V = np.zeros(S + 1)
        for s in reversed(range(S)):
            V[s] = backup(rewards[s], V[next_state[s]], ref[s], beta)
        return V[:S]

    return answer


def _log_mean_exp(Q, ref, beta):
    return Q.max() + beta * np.log(ref @ np.exp((Q - Q.max()) / beta))


def _best_reward(r, after, ref, beta):
    """Mean reward of the tilted policy: its price is forgotten."""
    Q = r + after
    weights = ref * np.exp((Q - Q.max()) / beta)
    return (weights @ Q) / weights.sum()


def _soft_overflowing(next_state, rewards, ref, beta):
    with np.errstate(all="ignore"):
        backup = _soft_with(lambda r, after, p, b: b * np.log(p @ np.exp((r + after) / b)))
        return backup(next_state, rewards, ref, beta)


def _end_is_the_last_prefix(next_state, rewards, ref, beta):
    S = len(next_state)
    V = np.zeros(S)
    for s in reversed(range(S)):
        V[s] = _log_mean_exp(rewards[s] + V[np.minimum(next_state[s], S - 1)], ref[s], beta)
    return V


def _slopes_with(k1=np.ones_like, k2=lambda x: x, k3=lambda x: 1.0 - np.exp(-x)):
    """A maker of wrong slopes, from those of the three as functions of x."""
    return lambda logprobs, ref_logprobs: np.stack(
        [k(logprobs - ref_logprobs) for k in (k1, k2, k3)]
    )


def _update_with(weight, share=lambda mask: 1 / len(mask), padding=False):
    """A maker of wrong updates: other weights of (rewards [B, 1], x [B, T], beta)."""

    def answer(table, ref_table, states, tokens, mask, rewards, beta, rate):
        log_pi = log_softmax(table)
        x = (log_pi - log_softmax(ref_table))[states, tokens]
        x = x if padding else np.where(mask, x, 0.0)
        weights = np.where(mask, weight(rewards[:, None], x, beta), 0.0) * share(mask)
        return table + rate * scattered(np.exp(log_pi), states, tokens, weights)

    return answer


def _raw_logits(table, ref_table, states, tokens, mask, rewards, beta, rate):
    x = np.where(mask, (table - ref_table)[states, tokens], 0.0)
    weights = np.where(mask, _priced(rewards[:, None], x, beta), 0.0) / len(mask)
    return table + rate * scattered(np.exp(log_softmax(table)), states, tokens, weights)


def _betas_with(after):
    """A maker of wrong controllers: another next β of (β, kl, target, share of the horizon)."""

    def answer(beta, kls, target, horizon, responses):
        betas = []
        for kl in kls:
            beta = after(beta, kl, target, responses / horizon)
            betas.append(beta)
        return np.array(betas)

    return answer


def _each_from_the_first(beta, kls, target, horizon, responses):
    return beta * (1.0 + np.clip(kls / target - 1.0, -0.2, 0.2) * responses / horizon)


def _one_too_early(beta, kls, target, horizon, responses):
    return np.append(beta, controlled_betas(beta, kls, target, horizon, responses)[:-1])


def _clipped(x):
    return min(max(x, -0.2), 0.2)


def _priced(rewards, x, beta):
    return rewards - beta * to_go(x)


EXERCISES: dict[str, Exercise] = {
    "tilted_policy": Exercise(
        reference=tilted_policy,
        cases=_tilted_cases,
        hint="Multiply, then divide by the sum. Before you take the exponential, take away the "
        "largest reward that the reference can reach: it cancels in the division.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "rewards times β",
                _tilted_with(lambda r, beta: r * beta),
                "A high price must keep the policy near the reference. Does it here?",
            ),
            WrongAnswer(
                "the reference forgotten",
                _tilted_with(lambda r, beta: r / beta, lambda ref: (ref > 0) * 1.0),
                "This is a softmax of the rewards. For a very high price it is uniform, and it "
                "should be the reference.",
            ),
            WrongAnswer(
                "β forgotten",
                _tilted_with(lambda r, beta: r),
                "The price appears nowhere: this is the answer for β = 1.",
            ),
            WrongAnswer(
                "the sign of the reward turned",
                _tilted_with(lambda r, beta: -r / beta),
                "What earns more must become likelier.",
            ),
            WrongAnswer(
                "an answer that is not normalised",
                _not_normalised,
                "Probabilities add up to 1: divide by the sum.",
            ),
            WrongAnswer(
                "an answer that overflows",
                _overflowing,
                "Right until R/β is large: exp(710) is more than a float can hold. Take the "
                "largest exponent away first.",
            ),
            WrongAnswer(
                "a largest reward that the reference never reaches",
                _highest_of_all,
                "Right until the highest reward lies where the reference is 0: then all that is "
                "left is 0/0. Look for the largest among what the reference does.",
            ),
            WrongAnswer(
                "the best action alone",
                _greedy,
                "That is the answer for a price of 0.",
            ),
            WrongAnswer(
                "a probability used as a logit",
                _ref_as_logit,
                "In the exponent stands the logarithm of the reference, not the reference.",
            ),
        ),
    ),
    "soft_values": Exercise(
        reference=soft_values,
        cases=_soft_cases,
        hint="From the last prefix to the first, as in chapter 12. What changes is the backup: a "
        "mean of exponentials under the reference, then the logarithm, then times β.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the value of the reference",
                _soft_with(lambda r, after, ref, beta: ref @ (r + after)),
                "A plain mean is what the reference earns. The best policy does better, and this "
                "is what is left when β is very large.",
            ),
            WrongAnswer(
                "the largest one",
                _soft_with(lambda r, after, ref, beta: (r + after).max()),
                "That is V* for a price of 0: nothing is paid for leaving the reference.",
            ),
            WrongAnswer(
                "the price forgotten",
                _soft_with(_best_reward),
                "This is what π* earns. What it pays for leaving the reference belongs to the "
                "value as well.",
            ),
            WrongAnswer(
                "the factor β missing",
                _soft_with(lambda r, after, ref, beta: _log_mean_exp(r + after, ref, beta) / beta),
                "The logarithm counts nats. Times β it is in units of reward.",
            ),
            WrongAnswer(
                "every token as likely",
                _soft_with(
                    lambda r, after, ref, beta: _log_mean_exp(
                        r + after, np.full(len(ref), 1 / len(ref)), beta
                    )
                ),
                "The mean of the exponentials is under the reference.",
            ),
            WrongAnswer(
                "a sum without the reference",
                _soft_with(
                    lambda r, after, ref, beta: _log_mean_exp(r + after, np.ones(len(ref)), beta)
                ),
                "That is the value with an entropy bonus. Weight each exponential with the "
                "reference.",
            ),
            WrongAnswer(
                "the immediate reward alone",
                _soft_with(lambda r, after, ref, beta: _log_mean_exp(r, ref, beta)),
                "The value of the next prefix is missing, or still 0 where it is read: go from the "
                "last prefix to the first.",
            ),
            WrongAnswer(
                "the last prefix taken for the end",
                _end_is_the_last_prefix,
                "After the end nothing more is earned or paid: its value is 0.",
            ),
            WrongAnswer(
                "a value that overflows",
                _soft_overflowing,
                "Right until a value over β is large. Take the largest one out before the "
                "exponential, and add it after the logarithm.",
            ),
        ),
    ),
    "kl_slopes": Exercise(
        reference=kl_slopes,
        cases=_slope_cases,
        hint="Write all three with x = log π - log ref: x, x²/2 and exp(-x) - 1 + x. Then "
        "differentiate in x; the reference is a constant.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the estimates themselves",
                _slopes_with(lambda x: x, lambda x: x**2 / 2, lambda x: np.exp(-x) - 1 + x),
                "Right numbers for another question: what is asked for are their derivatives.",
            ),
            WrongAnswer(
                "a k1 without slope",
                _slopes_with(k1=np.zeros_like),
                "Its mean gradient is 0, because the mean of ∇ log π is. The slope of each sample "
                "is not.",
            ),
            WrongAnswer(
                "the slope of k2 doubled",
                _slopes_with(k2=lambda x: 2 * x),
                "k2 has a factor of one half in front of its square.",
            ),
            WrongAnswer(
                "k3 with its sign turned",
                _slopes_with(k3=lambda x: np.exp(-x) - 1.0),
                "k3 grows with x where x is above 0.",
            ),
            WrongAnswer(
                "k3 of the turned log-ratio",
                _slopes_with(k3=lambda x: np.exp(x) - 1.0),
                "In k3 stands ref/π, not π/ref: exp(-x).",
            ),
            WrongAnswer(
                "slopes in log ref",
                _slopes_with(lambda x: -np.ones_like(x), lambda x: -x, lambda x: np.exp(-x) - 1.0),
                "Right but for the sign: the policy moves, and the reference stays.",
            ),
            WrongAnswer(
                "the slope of the exponential alone",
                _slopes_with(k3=lambda x: -np.exp(-x)),
                "k3 has an x of its own beside the exponential.",
            ),
            WrongAnswer(
                "the log-ratio turned round in all three",
                _slopes_with(k2=lambda x: -x, k3=lambda x: 1.0 - np.exp(x)),
                "x is log π - log ref, in this order.",
            ),
            WrongAnswer(
                "k3 as k2",
                _slopes_with(k3=lambda x: x),
                "Near x = 0 these agree. Far from it they do not.",
            ),
        ),
    ),
    "penalised_update": Exercise(
        reference=penalised_update,
        cases=_update_cases,
        hint="What does the gradient of log π - log ref look like, for one sampled token? Put the "
        "price where the reward is: in the weight, and let a token answer for what follows it.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the broken loop: k1 as a loss",
                _update_with(lambda r, x, beta: r - beta),
                "The gradient of β·k1 is β ∇ log π: the same weight for every token, wherever the "
                "reference is. It acts as a constant baseline. What must stand in the weight is "
                "how far the token is from the reference.",
            ),
            WrongAnswer(
                "each token pays for itself alone",
                _update_with(lambda r, x, beta: r - beta * x),
                "That is k2 in the loss, a part of the gradient. A token also answers for the "
                "price of what it leads to.",
            ),
            WrongAnswer(
                "k3 in the loss",
                _update_with(lambda r, x, beta: r - beta * (1 - np.exp(-x))),
                "It holds down the other divergence, and each token by itself.",
            ),
            WrongAnswer(
                "paid for leaving the reference",
                _update_with(lambda r, x, beta: r + beta * to_go(x)),
                "The sign of the price: a token that π likes more than the reference costs.",
            ),
            WrongAnswer(
                "the price of the whole response for every token",
                _update_with(lambda r, x, beta: r - beta * x.sum(axis=1, keepdims=True)),
                "The mean is right, but the price that was paid before a token only adds noise.",
            ),
            WrongAnswer(
                "the price so far",
                _update_with(lambda r, x, beta: r - beta * x.cumsum(axis=1)),
                "No token can change what is already paid. Sum from the right.",
            ),
            WrongAnswer(
                "only what comes after the token",
                _update_with(lambda r, x, beta: r - beta * (to_go(x) - x)),
                "The token's own price belongs to it as well.",
            ),
            WrongAnswer(
                "a price under the padding",
                _update_with(_priced, padding=True),
                "Clear the cells that do not count before you sum, not after.",
            ),
            WrongAnswer(
                "logits taken for log-probabilities",
                _raw_logits,
                "The tables hold logits: log π is their log-softmax, row by row.",
            ),
            WrongAnswer(
                "no price at all",
                _update_with(lambda r, x, beta: r),
                "This maximises the reward alone.",
            ),
            WrongAnswer(
                "the sum over the responses",
                _update_with(_priced, lambda mask: 1.0),
                "With this the step grows with the batch. Take the mean over the responses.",
            ),
            WrongAnswer(
                "the mean over all tokens",
                _update_with(_priced, lambda mask: 1 / mask.sum()),
                "Sum over the tokens of a response, and take the mean over the responses.",
            ),
        ),
    ),
    "controlled_betas": Exercise(
        reference=controlled_betas,
        cases=_beta_cases,
        hint="Three steps for each KL: the relative error, its clip, and a factor near 1. Too far "
        "from the reference must make the price higher.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "an error without its clip",
                _betas_with(lambda beta, kl, target, share: beta * (1 + (kl / target - 1) * share)),
                "One wild batch would move β as far as it likes.",
            ),
            WrongAnswer(
                "the sign turned",
                _betas_with(
                    lambda beta, kl, target, share: beta * (1 - _clipped(kl / target - 1) * share)
                ),
                "Too far from the reference, and the price falls: then it goes further still.",
            ),
            WrongAnswer(
                "an absolute error",
                _betas_with(
                    lambda beta, kl, target, share: beta * (1 + _clipped(kl - target) * share)
                ),
                "Divide by the target: the error is a share of it.",
            ),
            WrongAnswer(
                "the horizon forgotten",
                _betas_with(lambda beta, kl, target, share: beta * (1 + _clipped(kl / target - 1))),
                "How many responses is this step made of, and over how many may β change so far?",
            ),
            WrongAnswer(
                "an amount added",
                _betas_with(
                    lambda beta, kl, target, share: beta + _clipped(kl / target - 1) * share
                ),
                "β is multiplied: so it stays above 0, and a small one moves by little.",
            ),
            WrongAnswer(
                "the clip around the whole change",
                _betas_with(
                    lambda beta, kl, target, share: beta * (1 + _clipped((kl / target - 1) * share))
                ),
                "Clip the error first; the share of the horizon comes after.",
            ),
            WrongAnswer(
                "the β before each KL",
                _one_too_early,
                "What is asked for is β after each measurement: the first KL has its say already.",
            ),
            WrongAnswer(
                "every β from the first one",
                _each_from_the_first,
                "The factors pile up: each β is made from the one before it.",
            ),
        ),
    ),
}
