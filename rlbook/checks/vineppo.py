"""The exercises of chapter 20: credit per step, values from rollouts, their cost, a loop to mend.

Plain arrays: S steps of a response, K rollouts, n states, U updates, G responses, T places.
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import Exercise, WrongAnswer


def step_credit(values, reward, lam):
    """Advantages [S] of a response's steps: values [S] before each of them, one reward at the end.

    γ = 1, the value of the end is 0; lam is GAE's λ over steps.
    """
    A = np.zeros(len(values))
    coming, after = 0.0, reward
    for i in reversed(range(len(values))):
        coming = after - values[i] + lam * coming
        A[i], after = coming, values[i]
    return A


def value_within_limit(rewards, lengths, written, limit):
    """V̂ [n] of n states: rewards and lengths [n, K] of rollouts, tokens written [n] before."""
    left = limit - written[:, None]
    return np.where(lengths <= left, rewards, 0.0).mean(axis=1)


def distinct_states(prompts, steps):
    """How many different states there are to value: prompt, and steps before one's own.

    prompts [B] and steps [B, S]: numbers that stand for texts; -1 after a response's last step.
    """
    states = set()
    for prompt, row in zip(prompts, steps, strict=True):
        for i in range((row >= 0).sum()):
            states.add((int(prompt), tuple(row[:i].tolist())))
    return len(states)


def generated_tokens(steps, samples, length, rollouts):
    """Tokens of an update, rollouts included: ``samples`` responses to each prompt.

    Those to prompt n have steps[n] steps of ``length`` tokens, and each rollout has what is left
    of them. The prompt is the only state that responses share.
    """
    own = samples * steps * length
    later = steps * (steps - 1) // 2 * length  # S - 1 steps are left, S - 2, ..., 1
    return int((own + rollouts * (steps * length + samples * later)).sum())


def learn_steps(logits, draws, rolls, place, rate):
    """Logits [T, 2] after an update for each entry of draws [U, G, T]: VinePPO, a step a token.

    The reward is 1 where the choice at ``place`` is 1. rolls [U, G, T, K, T]: uniform numbers of
    the K rollouts of the state before step i of response g.
    """
    logits = logits.copy()
    T = len(logits)
    for u, v in zip(draws, rolls, strict=True):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        step = np.zeros_like(logits)
        for g in range(len(u)):
            chosen = (u[g] >= pi[:, 0]).astype(int)
            reward = float(chosen[place])
            V = np.zeros(T)
            for i in range(T):
                rollouts = (v[g, i] >= pi[:, 0]).astype(int)  # [K, T]
                rollouts[:, :i] = chosen[:i]
                V[i] = rollouts[:, place].mean()
            A = np.append(V[1:], reward) - V
            step -= A[:, None] * pi / len(u)
            step[np.arange(T), chosen] += A / len(u)
        logits += rate * step
    return logits


# --- cases -----------------------------------------------------------------------------------


def _credit_cases(rng):
    cases = [{"values": np.array([0.5, 0.75, 0.25]), "reward": 1.0, "lam": 0.0}]
    for S, lam in ((4, 0.0), (3, 1.0), (1, 0.0), (5, 0.5), (4, 0.9), (2, 1.0)):
        values = rng.integers(1, 20, size=S) / 20
        cases.append({"values": values, "reward": float(rng.integers(1, 4)) / 2, "lam": lam})
    return cases


def _limit_cases(rng):
    first = {  # 3 tokens are left in the first state, 1 in the second
        "rewards": np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]),
        "lengths": np.array([[3, 2, 6, 1], [1, 2, 1, 1]]),
        "written": np.array([2, 4]),
        "limit": 5,
    }
    cases = [first]
    for n, K, limit in ((2, 3, 8), (3, 5, 10), (1, 4, 6), (4, 2, 12), (3, 3, 9)):
        written = rng.integers(1, limit - 1, size=n)
        lengths = rng.integers(1, limit, size=(n, K))
        lengths[:, 0], lengths[0, -1] = limit - written, limit - written[0] + 1
        lengths[-1, 1] = limit + 1  # more than even an empty response may have
        rewards = np.abs(random_halves(rng, (n, K))) + 0.5
        cases.append({"rewards": rewards, "lengths": lengths, "written": written, "limit": limit})
    return cases


def _state_cases(rng):
    cases = [{"prompts": np.array([7, 7]), "steps": np.array([[0, 1], [0, 2]])}]
    for B, names, deep in ((3, 1, 2), (4, 2, 3), (5, 2, 3), (6, 3, 3), (8, 2, 4), (4, 2, 4)):
        lengths = rng.integers(2, deep + 1, size=B)
        lengths[-2:] = deep
        steps = rng.integers(0, 2, size=(B, deep))
        steps[-2:, :2] = [[0, 1], [1, 1]]  # other beginnings, the same last step
        prompts = np.arange(B) % names
        prompts[-2] = prompts[-1]
        steps[0, 0] = steps[-1, 0]  # a beginning that two prompts, or two samples, share
        steps = np.where(np.arange(deep) < lengths[:, None], steps, -1)
        cases.append({"prompts": prompts, "steps": steps})
    return cases


def _cost_cases(rng):
    names = ("samples", "length", "rollouts")
    given = [([3], (2, 1, 1)), ([1, 2], (1, 5, 4)), ([3, 3], (4, 6, 9)), ([8, 5, 2], (8, 6, 9)),
             ([5, 4], (2, 4, 1)), ([2, 2, 6], (8, 6, 3)), ([4, 1], (3, 7, 2))]  # fmt: skip
    return [
        {"steps": np.array(steps), **dict(zip(names, row, strict=True))} for steps, row in given
    ]


def _loop_cases(rng):
    # One place, one response, a coin: 1 is chosen and right; its rollout was 0. A = 1, and the
    # step is (-½, ½)
    one = {"logits": np.zeros((1, 2)), "draws": np.array([[[0.7]]]), "place": 0, "rate": 1.0}
    cases = [one | {"rolls": np.array([[[[[0.2]]]]])}]
    for T, place, G, K, U in ((3, 1, 2, 1, 2), (4, 2, 2, 3, 2), (3, 0, 3, 2, 3), (4, 3, 2, 2, 2),
                              (5, 2, 3, 1, 2)):  # fmt: skip
        cases.append(
            {
                "logits": rng.integers(-1, 2, size=(T, 2)) / 2,
                "draws": rng.random((U, G, T)).round(3),
                "rolls": rng.random((U, G, T, K, T)).round(3),
                "place": place,
                "rate": 2.0,
            }
        )
    return cases


# --- wrong answers ---------------------------------------------------------------------------


def _credit(values, reward, lam, *, every=False, end=None, sign=1.0, forget=False, shift=False):
    """step_credit with one thing changed."""
    S = len(values)
    after = np.append(values[1:], 0.0 if end is None else end)
    if forget:
        after = np.zeros(S)
    rewards = np.full(S, reward) if every else np.append(np.zeros(S - 1), reward)
    delta = sign * (rewards + after - values)
    if shift:
        delta = np.append(values[0], rewards[1:] + values[1:] - values[:-1])
    A, coming = np.zeros(S), 0.0
    for i in reversed(range(S)):
        A[i] = coming = delta[i] + lam * coming
    return A


def _limit(rewards, lengths, written, limit, *, drop=False, strict=False, whole=False):
    """value_within_limit with one thing changed."""
    left = np.full_like(written, limit)[:, None] if whole else limit - written[:, None]
    fits = lengths < left if strict else lengths <= left
    total = np.where(fits, rewards, 0.0).sum(axis=1)
    return total / (fits.sum(axis=1) if drop else rewards.shape[1])


def _states(prompts, steps, *, key=lambda prompt, before: (prompt, before), extra=0, start=0,
            joined=set):  # fmt: skip
    """distinct_states with another idea of what a state is, or of which are to be valued."""
    return len(
        joined(
            key(int(prompt), tuple(row[:i].tolist()))
            for prompt, row in zip(prompts, steps, strict=True)
            for i in range(start, int((row >= 0).sum()) + extra)
        )
    )


def _cost(steps, samples, length, rollouts, *, root=None, full=False, own=True, apart=True):
    """generated_tokens with one thing changed."""
    root = 1 if root is None else root(samples)
    total = 0
    for S in steps.tolist():
        later = sum((S if full else S - i) for i in range(1, S)) * length
        total += rollouts * (root * S * length + (samples if apart else 1) * later)
        total += samples * S * length if own else 0
    return total


def _learn(logits, draws, rolls, place, rate, *, how="right", start=False, own=False, total=False):
    """learn_steps with one thing changed."""
    logits = logits.copy()
    T = len(logits)
    for u, v in zip(draws, rolls, strict=True):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        step = np.zeros_like(logits)
        for g in range(len(u)):
            chosen = (u[g] >= pi[:, 0]).astype(int)
            reward, V = float(chosen[place]), np.zeros(T)
            for i in range(T):
                rollouts = (v[g, i] >= pi[:, 0]).astype(int)
                if not start:
                    rollouts[:, :i] = chosen[:i]
                found = rollouts[:, place].astype(float)
                V[i] = np.append(found, reward).mean() if own else found.mean()
            A = np.append(V[1:], reward) - V
            if how == "every step":
                A = reward + np.append(V[1:], 0.0) - V
            elif how == "twice":
                A[-1] += reward
            elif how == "shifted":
                A = np.append(0.0, A[:-1])
            elif how == "whole":
                A = reward - V
            elif how == "no reward":
                A[-1] = -V[-1]
            if total:
                A = np.full(T, A.sum())
            step -= A[:, None] * pi / len(u)
            step[np.arange(T), chosen] += A / len(u)
        logits += rate * step
    return logits


# --- the exercises ---------------------------------------------------------------------------

EXERCISES = {
    "step_credit": Exercise(
        reference=step_credit,
        cases=_credit_cases,
        hint="Go from the last step to the first. What follows the last one is the reward; what "
        "follows any other is the value of the next state.",
        wrong_answers=(
            WrongAnswer(
                "the reward at every step",
                lambda **case: _credit(**case, every=True),
                "It is paid once, at the last step. With λ = 0 the advantages must sum to the "
                "reward less the first value.",
            ),
            WrongAnswer(
                "a value after the end",
                lambda **case: _credit(**case, end=case["values"][-1]),
                "Nothing follows the last step: the value there is 0.",
            ),
            WrongAnswer(
                "the reward twice",
                lambda **case: _credit(**case, end=case["reward"]),
                "The value of the end is 0, since the reward has been paid by then.",
            ),
            WrongAnswer(
                "the sign turned",
                lambda **case: _credit(**case, sign=-1.0),
                "A step that raises the value has earned something: after minus before.",
            ),
            WrongAnswer(
                "the value of the next state left out",
                lambda **case: _credit(**case, forget=True),
                "A step in the middle earns no reward, but leads to a state that is worth "
                "something.",
            ),
            WrongAnswer(
                "λ = 0 whatever is given",
                lambda values, reward, lam: step_credit(values, reward, 0.0),
                "Add what is coming, times lam: A of a step is its own error and lam times the "
                "advantage of the next.",
            ),
            WrongAnswer(
                "λ = 1 whatever is given",
                lambda values, reward, lam: step_credit(values, reward, 1.0),
                "That is the whole reward less the value. The advantage that follows is carried "
                "on with the factor lam.",
            ),
            WrongAnswer(
                "credit given to the step after",
                lambda **case: _credit(**case, shift=True),
                "values[i] is the state before step i: step i changes it to values[i + 1].",
            ),
        ),
    ),
    "value_within_limit": Exercise(
        reference=value_within_limit,
        cases=_limit_cases,
        hint="Each state has its own number of tokens left. A rollout that needs more is cut, and "
        "counts as a failure: it stays among the K.",
        wrong_answers=(
            WrongAnswer(
                "cut rollouts dropped",
                lambda **case: _limit(**case, drop=True),
                "The mean of those that finished is too high: being cut is a way to fail. Divide "
                "by K.",
            ),
            WrongAnswer(
                "the whole limit for every rollout",
                lambda **case: _limit(**case, whole=True),
                "What is written already has used some of it: limit - written is left.",
            ),
            WrongAnswer(
                "a rollout that just fits is cut",
                lambda **case: _limit(**case, strict=True),
                "One that needs exactly what is left is whole.",
            ),
            WrongAnswer(
                "no limit",
                lambda rewards, lengths, written, limit: rewards.mean(axis=1),
                "The response itself would have been cut there. Its rollouts are too.",
            ),
            WrongAnswer(
                "the sum over rollouts",
                lambda **case: _limit(**case) * case["rewards"].shape[1],
                "A value is a mean: divide by K.",
            ),
        ),
    ),
    "distinct_states": Exercise(
        reference=distinct_states,
        cases=_state_cases,
        hint="Put every pair of prompt and steps so far, before each step, into a set.",
        wrong_answers=(
            WrongAnswer(
                "the prompt forgotten",
                lambda **case: _states(**case, key=lambda prompt, before: before),
                "Two prompts may have the same beginning of an answer: these are two states.",
            ),
            WrongAnswer(
                "each state of each response",
                lambda **case: _states(**case, joined=list),
                "Samples of one prompt share the prompt, and often more. Count equal ones once.",
            ),
            WrongAnswer(
                "finished texts counted",
                lambda **case: _states(**case, extra=1),
                "The value of a finished text is 0 by definition: nothing is rolled out there.",
            ),
            WrongAnswer(
                "the prompts left out",
                lambda **case: _states(**case, start=1),
                "The state before the first step is the prompt itself, and needs a value.",
            ),
            WrongAnswer(
                "states told apart by their number of steps alone",
                lambda **case: _states(**case, key=lambda prompt, before: (prompt, len(before))),
                "Two texts with equally many steps are two states if they read differently.",
            ),
            WrongAnswer(
                "states told apart by their last step alone",
                lambda **case: _states(
                    **case, key=lambda prompt, before: (prompt, len(before), before[-1:])
                ),
                "What was written before the last step belongs to the state as well.",
            ),
        ),
    ),
    "generated_tokens": Exercise(
        reference=generated_tokens,
        cases=_cost_cases,
        hint="Add up: the responses; the rollouts of the prompt, once for all samples; those "
        "before steps 1, 2, ..., which are shorter and shorter, for each sample.",
        wrong_answers=(
            WrongAnswer(
                "the prompt valued once for each sample",
                lambda **case: _cost(**case, root=lambda samples: samples),
                "All samples of a prompt begin with the same state: it is rolled out once.",
            ),
            WrongAnswer(
                "every state valued once for all samples",
                lambda **case: _cost(**case, apart=False),
                "Only the prompt is shared. What follows differs from sample to sample.",
            ),
            WrongAnswer(
                "rollouts of full length",
                lambda **case: _cost(**case, full=True),
                "A rollout writes only what is left: steps - i of them.",
            ),
            WrongAnswer(
                "the rollouts alone",
                lambda **case: _cost(**case, own=False),
                "The responses that are learnt from have been generated too.",
            ),
            WrongAnswer(
                "the prompt not valued",
                lambda **case: _cost(**case, root=lambda samples: 0),
                "The first step's advantage needs the value of the prompt.",
            ),
            WrongAnswer(
                "everything divided among the samples",
                lambda **case: _cost(**case) / case["samples"],
                "That is per response. Add up the whole update.",
            ),
            WrongAnswer(
                "no rollouts",
                lambda steps, samples, length, rollouts: samples * length * steps.sum(),
                "These are the responses. What do the values cost?",
            ),
        ),
    ),
    "learn_steps": Exercise(
        reference=learn_steps,
        cases=_loop_cases,
        hint="Look at the sum of the advantages of a response, and at what it should be. Which "
        "term is there more than once?",
        wrong_answers=(
            WrongAnswer(
                "the loop as it was: the reward at every step",
                lambda **case: _learn(**case, how="every step"),
                "Each step is praised for the whole reward, and the wording with it. It is paid "
                "once, at the end.",
            ),
            WrongAnswer(
                "the reward twice at the last step",
                lambda **case: _learn(**case, how="twice"),
                "The last step's difference holds the reward already.",
            ),
            WrongAnswer(
                "no reward at all",
                lambda **case: _learn(**case, how="no reward"),
                "What follows the last step is the reward of this very response.",
            ),
            WrongAnswer(
                "credit given to the step after",
                lambda **case: _learn(**case, how="shifted"),
                "The sums are right, but step i is praised for what step i - 1 did.",
            ),
            WrongAnswer(
                "the whole reward less each state's value",
                lambda **case: _learn(**case, how="whole"),
                "That is λ = 1: the mean is right, but the wording shares in every reward. What a "
                "step did is the difference of two values.",
            ),
            WrongAnswer(
                "every step paid with the sum",
                lambda **case: _learn(**case, total=True),
                "So all steps share one number again: reward less value of the prompt.",
            ),
            WrongAnswer(
                "rollouts from the prompt",
                lambda **case: _learn(**case, start=True),
                "Each value is to be that of the state before step i: keep what was chosen before.",
            ),
            WrongAnswer(
                "the response counted among its own rollouts",
                lambda **case: _learn(**case, own=True),
                "The value then leans towards what this response earned. Fresh rollouts only.",
            ),
        ),
    ),
}
