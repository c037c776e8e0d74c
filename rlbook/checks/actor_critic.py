"""The exercises of chapter 08: n-step returns, their weights, GAE, value targets, the loss.

Flags of the two ends: ``terminated`` (nothing follows) and ``ended`` (terminated or cut). What
stands in next_values of a terminated step is junk: it must not be read.
"""

import numpy as np
import torch

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.functional.masked import masked_whiten
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.functional.returns import gae
from rlbook.functional.value_losses import squared_loss
from rlbook.tabular.advantage_estimates import lambda_return_weights


def n_step_return(rewards, next_values, n, terminated, gamma):
    """n rewards from the first action on, then the guess; fewer if the row stops before."""
    n = min(n, len(rewards))
    past_the_end = terminated and n == len(rewards)
    total = 0.0 if past_the_end else next_values[n - 1]
    for t in reversed(range(n)):
        total = rewards[t] + gamma * total
    return total


def lambda_return(returns, lam):
    """The mean of the n-step returns, n = 1, 2, ...; the last one is the whole return."""
    return lambda_return_weights(lam, len(returns)) @ returns


def targets_and_advantages(advantages, values):
    """What V should have been, and the advantages whitened for the policy [2, B, T]."""
    everywhere = torch.ones_like(advantages, dtype=torch.bool)
    return torch.stack([advantages + values, masked_whiten(advantages, everywhere)])


def actor_critic_loss(
    logprobs, advantages, values, targets, entropies, value_weight, entropy_weight
):
    """The loss of each action [B, T]: policy, value and entropy together, not reduced."""
    policy_loss = reinforce_loss(logprobs, advantages)
    value_loss = squared_loss(values, targets)
    return policy_loss + value_weight * value_loss - entropy_weight * entropies


# --- cases -----------------------------------------------------------------------------------

DISCOUNTS = [0.9, 0.5, 0.75, 0.8, 0.9, 0.5]


def _n_step_cases(rng):
    # 1 + ½·2 + ¼·8 = 4: two rewards, then what the second action led to
    hand = {"rewards": np.array([1.0, 2.0, 4.0]), "next_values": np.array([6.0, 8.0, 10.0])}
    hand |= {"n": 2, "terminated": True, "gamma": 0.5}
    cases = [hand]
    plans = [(1, 4, True), (4, 4, True), (4, 4, False), (3, 5, False), (9, 3, True), (9, 3, False)]
    plans.append((5, 4, False))
    for (n, T, terminated), gamma in zip(plans, [*DISCOUNTS, 0.75], strict=True):
        numbers = {"rewards": _halves(rng, T), "next_values": _halves(rng, T)}
        cases.append(numbers | {"n": n, "terminated": terminated, "gamma": gamma})
    return cases


def _mean_cases(rng):
    # weights ½, ½·½, and the whole return takes the rest: ¼.  ½·8 + ¼·4 + ¼·2 = 5.5
    return [{"returns": np.array([8.0, 4.0, 2.0]), "lam": 0.5}] + [
        {"returns": _halves(rng, steps), "lam": lam}
        for lam, steps in [(0.9, 5), (0.25, 4), (0.75, 2), (0.8, 6), (0.0, 3), (1.0, 4)]
    ]


def _gae_cases(rng):
    # γλ = ½·½ = ¼.  δ = (1 + ½·4 - 2, 2 + ½·8 - 4, 4 - 6) = (1, 2, -2), the last one an end.
    # Backwards: -2;  2 + ¼·(-2) = 1.5;  1 + ¼·1.5 = 1.375
    hand = {
        "rewards": _row(1, 2, 4),
        "values": _row(2, 4, 6),
        "next_values": _row(4, 8, 10),
        "terminated": torch.tensor([[False, False, True]]),
        "ended": torch.tensor([[False, False, True]]),
        "gamma": 0.5,
        "lam": 0.5,
    }
    cases = [hand]
    for gamma, lam in zip(DISCOUNTS, [0.5, 0.75, 0.9, 0.5, 0.8, 0.9], strict=True):
        rewards, values, next_values = _tensor(rng, (3, 2, 6))
        terminated, ended = torch.zeros(2, 2, 6, dtype=torch.bool)
        terminated[0, 1 + int(rng.integers(2))] = True  # one end and one cut in each case,
        ended[1, 1 + int(rng.integers(2))] = True  # each with steps before and after it
        cases.append(
            {
                "rewards": rewards,
                "values": values,
                "next_values": next_values,
                "terminated": terminated,
                "ended": ended | terminated,
                "gamma": gamma,
                "lam": lam,
            }
        )
    return cases


def _target_cases(rng):
    # mean 4, standard deviation 2: targets 2 + 1, 6 + 3; advantages (2 - 4)/2, (6 - 4)/2
    hand = {"advantages": _row(2, 6), "values": _row(1, 3)}
    return [hand] + [
        {"advantages": _tensor(rng, shape), "values": _tensor(rng, shape)}
        for shape in [(2, 3), (1, 5), (3, 4), (2, 6), (4, 2), (2, 5)]
    ]


def _loss_cases(rng):
    # -3·(-1) + ½·½ (2 - 4)² - 0.1·0.5 = 3 + 1 - 0.05 = 3.95
    hand = {"logprobs": _row(-1), "advantages": _row(3), "values": _row(2), "targets": _row(4)}
    hand |= {"entropies": _row(0.5), "value_weight": 0.5, "entropy_weight": 0.1}
    cases = [hand]
    for T in (2, 3, 4, 2, 3, 5):
        advantages, values, targets = _tensor(rng, (3, 2, T))
        logprobs, entropies = -_tensor(rng, (2, T)).abs() - 0.5, _tensor(rng, (2, T)).abs() + 0.5
        weights = {"value_weight": 0.5 + T / 2.0, "entropy_weight": 0.25 * T}
        numbers = {"advantages": advantages, "values": values, "targets": targets}
        cases.append({"logprobs": logprobs} | numbers | {"entropies": entropies} | weights)
    return cases


def _halves(rng, shape):
    """Multiples of ½ that are not 0."""
    numbers = random_halves(rng, shape)
    return np.where(numbers == 0.0, 5.5, numbers)


def _tensor(rng, shape):
    return torch.from_numpy(_halves(rng, shape))


def _row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


# --- mistakes --------------------------------------------------------------------------------


def _n_step_with(*, read_past_end=False, guess=True, late=0, guess_discount=0, discounted=True):
    """n-step returns with one or more of their decisions made otherwise."""

    def answer(rewards, next_values, n, terminated, gamma):
        n = min(n, len(rewards))
        powers = gamma ** np.arange(n + 2.0)
        total = sum((powers[t] if discounted else 1.0) * rewards[t] for t in range(n))
        if (terminated and n == len(rewards) and not read_past_end) or not guess:
            return total
        return total + powers[n + guess_discount] * next_values[max(n - 1 + late, 0)]

    return answer


def _no_guess_in_a_finished_row(rewards, next_values, n, terminated, gamma):
    plain = n_step_return(rewards, next_values, n, False, gamma)
    n = min(n, len(rewards))
    return plain - (gamma**n * next_values[n - 1] if terminated else 0.0)


def _row_that_is_always_over(rewards, next_values, n, terminated, gamma):
    return n_step_return(rewards, next_values, n, n >= len(rewards), gamma)


def _discounted_by_the_n_asked_for(rewards, next_values, n, terminated, gamma):
    if n <= len(rewards) or terminated:
        return n_step_return(rewards, next_values, n, terminated, gamma)
    powers = gamma ** np.arange(len(rewards))
    return powers @ rewards + gamma**n * next_values[-1]


def _mean_with(weights):
    """A λ-return with other weights of λ and n = 1, 2, ..."""

    def answer(returns, lam):
        return weights(lam, np.arange(1.0, len(returns) + 1.0)) @ returns

    return answer


def _gae_with(
    *,
    stop="ended",
    no_future="terminated",
    decay=lambda gamma, lam: gamma * lam,
    shifted=False,
    value=1.0,
    forwards=False,
    late=False,
):
    """GAE as a loop with one or more of its decisions made otherwise."""

    def answer(rewards, values, next_values, terminated, ended, gamma, lam):
        flags = {"terminated": terminated, "ended": ended, "nothing": torch.zeros_like(ended)}
        if shifted:
            next_values = torch.cat([values[:, 1:], next_values[:, -1:]], dim=1)
        future = torch.where(flags[no_future], 0.0, next_values)
        deltas = rewards + gamma * future - value * values
        out, running = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
        if late:  # the flag of the next column, and no later one to stop the last
            flags[stop] = torch.cat([flags[stop][:, 1:], flags["nothing"][:, :1]], dim=1)
        T = deltas.shape[1]
        for t in range(T) if forwards else reversed(range(T)):
            running = torch.where(flags[stop][:, t], 0.0, running)
            running = deltas[:, t] + decay(gamma, lam) * running
            out[:, t] = running
        return out

    return answer


def _nothing_at_ends(rewards, values, next_values, terminated, ended, gamma, lam):
    """The whole running sum is set to 0 at an end, its own TD error with it."""
    future = torch.where(terminated, 0.0, next_values)
    deltas = torch.where(ended, 0.0, rewards + gamma * future - values)
    flags = {"terminated": torch.zeros_like(ended), "ended": ended}
    nowhere = torch.zeros_like(deltas)
    return gae(deltas, nowhere, nowhere, gamma=gamma, lam=lam, **flags)


def _whitened(advantages):
    return (advantages - advantages.mean()) / advantages.std(correction=0)


def _pair_with(targets, scaled=_whitened):
    def answer(advantages, values):
        return torch.stack([targets(advantages, values), scaled(advantages)])

    return answer


def _loss_with(*, policy=-1.0, value=0.5, bonus=-1.0, error=lambda v, g: v - g):
    """The loss with other signs or factors."""

    def answer(logprobs, advantages, values, targets, entropies, value_weight, entropy_weight):
        fit = value_weight * value * error(values, targets) ** 2
        return policy * advantages * logprobs + fit + bonus * entropy_weight * entropies

    return answer


def _fitted_to_advantages(
    logprobs, advantages, values, targets, entropies, value_weight, entropy_weight
):
    return actor_critic_loss(
        logprobs, advantages, values, advantages, entropies, value_weight, entropy_weight
    )


def _reduced(logprobs, advantages, values, targets, entropies, value_weight, entropy_weight):
    whole = actor_critic_loss(
        logprobs, advantages, values, targets, entropies, value_weight, entropy_weight
    )
    return whole.mean()


EXERCISES: dict[str, Exercise] = {
    "n_step_return": Exercise(
        reference=n_step_return,
        cases=_n_step_cases,
        hint="Start from the far end: what is the last thing that you know? Then walk back, adding "
        "a reward and discounting once a step. Ask first how many rewards there are.",
        wrong_answers=(
            WrongAnswer(
                "a guess beyond the end",
                _n_step_with(read_past_end=True),
                "Where the sum reaches a terminal state, nothing more is earned. When is that?",
            ),
            WrongAnswer(
                "a row that ends, and so never a guess",
                _no_guess_in_a_finished_row,
                "The flag speaks of the last action of the row. Do n steps always reach it?",
            ),
            WrongAnswer(
                "a cut treated as an end",
                _row_that_is_always_over,
                "If nobody says that the world ended, what is the last state worth?",
            ),
            WrongAnswer(
                "a guess discounted by steps that were never taken",
                _discounted_by_the_n_asked_for,
                "If n is larger than the row, after how many steps do you really guess?",
            ),
            WrongAnswer(
                "rewards without the guess",
                _n_step_with(guess=False),
                "Stopping after n rewards treats the rest of the world as worthless. Who says what "
                "it is worth?",
            ),
            WrongAnswer(
                "a guess that is not discounted enough",
                _n_step_with(guess_discount=-1),
                "The guess speaks of the state after n steps. How often is it discounted?",
            ),
            WrongAnswer(
                "a guess that is discounted once too often",
                _n_step_with(guess_discount=1),
                "With n = 1 this is the TD target. How often is its guess discounted?",
            ),
            WrongAnswer(
                "the guess of one state too early",
                _n_step_with(late=-1),
                "next_values[t] speaks of the state that action t led to. Which action was last?",
            ),
            WrongAnswer(
                "rewards that are not discounted",
                _n_step_with(discounted=False),
                "Only the guess is discounted here. What about a reward two steps away?",
            ),
        ),
    ),
    "lambda_return": Exercise(
        reference=lambda_return,
        cases=_mean_cases,
        hint="Write the first few weights down for λ = 1/2. Then ask what the sum must be, and who "
        "takes what is left.",
        wrong_answers=(
            WrongAnswer(
                "weights that lose the tail",
                _mean_with(lambda lam, n: (1.0 - lam) * lam ** (n - 1.0)),
                "Add your weights up. All returns longer than the episode are the whole return: "
                "where has their weight gone?",
            ),
            WrongAnswer(
                "a mean that leaves the whole return out",
                _mean_with(lambda lam, n: np.append((1.0 - lam) * lam ** (n[:-1] - 1.0), 0.0)),
                "At λ = 1 only the whole return should count. What does yours give then?",
            ),
            WrongAnswer(
                "the whole return counted twice",
                _mean_with(
                    lambda lam, n: (1.0 - lam) * lam ** (n - 1.0) + lam ** (n - 1.0) * (n == n[-1])
                ),
                "Add your weights up: the whole return takes the rest *instead* of a weight of its "
                "own.",
            ),
            WrongAnswer(
                "powers that are not normalised",
                _mean_with(lambda lam, n: lam ** (n - 1.0)),
                "A mean needs weights that sum to 1. Which factor does that for a geometric row?",
            ),
            WrongAnswer(
                "powers divided by their sum",
                _mean_with(lambda lam, n: lam ** (n - 1.0) / (lam ** (n - 1.0)).sum()),
                "The sum is 1, but the tail was spread over all returns instead of going to the "
                "longest. At λ = 1 only one return should count.",
            ),
            WrongAnswer(
                "the power of one step too many",
                _mean_with(
                    lambda lam, n: np.append((1.0 - lam) * lam ** n[:-1], lam ** float(len(n)))
                ),
                "At λ = 0 the one-step return takes everything. What does yours give it?",
            ),
            WrongAnswer(
                "the weights from the far end",
                _mean_with(lambda lam, n: lambda_return_weights(lam, len(n))[::-1].copy()),
                "The first return has n = 1. At λ = 0 it is the only one that counts.",
            ),
            WrongAnswer(
                "λ and 1 - λ exchanged",
                _mean_with(lambda lam, n: lambda_return_weights(1.0 - lam, len(n))),
                "A large λ looks far ahead. Does yours?",
            ),
        ),
    ),
    "gae": Exercise(
        reference=gae,
        cases=_gae_cases,
        tolerance=FLOAT32,  # torch.zeros(B, T) has 32 bits, whatever the rewards have
        hint="First all TD errors, then one running sum from the last column to the first. Each "
        "flag has one job: one is about the guess, the other about the sum.",
        wrong_answers=(
            WrongAnswer(
                "a sum that runs on past every end",
                _gae_with(stop="nothing"),
                "The column after an end belongs to another episode. What does it know about this "
                "one?",
            ),
            WrongAnswer(
                "a sum that runs on past a cut",
                _gae_with(stop="terminated"),
                "After a cut, too, the next column is another episode. Which flag says so?",
            ),
            WrongAnswer(
                "bootstrapping at a terminated step",
                _gae_with(no_future="nothing"),
                "Nothing is earned after the world has ended. What takes the place of the guess?",
            ),
            WrongAnswer(
                "a cut treated as an end",
                _gae_with(no_future="ended"),
                "Somebody stopped watching, but the state that was reached is still worth "
                "something.",
            ),
            WrongAnswer(
                "the two flags exchanged",
                _gae_with(stop="terminated", no_future="ended"),
                "Terminated is about the bootstrap, ended about the recursion.",
            ),
            WrongAnswer(
                "nothing at all at an end",
                _nothing_at_ends,
                "The last action of an episode has a TD error too. What stops there is only what "
                "would come after it.",
            ),
            WrongAnswer(
                "the flag of the next column",
                _gae_with(late=True),
                "ended[:, t] speaks of action t. Does it stop what comes after t, or after t + 1?",
            ),
            WrongAnswer(
                "a decay without λ",
                _gae_with(decay=lambda gamma, lam: gamma),
                "This is what λ = 1 gives, whatever λ you were given.",
            ),
            WrongAnswer(
                "a decay without γ",
                _gae_with(decay=lambda gamma, lam: lam),
                "A TD error one step ahead is earned one step later. Which factor says so?",
            ),
            WrongAnswer(
                "the value of the next column for the next state",
                _gae_with(shifted=True),
                "After an end the next column shows the first state of another episode. Where is "
                "the value of the state that the action led to?",
            ),
            WrongAnswer(
                "targets instead of advantages",
                lambda **case: gae(**case) + case["values"],
                "These are the λ-returns, what V should have been. An advantage is measured from "
                "V.",
            ),
            WrongAnswer(
                "errors without the value of the state that was left",
                _gae_with(value=0.0),
                "A TD error compares: what came out, less what had been expected.",
            ),
            WrongAnswer(
                "a sum over the past",
                _gae_with(forwards=True),
                "An action is to be judged by what came after it. In which direction must the sum "
                "run?",
            ),
        ),
    ),
    "targets_and_advantages": Exercise(
        reference=targets_and_advantages,
        cases=_target_cases,
        tolerance=1e-6,  # masked_whiten adds 1e-8 to the variance, a reader need not
        hint="Two readers, two units: the critic wants rewards, the actor wants numbers of size 1. "
        "Which of the two has to be made first?",
        wrong_answers=(
            WrongAnswer(
                "targets made from whitened advantages",
                _pair_with(lambda a, v: _whitened(a) + v),
                "Whitening changes the unit. Can the critic still learn values in units of reward "
                "from it?",
            ),
            WrongAnswer(
                "the two in the other order",
                lambda advantages, values: targets_and_advantages(advantages, values).flip(0),
                "The docstring names the value targets first, the advantages second.",
            ),
            WrongAnswer(
                "each row whitened by itself",
                _pair_with(lambda a, v: a + v, scaled=lambda a: torch.stack([*map(_whitened, a)])),
                "A good row and a bad one look alike after this. Over what should the mean be "
                "taken?",
            ),
            WrongAnswer(
                "advantages as targets",
                _pair_with(lambda a, v: a),
                "An advantage is what was missing from V. What should V have been?",
            ),
            WrongAnswer(
                "the correction subtracted",
                _pair_with(lambda a, v: v - a),
                "A positive advantage says that things went better than V expected. Where should "
                "V go?",
            ),
            WrongAnswer(
                "advantages left as they are",
                _pair_with(lambda a, v: a + v, scaled=lambda a: a),
                "The second array should have mean 0 and standard deviation 1.",
            ),
            WrongAnswer(
                "advantages scaled but not centred",
                _pair_with(lambda a, v: a + v, scaled=lambda a: a / a.std(correction=0)),
                "What is the mean of your second array?",
            ),
            WrongAnswer(
                "advantages divided by their variance",
                _pair_with(
                    lambda a, v: a + v, scaled=lambda a: (a - a.mean()) / a.var(correction=0)
                ),
                "Divide twice the advantages by your divisor: does the size cancel?",
            ),
            WrongAnswer(
                "the standard deviation of a sample",
                _pair_with(
                    lambda a, v: a + v, scaled=lambda a: (a - a.mean()) / a.std(correction=1)
                ),
                "The book divides by the number of entries, as the published code does. By what "
                "does yours divide, unless it is told?",
            ),
        ),
    ),
    "actor_critic_loss": Exercise(
        reference=actor_critic_loss,
        cases=_loss_cases,
        hint="The optimiser walks downhill. For each of the three terms: should it become smaller "
        "or larger?",
        wrong_answers=(
            WrongAnswer(
                "a policy that avoids good actions",
                _loss_with(policy=1.0),
                "With a positive advantage the loss should fall when the action becomes likelier.",
            ),
            WrongAnswer(
                "a bonus that is a fine",
                _loss_with(bonus=1.0),
                "This loss falls when the entropy falls. Was that the wish?",
            ),
            WrongAnswer(
                "the sum to be maximised",
                _loss_with(policy=1.0, value=-0.5, bonus=1.0),
                "All three signs suit an optimiser that walks uphill. Those of PyTorch walk down.",
            ),
            WrongAnswer(
                "a value that runs away from its target",
                _loss_with(value=-0.5),
                "Move V a little towards its target: should the loss rise or fall?",
            ),
            WrongAnswer(
                "the square without its half",
                _loss_with(value=1.0),
                "The book's squared loss has a factor, so that its gradient is the error itself.",
            ),
            WrongAnswer(
                "a value fitted to the advantage",
                _fitted_to_advantages,
                "V estimates returns. Which argument holds what V should have been?",
            ),
            WrongAnswer(
                "a mean over all actions",
                _reduced,
                "A loss of this book is one number per action; only aggregate reduces it.",
            ),
        ),
    ),
}
