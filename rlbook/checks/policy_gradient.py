"""The exercises of chapter 07: scores, returns of a batch, baselines, and a loss's gradient.

Batches are float64 tensors [B, T]; theta [S, A] holds the logits of a softmax policy. Answers are
compared as 32-bit ones: ``torch.zeros(B, T)`` is 32-bit, and a reader may well collect in it.
"""

import numpy as np
import torch

from rlbook.checks.cases import random_distributions, random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.control.reinforce import mean_return_at_step
from rlbook.functional.masked import aggregate, masked_mean, masked_whiten
from rlbook.functional.policy_losses import action_logprobs, reinforce_loss
from rlbook.functional.returns import discounted_returns


def score(theta, state, action):
    """∇ log π(action|state) [S, A]: in the row of the state 1[a = action] - π(a|state)."""
    weights = np.exp(theta[state] - theta[state].max())
    gradient = np.zeros_like(theta)
    gradient[state] = -weights / weights.sum()
    gradient[state, action] += 1.0
    return gradient


def best_baseline(scores, returns, chances):
    """The constant b that makes the variance of score · (return - b) least: E[|s|²G] / E[|s|²]."""
    weights = chances * (scores**2).sum(axis=1)
    return weights @ returns / weights.sum()


def policy_gradient(theta, observations, actions, returns, mask):
    """The gradient [A + 1, F] of the mean of -(G - V) log π over the cells of the mask.

    The last row of theta gives V, the others the logits.
    """
    theta = theta.clone().requires_grad_()
    logits, values = observations @ theta[:-1].T, observations @ theta[-1]
    logprobs = action_logprobs(logits, actions)
    losses = reinforce_loss(logprobs, returns - values)
    return torch.autograd.grad(aggregate(losses, mask, "token-mean"), theta)[0]


def batch_advantages(rewards, ended, mask, gamma):
    """Returns [B, T] that stop at an end, whitened over the cells of the mask; 0 in the others."""
    returns = discounted_returns(rewards, gamma=gamma, ended=ended)
    return masked_whiten(returns, mask)


# --- cases -----------------------------------------------------------------------------------


def _halves(rng, *shape):
    return torch.tensor(random_halves(rng, shape), dtype=torch.float64)


def _lengths(rng, B, T):
    """``ended`` and ``mask`` [B, T] of rows of different lengths; the first is the longest."""
    last = np.minimum(rng.integers(0, T, size=B), T - 2)
    last[0] = T - 1
    t = np.arange(T)
    ended = torch.tensor(t == last[:, None])
    return ended, torch.tensor(t <= last[:, None])


def _score_cases(rng):
    # π(·|1) = (1, 3) / 4, action 0: row 1 is (1 - 1/4, -3/4), the other row 0
    hand = {"theta": np.array([[5.0, 0.0], [0.0, np.log(3.0)]]), "state": 1, "action": 0}
    return [hand] + [
        {
            "theta": random_halves(rng, (S, A)),
            "state": int(rng.integers(S)),
            "action": int(rng.integers(A)),
        }
        for S, A in [(3, 2), (2, 3), (4, 3), (3, 4), (5, 2), (2, 4)]
    ]


def _return_cases(rng):
    # Row 0 runs through: 4; 2 + 4/2 = 4; 1 + 4/2 = 3. Row 1 ends in column 1: 6; 2 + 6/2 = 5; and
    # the 8 belongs to what follows.
    hand = {
        "rewards": torch.tensor([[1.0, 2.0, 4.0], [2.0, 6.0, 8.0]], dtype=torch.float64),
        "gamma": 0.5,
        "ended": torch.tensor([[False, False, True], [False, True, False]]),
    }
    cases = [hand]
    for (B, T), gamma in zip(
        [(3, 4), (2, 5), (4, 3), (1, 6), (5, 4), (3, 2)], [0.5, 0.75, 0.25, 0.5, 0.0, 0.9],
        strict=True,
    ):  # fmt: skip
        ended = torch.tensor(rng.random((B, T)) < 0.35)
        ended[-1, : T - 1] = False
        ended[0, 0] = True
        cases.append({"rewards": _halves(rng, B, T), "gamma": gamma, "ended": ended})
    return cases


def _baseline_cases(rng):
    # |s|² = 1 and 4: weights 0.5·1 and 0.5·4, so (0.5·10 + 2·5) / 2.5 = 6
    hand = {
        "scores": np.array([[1.0, 0.0], [0.0, 2.0]]),
        "returns": np.array([10.0, 5.0]),
        "chances": np.array([0.5, 0.5]),
    }
    cases = [hand]
    for N, D in [(3, 2), (4, 3), (2, 4), (5, 2), (6, 3), (4, 2)]:
        chances = (1.0 + random_distributions(rng, N, ())) / (N + 1.0)
        scores = random_halves(rng, (N, D)) + 0.25
        cases.append({"scores": scores, "returns": random_halves(rng, N), "chances": chances})
    return cases


def _mean_cases(rng):
    # Column 0: (4+6)/2, (2+6)/2, (2+4)/2. Column 1 has two rows: each other's. Column 2 has one.
    hand = {
        "returns": torch.tensor(
            [[2.0, 1.0, 5.0], [4.0, 3.0, 9.0], [6.0, 9.0, 9.0]], dtype=torch.float64
        ),
        "mask": torch.tensor([[True, True, True], [True, True, False], [True, False, False]]),
    }
    cases = [hand]
    for B, T in [(3, 4), (4, 3), (2, 5), (5, 3), (6, 2), (3, 3)]:
        _, mask = _lengths(rng, B, T)
        cases.append({"returns": _halves(rng, B, T), "mask": mask})
    return cases


def _gradient_cases(rng):
    # One feature x = 2, logits 0 and 0, V = 2·1 = 2. G = 5 for action 0: advantage 3. The loss is
    # -3 log π(0), its slope in the logits -3·(1 - 1/2, -1/2), times x: (-3, 3). V gets nothing.
    # The second cell does not count.
    hand = {
        "theta": torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64),
        "observations": torch.tensor([[[2.0], [1.0]]], dtype=torch.float64),
        "actions": torch.tensor([[0, 1]]),
        "returns": torch.tensor([[5.0, 7.0]], dtype=torch.float64),
        "mask": torch.tensor([[True, False]]),
    }
    cases = [hand]
    for B, T, F, A in [(2, 3, 2, 2), (3, 2, 3, 3), (2, 4, 2, 3), (4, 3, 1, 2), (3, 3, 2, 4)]:
        _, mask = _lengths(rng, B, T)
        cases.append(
            {
                "theta": _halves(rng, A + 1, F) / 4.0,
                "observations": _halves(rng, B, T, F) / 2.0,
                "actions": torch.tensor(rng.integers(A, size=(B, T))),
                "returns": _halves(rng, B, T),
                "mask": mask,
            }
        )
    return cases


def _advantage_cases(rng):
    # Returns 2 + 2/2 = 3 and 2; then 5 (the 4 is another episode's). Mean 10/3, deviations
    # -1/3, -4/3, 5/3: variance (1 + 16 + 25)/27 = 14/9.
    hand = {
        "rewards": torch.tensor([[2.0, 2.0], [5.0, 4.0]], dtype=torch.float64),
        "ended": torch.tensor([[False, True], [True, False]]),
        "mask": torch.tensor([[True, True], [True, False]]),
        "gamma": 0.5,
    }
    cases = [hand]
    for (B, T), gamma in zip(
        [(3, 4), (2, 5), (4, 3), (3, 6), (5, 4), (3, 3)], [0.5, 0.75, 0.25, 0.5, 0.9, 1.0],
        strict=True,
    ):  # fmt: skip
        ended, mask = _lengths(rng, B, T)
        cases.append({"rewards": _halves(rng, B, T), "ended": ended, "mask": mask, "gamma": gamma})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _slope_of_pi(theta, state, action):
    return _softmax(theta[state])[action] * score(theta, state, action)


def _subtracted_everywhere(theta, state, action):
    gradient = -np.array([_softmax(row) for row in theta])
    gradient[state, action] += 1.0
    return gradient


def _only_the_action(theta, state, action):
    gradient = np.zeros_like(theta)
    gradient[state, action] = 1.0 - _softmax(theta[state])[action]
    return gradient


def _indicator(theta, state, action):
    gradient = np.zeros_like(theta)
    gradient[state, action] = 1.0
    return gradient


def _softmax_of_the_table(theta, state, action):
    weights = np.exp(theta - theta.max())
    gradient = -weights / weights.sum()
    gradient[state, action] += 1.0
    return gradient


def _across_the_ends(rewards, gamma, ended):
    return discounted_returns(rewards, gamma=gamma)


def _cut_before_the_end(rewards, gamma, ended):
    """The reward of the last step is lost with what follows it."""
    kept = torch.where(ended, 0.0, rewards)
    return discounted_returns(kept, gamma=gamma, ended=ended)


def _cut_one_late(rewards, gamma, ended):
    late = torch.zeros_like(ended)
    late[:, 1:] = ended[:, :-1]
    return discounted_returns(rewards, gamma=gamma, ended=late)


def _zeros_after_an_end(rewards, gamma, ended):
    over = (ended.long().cumsum(1) - ended.long()) > 0
    return torch.where(over, 0.0, discounted_returns(rewards, gamma=gamma, ended=ended))


def _along_the_batch(rewards, gamma, ended):
    return discounted_returns(rewards.T.contiguous(), gamma=gamma, ended=ended.T.contiguous()).T


def _rewards_so_far(rewards, gamma, ended):
    G, running = torch.zeros_like(rewards), torch.zeros(len(rewards), dtype=rewards.dtype)
    for t in range(rewards.shape[1]):
        before = torch.where(ended[:, t - 1], 0.0, running) if t else running
        running = rewards[:, t] + gamma * before
        G[:, t] = running
    return G


def _squares(scores):
    return (scores**2).sum(axis=1)


def _gradient(theta, observations, actions, mask, weigh):
    """The gradient of the loss that ``weigh`` makes of log π and V."""
    theta = theta.clone().requires_grad_()
    logits, values = observations @ theta[:-1].T, observations @ theta[-1]
    loss = weigh(action_logprobs(logits, actions), values)
    return torch.autograd.grad(loss, theta)[0]


def _leaking(theta, observations, actions, returns, mask):
    return _gradient(
        theta, observations, actions, mask,
        lambda logprobs, values: aggregate(-(returns - values) * logprobs, mask, "token-mean"),
    )  # fmt: skip


def _of_probabilities(theta, observations, actions, returns, mask):
    return _gradient(
        theta, observations, actions, mask,
        lambda logprobs, values: aggregate(
            -(returns - values.detach()) * logprobs.exp(), mask, "token-mean"
        ),
    )  # fmt: skip


def _over_all_cells(theta, observations, actions, returns, mask):
    everywhere = torch.ones_like(mask)
    return policy_gradient(theta, observations, actions, returns, everywhere)


def _divided_by_all_cells(theta, observations, actions, returns, mask):
    share = mask.double().mean()
    return share * policy_gradient(theta, observations, actions, returns, mask)


def _per_episode(theta, observations, actions, returns, mask):
    return _gradient(
        theta, observations, actions, mask,
        lambda logprobs, values: aggregate(
            reinforce_loss(logprobs, returns - values), mask, "sequence-mean"
        ),
    )  # fmt: skip


def _summed(theta, observations, actions, returns, mask):
    return mask.sum() * policy_gradient(theta, observations, actions, returns, mask)


def _summed_over_time(theta, observations, actions, returns, mask):
    share = mask.sum() / len(mask)
    return share * policy_gradient(theta, observations, actions, returns, mask)


def _without_baseline(theta, observations, actions, returns, mask):
    return _gradient(
        theta, observations, actions, mask,
        lambda logprobs, values: aggregate(reinforce_loss(logprobs, returns), mask, "token-mean"),
    )  # fmt: skip


def _padding_taken_away(returns, mask):
    """A padded cell was never in the total, and is subtracted all the same."""
    total = torch.where(mask, returns, 0.0).sum(0) - returns
    others = mask.sum(0) - 1
    return torch.where(others > 0, total / others.clamp(min=1), 0.0)


def _one_mean_for_all_steps(returns, mask):
    seen = torch.where(mask, returns, 0.0)
    total = seen.sum() - seen.sum(1, keepdim=True)
    count = mask.sum() - mask.sum(1, keepdim=True)
    return (total / count.clamp(min=1)).expand_as(returns)


def _ends_ignored(rewards, ended, mask, gamma):
    return masked_whiten(discounted_returns(rewards, gamma=gamma), mask)


def _returns(rewards, ended, gamma):
    return discounted_returns(rewards, gamma=gamma, ended=ended)


def _as_it_stands(rewards, ended, mask, gamma):
    G = discounted_returns(rewards, gamma=gamma)
    return (G - G.mean()) / G.std()


def _whitened_over_all_cells(rewards, ended, mask, gamma):
    everywhere = torch.ones_like(mask)
    return torch.where(mask, masked_whiten(_returns(rewards, ended, gamma), everywhere), 0.0)


def _junk_left(rewards, ended, mask, gamma):
    G = _returns(rewards, ended, gamma)
    mean = masked_mean(G, mask)
    return (G - mean) / torch.sqrt(masked_mean((G - mean).square(), mask) + 1e-8)


def _sample_variance(rewards, ended, mask, gamma):
    count = mask.sum().double()
    return batch_advantages(rewards, ended, mask, gamma) * ((count - 1.0) / count).sqrt()


def _rewards_whitened(rewards, ended, mask, gamma):
    return torch.where(mask, _returns(masked_whiten(rewards, mask), ended, gamma), 0.0)


def _variance_of_zeros(rewards, ended, mask, gamma):
    """Junk replaced by 0, and the zeros counted."""
    G = torch.where(mask, _returns(rewards, ended, gamma), 0.0)
    return torch.where(mask, masked_whiten(G, torch.ones_like(mask)), 0.0)


EXERCISES: dict[str, Exercise] = {
    "score": Exercise(
        reference=score,
        cases=_score_cases,
        hint="log π is the chosen logit minus the log of a sum of exponentials. Which logits does "
        "each of the two parts depend on?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the chosen action alone, without the normaliser",
                _indicator,
                "Raising one logit lowers every probability of its state. The sum under the "
                "logarithm depends on all of them.",
            ),
            WrongAnswer(
                "the slope of π, not of log π",
                _slope_of_pi,
                "This is how fast the probability itself rises. A logarithm has one more factor.",
            ),
            WrongAnswer(
                "the sign turned round",
                lambda theta, state, action: -score(theta, state, action),
                "A step along your answer makes the action that was taken less likely.",
            ),
            WrongAnswer(
                "π subtracted in every state",
                _subtracted_everywhere,
                "The logits of other states have no part in this choice: what is their slope?",
            ),
            WrongAnswer(
                "one softmax over the whole table",
                _softmax_of_the_table,
                "Each state has a distribution of its own: which logits compete with one another?",
            ),
            WrongAnswer(
                "the entry of the chosen action only",
                _only_the_action,
                "That entry is right. What happens to log π when the logit of another action of "
                "the same state rises?",
            ),
        ),
    ),
    "discounted_returns": Exercise(
        reference=discounted_returns,
        cases=_return_cases,
        hint="Go through the columns from the last to the first, all rows at once. Where a step "
        "ended its episode, what may it take over from the column to its right?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a return that runs on into the next episode",
                _across_the_ends,
                "What stands after an end is another episode, or padding. Where do you ask whether "
                "the step has ended its episode?",
            ),
            WrongAnswer(
                "a return that loses the reward of the last step",
                _cut_before_the_end,
                "The step that ends the episode still earns its own reward.",
            ),
            WrongAnswer(
                "a cut one column too late",
                _cut_one_late,
                "Your sum is cut by the flag of the step before. Whose end stops the sum at t?",
            ),
            WrongAnswer(
                "zeros after an end",
                _zeros_after_an_end,
                "A row may hold another episode after an end, and it has returns as well: its sums "
                "start afresh.",
            ),
            WrongAnswer(
                "the rewards so far",
                _rewards_so_far,
                "You run from the left. What an action can still change lies to its right.",
            ),
            WrongAnswer(
                "sums over the episodes, not over time",
                _along_the_batch,
                "Rows are episodes, columns are steps. Along which axis does time run?",
            ),
            WrongAnswer(
                "no discount",
                lambda rewards, gamma, ended: discounted_returns(rewards, gamma=1.0, ended=ended),
                "These are plain sums of what follows. Where does γ come in?",
            ),
        ),
    ),
    "best_baseline": Exercise(
        reference=best_baseline,
        cases=_baseline_cases,
        hint="Only the mean of the squared length of score · (return - b) depends on b. Set its "
        "derivative in b to zero.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the expected return",
                lambda scores, returns, chances: chances @ returns,
                "That is a good baseline and not the best one: estimates with a long score move "
                "the gradient more. How should they count?",
            ),
            WrongAnswer(
                "weights that are lengths, not squared lengths",
                lambda scores, returns, chances: (
                    (chances * np.sqrt(_squares(scores)))
                    @ returns
                    / (chances @ np.sqrt(_squares(scores)))
                ),
                "A variance squares the estimate, so the score comes in squared as well.",
            ),
            WrongAnswer(
                "every episode counted alike",
                lambda scores, returns, chances: (
                    _squares(scores) @ returns / _squares(scores).sum()
                ),
                "Episodes do not occur equally often. Where do the chances come in?",
            ),
            WrongAnswer(
                "a weighted sum that is not divided",
                lambda scores, returns, chances: (chances * _squares(scores)) @ returns,
                "The numerator is right. If every return were 7, which number should come out?",
            ),
            WrongAnswer(
                "a sum divided by how many there are",
                lambda scores, returns, chances: (
                    (chances * _squares(scores)) @ returns / len(returns)
                ),
                "If every return were 7, the best baseline would be 7: what must the weights sum "
                "to?",
            ),
        ),
    ),
    "policy_gradient": Exercise(
        reference=policy_gradient,
        cases=_gradient_cases,
        hint="Advantages are constants in this loss: how do you keep autograd out of them? And "
        "which cells does the mean run over?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the sign turned round",
                lambda theta, observations, actions, returns, mask: (
                    -policy_gradient(theta, observations, actions, returns, mask)
                ),
                "An optimiser walks down. A step against your gradient makes good actions rarer.",
            ),
            WrongAnswer(
                "a gradient that flows through the advantages",
                _leaking,
                "The row of V has a gradient too. A policy loss that may move V finds the easy way "
                "out: it changes what counts as good.",
            ),
            WrongAnswer(
                "the probability in place of its logarithm",
                _of_probabilities,
                "Sampling already takes likely actions more often. Weighted by π they count twice.",
            ),
            WrongAnswer(
                "a mean over padding as well",
                _over_all_cells,
                "Some cells hold no step at all. Which argument says so?",
            ),
            WrongAnswer(
                "a sum over steps divided by the number of all cells",
                _divided_by_all_cells,
                "The padding adds nothing to your sum, but it is counted in the divisor.",
            ),
            WrongAnswer(
                "a mean over episodes of their own means",
                _per_episode,
                "A step of a short episode weighs more here than one of a long episode. One mean "
                "over all steps is asked for.",
            ),
            WrongAnswer(
                "a sum over all steps, not a mean",
                _summed,
                "The direction is right. How many steps does the sum have?",
            ),
            WrongAnswer(
                "a sum over each episode, averaged over episodes",
                _summed_over_time,
                "That is the form of equation (3), and unbiased. Here the mean over all steps of "
                "the batch is asked for.",
            ),
            WrongAnswer(
                "returns without the baseline",
                _without_baseline,
                "The expectation would be the same, the estimate is not. What is subtracted from "
                "the return?",
            ),
        ),
    ),
    "mean_return_at_step": Exercise(
        reference=mean_return_at_step,
        cases=_mean_cases,
        hint="Take the total of a column and then away what belongs to the row itself. How many "
        "other episodes are left at that step, and what if there are none?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "zeros in the padding",
                lambda returns, mask: torch.where(mask, mean_return_at_step(returns, mask), 0.0),
                "All that counts is right. Padded cells are filled by the same rule, the mean of "
                "the others: the mask is applied later, where the loss is averaged.",
            ),
            WrongAnswer(
                "a mean that contains the episode itself",
                lambda returns, mask: (
                    torch.where(mask, returns, 0.0).sum(0) / mask.sum(0)
                ).expand_as(returns),
                "Then the baseline depends on the very action it is to judge. Whose returns may "
                "it use?",
            ),
            WrongAnswer(
                "padding counted as returns",
                lambda returns, mask: mean_return_at_step(returns, torch.ones_like(mask)),
                "Some episodes are over at that step: what stands there is no return.",
            ),
            WrongAnswer(
                "a padded cell taken out of a sum it was never in",
                _padding_taken_away,
                "Where the episode runs, all is right. Where it is over, its own cell is not in "
                "the total: what is there to take away?",
            ),
            WrongAnswer(
                "one mean for all steps",
                _one_mean_for_all_steps,
                "Returns shrink towards the end of an episode. Compare a step with the same step "
                "of the others.",
            ),
            WrongAnswer(
                "a mean along the episode",
                lambda returns, mask: (
                    mean_return_at_step(returns.T.contiguous(), mask.T.contiguous()).T
                ),
                "Your mean runs over the other steps of one episode. It should run over the other "
                "episodes at one step.",
            ),
            WrongAnswer(
                "a divisor that counts the episode itself",
                lambda returns, mask: (
                    (torch.where(mask, returns, 0.0).sum(0) - torch.where(mask, returns, 0.0))
                    / mask.sum(0)
                ),
                "The episode's own return is out of the sum, but still in the count.",
            ),
        ),
    ),
    "batch_advantages": Exercise(
        reference=batch_advantages,
        cases=_advantage_cases,
        hint="Write down the matrix of rewards of two episodes of different lengths by hand, "
        "padding included. Which cells may touch which?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the loop as it stands",
                _as_it_stands,
                "Look at a row whose episode is short: what do its rewards after the end stand "
                "for, and who reads them?",
            ),
            WrongAnswer(
                "returns that run on after the end",
                _ends_ignored,
                "The whitening is right. The returns still reach across the end of an episode.",
            ),
            WrongAnswer(
                "whitening with the junk of padded cells",
                _whitened_over_all_cells,
                "The returns are right. Whose mean and whose spread do you use?",
            ),
            WrongAnswer(
                "numbers left in the padding",
                _junk_left,
                "All that counts is right. Leave 0 where there is no step, so that nothing can "
                "come of it.",
            ),
            WrongAnswer(
                "zeros counted in the mean and the spread",
                _variance_of_zeros,
                "Setting padding to 0 does not take it out of an average: the zeros are counted.",
            ),
            WrongAnswer(
                "a variance divided by one less than the count",
                _sample_variance,
                "Here the spread is that of the batch itself: divide by n. In torch, std has an "
                "argument for this.",
            ),
            WrongAnswer(
                "whitened rewards",
                _rewards_whitened,
                "First the returns, then the scale. A shift of every reward pays an episode for "
                "its length.",
            ),
        ),
    ),
}
