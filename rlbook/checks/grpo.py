"""The exercises of chapter 18: what a group says, what a token weighs, and a loop to mend.

Plain arrays: N prompts, K responses to each, B = N·K responses in the order of the prompts, T
tokens, A answers.
"""

from math import comb

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import Exercise, WrongAnswer


def group_advantages(rewards, how):
    """Advantages [N, K] of rewards [N, K]: how is "mean", "others" or "std"."""
    K = rewards.shape[1]
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if how == "mean":
        return centred
    if how == "others":
        others = (rewards.sum(axis=1, keepdims=True) - rewards) / (K - 1)
        return rewards - others
    std = rewards.std(axis=1, ddof=1, keepdims=True)
    return np.where(std > 0, centred / np.where(std > 0, std, 1.0), 0.0)


def grpo_loss(logprobs, old_logprobs, advantages, mask, clip):
    """The clipped loss [B, T] of advantages [B], averaged over tokens, then over responses."""
    A = advantages[:, None]
    ratio = np.exp(logprobs - old_logprobs)
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    loss = np.where(mask, -np.minimum(ratio * A, clipped * A), 0.0)
    return (loss.sum(axis=1) / mask.sum(axis=1)).mean()


def token_weights(lengths, how, limit):
    """What one token of each response weighs [B]: "GRPO", "DAPO" or "Dr. GRPO"."""
    B = len(lengths)
    if how == "GRPO":
        return 1 / (B * lengths)
    if how == "DAPO":
        return np.full(B, 1 / lengths.sum())
    return np.full(B, 1 / (B * limit))


def prompt_weight(p, K):
    """w in E[step of GRPO] = w ∇p, for 0/1 rewards that are 1 with probability p, an array."""
    total = 0.0
    for c in range(1, K):  # c right ones; without spread there is no step
        chance = comb(K, c) * p**c * (1 - p) ** (K - c)
        std = np.sqrt(c * (K - c) / (K * (K - 1)))
        right, wrong = (1 - c / K) / std, (0 - c / K) / std
        # ∇log π is ∇p / p on average over right ones, and -∇p / (1 - p) over wrong ones
        total += chance * (c / K * right / p - (K - c) / K * wrong / (1 - p))
    return total


def train_in_groups(logits, right, draws, rate, micro):
    """Logits [N, A] after an update for each entry of draws [updates, N, K], cut into pieces."""
    logits = logits.copy()
    N, A = logits.shape
    for u in draws:
        K = u.shape[1]
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        prompts = np.repeat(np.arange(N), K)
        answers = (np.cumsum(pi, axis=1)[prompts] <= u.reshape(-1, 1)).sum(axis=1)
        answers = np.minimum(answers, A - 1)
        rewards = (answers == right[prompts]).astype(float).reshape(N, K)
        advantages = (rewards - rewards.mean(axis=1, keepdims=True)).flatten()
        gradient = np.zeros_like(logits)
        for start in range(0, N * K, micro):
            rows = range(start, min(start + micro, N * K))
            for i in rows:
                x, a = prompts[i], answers[i]
                gradient[x] -= advantages[i] * pi[x] / (N * K)
                gradient[x, a] += advantages[i] / (N * K)
        logits += rate * gradient
    return logits


# --- cases -----------------------------------------------------------------------------------


def _group_cases(rng):
    four = np.array([[1.0, 0.0, 0.0, 0.0]])
    cases = [{"rewards": four, "how": how} for how in ("mean", "others", "std")]
    for N, K in ((2, 3), (3, 4)):
        for how in ("mean", "others", "std"):
            rewards = random_halves(rng, (N, K)) + np.arange(N)[:, None]
            rewards[:, 0] += 0.5  # a spread in every group but the last
            rewards[-1] = 1.0
            cases.append({"rewards": rewards, "how": how})
    return cases


def _loss_cases(rng):
    first = {  # ratios 2 and ½ with A = 1, and 2 with A = -1, ε = 0.2
        "logprobs": np.log([[0.5, 0.2], [0.5, 1.0]]),
        "old_logprobs": np.log([[0.25, 0.4], [0.25, 1.0]]),
        "advantages": np.array([1.0, -1.0]),
        "mask": np.array([[True, True], [True, False]]),
        "clip": 0.2,
    }
    cases = [first]
    for B, T in ((2, 3), (3, 4), (4, 3), (3, 5), (2, 6)):
        lengths = rng.integers(1, T, size=B)
        lengths[0] = T
        old = -rng.integers(1, 30, size=(B, T)) / 10
        shift = rng.choice([-0.5, -0.1, 0.1, 0.5], size=(B, T))
        shift[:, 0] = 0.5
        advantages = rng.choice([-1.0, -0.5, 0.5, 1.5], size=B)
        advantages[:2] = 1.5, -1.0
        mask = np.arange(T) < lengths[:, None]
        cases.append(
            {
                "logprobs": old + shift,
                "old_logprobs": old,
                "advantages": advantages,
                "mask": mask,
                "clip": 0.2,
            }
        )
    return cases


def _weight_cases(rng):
    names = ("GRPO", "DAPO", "Dr. GRPO")
    cases = [{"lengths": np.array([2, 6]), "how": how, "limit": 8} for how in names]
    for B, limit in ((3, 10), (4, 12)):
        for how in names:
            lengths = rng.integers(1, limit, size=B)
            lengths[0], lengths[1] = 1, limit
            cases.append({"lengths": lengths, "how": how, "limit": limit + 2})
    return cases


def _prompt_cases(rng):
    pairs = [([0.5], 2), ([0.25, 0.5], 4), ([0.1, 0.9], 8), ([0.75], 4), ([0.2, 0.6, 0.8], 16)]
    return [{"p": np.array(p), "K": K} for p, K in [*pairs, ([0.3, 0.05], 5)]]


def _train_cases(rng):
    # One prompt, two answers; the first is drawn and right, the second wrong: A = ½, -½.
    # Row 0 gives ½·(½, -½), row 1 -½·(-½, ½); half of the sum is (¼, -¼)
    one = {"logits": np.zeros((1, 2)), "right": np.array([0]), "rate": 1.0}
    cases = [one | {"draws": np.array([[[0.2, 0.7]]]), "micro": micro} for micro in (2, 1)]
    for N, A, K, micro in ((2, 3, 4, 4), (2, 3, 4, 3), (3, 4, 3, 2), (2, 4, 5, 1), (2, 3, 4, 8)):
        draws = rng.random((3, N, K)).round(3)
        logits = rng.integers(-1, 2, size=(N, A)).astype(float)
        right = rng.integers(0, A, size=N)
        cases.append({"logits": logits, "right": right, "draws": draws, "rate": 2.0})
        cases[-1]["micro"] = micro
    return cases


# --- wrong answers ---------------------------------------------------------------------------


def _advantages(rewards, how, *, axis=1, ddof=1, include=False, everything=False, raw=False):
    """group_advantages with one thing changed."""
    if axis == 0 and len(rewards) == 1:  # a column of one
        return np.zeros_like(rewards)
    keep = {"axis": None if everything else axis, "keepdims": True}
    centred = rewards - (0.0 if raw else rewards.mean(**keep))
    if how == "mean" or (how == "others" and include):
        return centred
    if how == "others":
        if raw:
            return rewards
        count = rewards.size if everything else rewards.shape[axis]
        axes = None if everything else axis
        return rewards - (rewards.sum(axis=axes, keepdims=True) - rewards) / (count - 1)
    std = rewards.std(ddof=ddof, **keep)
    return np.where(std > 0, centred / np.where(std > 0, std, 1.0), 0.0)


def _loss(logprobs, old_logprobs, advantages, mask, clip, *, how="sequence", bound="min",
          sign=-1.0):  # fmt: skip
    """grpo_loss with one thing changed."""
    A = advantages[:, None]
    ratio = np.exp(logprobs - old_logprobs)
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    objective = {
        "min": np.minimum(ratio * A, clipped * A),
        "max": np.maximum(ratio * A, clipped * A),
        "clip": clipped * A,
        "ratio": np.minimum(ratio, clipped) * A,
        "none": ratio * A,
    }[bound]
    loss = np.where(mask, sign * objective, 0.0)
    if how == "token":
        return loss.sum() / mask.sum()
    if how == "columns":
        return loss.mean()
    if how == "sum":
        return loss.sum(axis=1).mean()
    return (loss.sum(axis=1) / mask.sum(axis=1)).mean()


def _upside_down(logprobs, old_logprobs, advantages, mask, clip):
    return _loss(old_logprobs, logprobs, advantages, mask, clip)


def _limit_of_large_groups(p, K):
    return 1 / np.sqrt(p * (1 - p))


def _mean_alone(p, K):
    return np.full(len(p), (K - 1) / K)


def _not_divided(p, K):
    return prompt_weight(p, K) * p * (1 - p)


def _right_alone(p, K):
    return prompt_weight(p, K) * (1 - p)


def _population(p, K):
    return prompt_weight(p, K) * np.sqrt(K / (K - 1))


def _train(logits, right, draws, rate, micro, *, scale="whole", last=False, inside=False,
           raw=False, steps=False):  # fmt: skip
    """train_in_groups with one thing changed."""
    logits = logits.copy()
    N, A = logits.shape

    def policy():
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    for u in draws:
        K, pi = u.shape[1], policy()
        prompts = np.repeat(np.arange(N), K)
        answers = (np.cumsum(pi, axis=1)[prompts] <= u.reshape(-1, 1)).sum(axis=1)
        answers = np.minimum(answers, A - 1)
        rewards = (answers == right[prompts]).astype(float).reshape(N, K)
        base = 0.0 if raw else rewards.mean(axis=1, keepdims=True)
        advantages = (rewards - base).flatten()
        starts = range(0, N * K, micro)
        gradient = np.zeros_like(logits)
        for start in starts:
            rows = range(start, min(start + micro, N * K))
            own = rewards.flatten()[rows.start : rows.stop]
            A_of = own - own.mean() if inside else advantages[rows.start : rows.stop]
            divide = {"whole": N * K, "sum": len(rows), "mean": len(rows) * len(starts),
                      "none": 1}[scale]  # fmt: skip
            if last:
                gradient = np.zeros_like(logits)
            for i, advantage in zip(rows, A_of, strict=True):
                x, a = prompts[i], answers[i]
                gradient[x] -= advantage * pi[x] / divide
                gradient[x, a] += advantage / divide
            if steps:
                logits += rate * gradient
                gradient, pi = np.zeros_like(logits), policy()
        logits += rate * gradient
    return logits


# --- the exercises ---------------------------------------------------------------------------

EXERCISES = {
    "group_advantages": Exercise(
        reference=group_advantages,
        cases=_group_cases,
        hint="One row is one prompt. 'others': the sum of the row less the reward itself, over "
        "K - 1. 'std': guard the division where a row has no spread.",
        wrong_answers=(
            WrongAnswer(
                "one mean for the whole batch",
                lambda rewards, how: _advantages(rewards, how, everything=True),
                "Prompts differ in difficulty: compare a response with those to the same prompt.",
            ),
            WrongAnswer(
                "groups taken along the columns",
                lambda rewards, how: _advantages(rewards, how, axis=0),
                "Column k holds responses to different prompts. The group is a row: axis=1.",
            ),
            WrongAnswer(
                "the population standard deviation",
                lambda rewards, how: _advantages(rewards, how, ddof=0),
                "Here the squares are divided by K - 1: ddof=1.",
            ),
            WrongAnswer(
                "a baseline that contains the reward itself",
                lambda rewards, how: _advantages(rewards, how, include=True),
                "'others' leaves the own reward out of the mean: K - 1 of them remain.",
            ),
            WrongAnswer(
                "no baseline",
                lambda rewards, how: _advantages(rewards, how, raw=True),
                "Nothing has been subtracted: four wrong responses must get 0, and so must four "
                "right ones.",
            ),
        ),
    ),
    "grpo_loss": Exercise(
        reference=grpo_loss,
        cases=_loss_cases,
        hint="Four lines: the ratio; the ratio clipped; minus the smaller of the two products "
        "with A; the mean of each row over its own tokens, then over rows.",
        wrong_answers=(
            WrongAnswer(
                "the mean over all tokens",
                lambda **case: _loss(**case, how="token"),
                "That is DAPO's aggregation: GRPO takes each response's own mean first.",
            ),
            WrongAnswer(
                "the mean over all cells",
                lambda **case: _loss(**case, how="columns"),
                "Padding is counted in the denominator: divide by the number of real tokens.",
            ),
            WrongAnswer(
                "the sum over a response's tokens",
                lambda **case: _loss(**case, how="sum"),
                "Divide each response's sum by its own length.",
            ),
            WrongAnswer(
                "the clipped ratio alone",
                lambda **case: _loss(**case, bound="clip"),
                "Without the minimum a ratio that has gone the wrong way gets no gradient to "
                "bring it back.",
            ),
            WrongAnswer(
                "the smaller ratio",
                lambda **case: _loss(**case, bound="ratio"),
                "Multiply with A first: for A < 0 the smaller product has the larger ratio.",
            ),
            WrongAnswer(
                "the larger product",
                lambda **case: _loss(**case, bound="max"),
                "The clip takes the worse of the two for the objective: the minimum, before the "
                "sign is turned.",
            ),
            WrongAnswer(
                "the ratio upside down",
                _upside_down,
                "New over old: the old log-probability is subtracted.",
            ),
            WrongAnswer(
                "no clip",
                lambda **case: _loss(**case, bound="none"),
                "The ratio may go anywhere. Clip it to 1 - ε ... 1 + ε and take the minimum.",
            ),
            WrongAnswer(
                "the sign turned",
                lambda **case: _loss(**case, sign=1.0),
                "That is the objective. A loss is minimised: minus.",
            ),
        ),
    ),
    "token_weights": Exercise(
        reference=token_weights,
        cases=_weight_cases,
        hint="Write the loss as a sum over tokens and read off what stands before each.",
        wrong_answers=(
            WrongAnswer(
                "the batch not counted",
                lambda lengths, how, limit: (
                    token_weights(lengths, how, limit) * (1 if how == "DAPO" else len(lengths))
                ),
                "There is a mean over the responses too: divide by B.",
            ),
            WrongAnswer(
                "the longest response for the limit",
                lambda lengths, how, limit: token_weights(lengths, how, lengths.max()),
                "The limit is the task's, the same in every batch. The longest response of a "
                "batch changes from step to step.",
            ),
            WrongAnswer(
                "the weight of whole responses",
                lambda lengths, how, limit: token_weights(lengths, how, limit) * lengths,
                "You have summed over the tokens of each response; what does one of them weigh?",
            ),
            WrongAnswer(
                "DAPO's for all three",
                lambda lengths, how, limit: token_weights(lengths, "DAPO", limit),
                "Equal weights for all tokens of a batch: that is one of the three.",
            ),
        ),
    ),
    "prompt_weight": Exercise(
        reference=prompt_weight,
        cases=_prompt_cases,
        hint="Sum over c = 1 ... K - 1 right responses, each with its binomial chance. A right "
        "response pushes by A ∇p / p on average, a wrong one by -A ∇p / (1 - p).",
        wrong_answers=(
            WrongAnswer(
                "the limit of large groups",
                _limit_of_large_groups,
                "1 / √(p (1 - p)) is right for K → ∞. In a small group the spread is that of the "
                "group, and may be 0.",
            ),
            WrongAnswer(
                "the population standard deviation",
                _population,
                "The squares are divided by K - 1: std² = c (K - c) / (K (K - 1)).",
            ),
            WrongAnswer(
                "the factor without a standard deviation",
                _mean_alone,
                "(K - 1) / K belongs to rewards less their mean; here A is divided by std too.",
            ),
            WrongAnswer(
                "the mean spread alone",
                _not_divided,
                "That is Σ chance · c (K - c) / (K² std). Divide by p and by 1 - p.",
            ),
            WrongAnswer(
                "right responses alone",
                _right_alone,
                "Wrong responses push too: their A is negative, and so is -∇p / (1 - p).",
            ),
        ),
    ),
    "train_in_groups": Exercise(
        reference=train_in_groups,
        cases=_train_cases,
        hint="The result must not depend on micro. By what is each row's share divided, and does "
        "that number depend on micro?",
        wrong_answers=(
            WrongAnswer(
                "the loop as it was: means of micro-batches, added up",
                lambda **case: _train(**case, scale="sum"),
                "With twice as many pieces the step is twice as long. Divide each row by the "
                "number of rows of the whole step.",
            ),
            WrongAnswer(
                "the mean over micro-batches",
                lambda **case: _train(**case, scale="mean"),
                "Right where all pieces are equally large. The last one may be smaller, and its "
                "rows then weigh more: divide by N·K.",
            ),
            WrongAnswer(
                "no division",
                lambda **case: _train(**case, scale="none"),
                "The step grows with the batch. It is a mean over N·K rows.",
            ),
            WrongAnswer(
                "the last micro-batch alone",
                lambda **case: _train(**case, last=True),
                "The gradient is set to 0 before each piece: that belongs before the first.",
            ),
            WrongAnswer(
                "groups within micro-batches",
                lambda **case: _train(**case, inside=True),
                "A piece may hold half of a group, or a single response. Advantages come before "
                "the cut.",
            ),
            WrongAnswer(
                "a step after each micro-batch",
                lambda **case: _train(**case, steps=True, scale="whole"),
                "Then they are mini-batches: the policy moves between them. Collect first, step "
                "once.",
            ),
            WrongAnswer(
                "no baseline",
                lambda **case: _train(**case, raw=True),
                "The group's mean is not subtracted any more.",
            ),
        ),
    ),
}
