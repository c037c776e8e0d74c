"""The exercises of chapter 09: KL, the clipped objective, and a loop whose clip never acts.

Plain arrays. p, q are distributions [A]; ratios, advantages and log-probabilities are [T].
Answers in 32 bits count (``FLOAT32``): a reader who writes in torch gets them by default.
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def kl_divergence(p, q):
    """KL(p‖q) of two distributions [A], in nats; q > 0. What p never does adds nothing."""
    done = p > 0
    return float(np.sum(p[done] * np.log(p[done] / q[done])))


def k3_estimate(logprobs, ref_logprobs):
    """k3 for each sample from π [T]: an estimate of KL(π‖π_ref) that is never negative."""
    d = ref_logprobs - logprobs
    return np.expm1(d) - d


def clipped_objective(ratio, advantage, clip):
    """PPO's objective for each action [T]; it is to be made large."""
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    return np.minimum(ratio * advantage, clipped * advantage)


def clipped_slope(ratio, advantage, clip):
    """The derivative of the clipped objective by the ratio, for each action [T]."""
    too_good = (advantage > 0) & (ratio > 1 + clip)
    too_bad = (advantage < 0) & (ratio < 1 - clip)
    return np.where(too_good | too_bad, 0.0, advantage)


def explained_variance(values, targets):
    """1 - Var(targets - values) / Var(targets), both [T]."""
    return float(1 - np.var(targets - values) / np.var(targets))


def ppo_epochs(theta, actions, advantages, epochs, rate, clip):
    """The logits θ [A] after PPO's epochs over one batch of actions [M] of a one-state world."""
    theta = theta.copy()
    chosen = np.eye(len(theta))[actions]
    old = None
    for _ in range(epochs):
        log_pi = theta - np.log(np.exp(theta).sum())
        if old is None:
            old = log_pi[actions]  # once, before the first step
        ratio = np.exp(log_pi[actions] - old)
        too_good = (advantages > 0) & (ratio > 1 + clip)
        too_bad = (advantages < 0) & (ratio < 1 - clip)
        weight = np.where(too_good | too_bad, 0.0, advantages * ratio)
        score = chosen - np.exp(log_pi)  # the gradient of log π(a), row by row
        theta += rate * (weight[:, None] * score).mean(axis=0)
    return theta


def log_softmax(theta):
    """log π [A] of logits θ [A]."""
    shifted = theta - theta.max()
    return shifted - np.log(np.exp(shifted).sum())


def mean_score(theta, actions, weight):
    """The mean over the batch of weight · ∇ log π(a), with ∇ log π(a) = onehot(a) - π."""
    score = np.eye(len(theta))[actions] - np.exp(log_softmax(theta))
    return (weight[:, None] * score).mean(axis=0)


# --- cases -----------------------------------------------------------------------------------


def _distribution(rng, A):
    """Positive multiples of 1/20 that sum to 1."""
    return (1 + rng.multinomial(20 - A, np.full(A, 1 / A))) / 20


def _kl_cases(rng):
    # 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4) = log 2 / 2 + log(2/3) / 2 = 0.1438
    cases = [{"p": np.array([0.5, 0.5]), "q": np.array([0.25, 0.75])}]
    for A in (3, 4, 2, 5):
        cases.append({"p": _distribution(rng, A), "q": _distribution(rng, A)})
    cases.append({"p": np.array([0.0, 0.25, 0.75]), "q": np.array([0.5, 0.25, 0.25])})
    cases.append({"p": np.array([0.5, 0.0, 0.5]), "q": np.array([0.25, 0.25, 0.5])})
    return cases


def _estimate_cases(rng):
    # p = 1/2 under π, 1/4 and 1 under the reference: d = -log 2 and log 2;
    # 1/2 - 1 + log 2 = 0.1931 and 2 - 1 - log 2 = 0.3069
    half = np.log([0.5, 0.5])
    cases = [{"logprobs": half, "ref_logprobs": np.log([0.25, 1.0])}]
    for T in (3, 4, 6, 5, 2):
        logprobs = np.log(rng.integers(1, 10, size=T) / 10)
        cases.append(
            {"logprobs": logprobs, "ref_logprobs": np.log(rng.integers(1, 10, size=T) / 10)}
        )
    return cases


def _clip_cases(rng):
    # ε = 0.2. A = 2: ratios 0.5, 1, 1.5 give 1, 2 and 1.2·2 = 2.4 (clipped).
    # A = -2: they give 0.8·-2 = -1.6 (clipped), -2 and -3.
    cases = [
        {
            "ratio": np.array([0.5, 1.0, 1.5, 0.5, 1.0, 1.5]),
            "advantage": np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0]),
            "clip": 0.2,
        }
    ]
    for T, clip in ((4, 0.2), (6, 0.1), (5, 0.3), (8, 0.25), (7, 0.15)):
        ratio = rng.integers(1, 40, size=T) / 20 + 0.01  # never on an edge of the clip
        advantage = random_halves(rng, T)
        ratio[:2], advantage[:2] = [1.71, 0.31], [1.5, -1.5]
        cases.append({"ratio": ratio, "advantage": advantage, "clip": clip})
    return cases


def _variance_cases(rng):
    # errors 1, -1, 1, -1: variance 1; targets 0, 2, 4, 6: variance 5; 1 - 1/5 = 0.8
    cases = [{"values": np.array([-1.0, 3.0, 3.0, 7.0]), "targets": np.array([0.0, 2.0, 4.0, 6.0])}]
    for T in (3, 5, 6, 4, 7):
        targets = random_halves(rng, T)
        targets[0] += 0.5 + np.ptp(targets)  # never all equal
        cases.append({"values": targets + random_halves(rng, T) / 2 + 1.5, "targets": targets})
    return cases


def _epochs_cases(rng):
    cases = [
        {
            "theta": np.zeros(2), "actions": np.array([0, 1]),
            "advantages": np.array([1.0, -1.0]), "epochs": 3, "rate": 0.5, "clip": 0.2,
        }
    ]  # fmt: skip
    for A, M, epochs in ((3, 6, 4), (2, 5, 6), (4, 8, 5), (3, 4, 8), (2, 6, 5)):
        advantages = random_halves(rng, M) / 2
        advantages[:2] = [2.0, -2.0]
        cases.append(
            {
                "theta": random_halves(rng, A) / 4, "actions": rng.integers(A, size=M),
                "advantages": advantages, "epochs": epochs, "rate": 1.0, "clip": 0.1,
            }
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _kl_of_all(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sum(p * np.log(p / q)))


def _epochs_with(slope, *, old_once=True, by_ratio=True, step=1.0, reduce=1.0):
    """A maker of wrong loops: another slope, another moment for the old log-probabilities."""

    def answer(theta, actions, advantages, epochs, rate, clip):
        theta = theta.copy()
        old = log_softmax(theta)[actions]
        for _ in range(epochs):
            if not old_once:
                old = log_softmax(theta)[actions]
            ratio = np.exp(log_softmax(theta)[actions] - old)
            weight = slope(ratio, advantages, clip) * (ratio if by_ratio else 1.0)
            scale = len(actions) if reduce == "sum" else reduce
            theta = theta + step * rate * scale * mean_score(theta, actions, weight)
        return theta

    return answer


def _epochs_before(theta, actions, advantages, epochs, rate, clip):
    theta = theta.copy()
    old = log_softmax(theta)[actions]
    for _ in range(epochs):
        now = log_softmax(theta)[actions]
        ratio = np.exp(now - old)
        weight = clipped_slope(ratio, advantages, clip) * ratio
        theta = theta + rate * mean_score(theta, actions, weight)
        old = now
    return theta


def _two_sided(ratio, advantage, clip):
    return np.where(np.abs(ratio - 1) > clip, 0.0, advantage)


EXERCISES: dict[str, Exercise] = {
    "kl_divergence": Exercise(
        reference=kl_divergence,
        cases=_kl_cases,
        hint="For each action: how surprised is q compared with p? Average that over what p does.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the arguments exchanged",
                lambda p, q: kl_divergence(q[p > 0], p[p > 0]),
                "That is KL(q‖p). Which of the two distributions takes the mean?",
            ),
            WrongAnswer(
                "the sign turned round",
                lambda p, q: -kl_divergence(p, q),
                "A KL divergence is never negative. Which one stands in the numerator?",
            ),
            WrongAnswer(
                "bits instead of nats",
                lambda p, q: kl_divergence(p, q) / np.log(2),
                "Log-probabilities in this book are natural logarithms.",
            ),
            WrongAnswer(
                "the cross-entropy",
                lambda p, q: float(-np.sum(p * np.log(q))),
                "That is the surprise of q alone. What of it would p have had anyway?",
            ),
            WrongAnswer(
                "a plain mean over the actions",
                lambda p, q: float(np.mean(np.log(p[p > 0] / q[p > 0]))),
                "Every action counts the same here. How often does p take each?",
            ),
            WrongAnswer(
                "0 · log 0 left to the machine",
                _kl_of_all,
                "An action that p never takes adds 0, but 0 times minus infinity is not a number.",
            ),
        ),
    ),
    "k3_estimate": Exercise(
        reference=k3_estimate,
        cases=_estimate_cases,
        hint="Begin with d = log π_ref - log π. k3 adds to -d something whose mean under π is 0.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "d with its sign turned round",
                lambda logprobs, ref_logprobs: k3_estimate(ref_logprobs, logprobs),
                "This takes π in the numerator of e^d. The samples come from π: the ratio whose "
                "mean under π is 1 has something else on top.",
            ),
            WrongAnswer(
                "k1",
                lambda logprobs, ref_logprobs: logprobs - ref_logprobs,
                "That is unbiased as well, but it can be negative. What is missing?",
            ),
            WrongAnswer(
                "k2",
                lambda logprobs, ref_logprobs: (logprobs - ref_logprobs) ** 2 / 2,
                "That is never negative either, but its mean is not the KL.",
            ),
            WrongAnswer(
                "the sign of the log-ratio",
                lambda logprobs, ref_logprobs: (
                    np.expm1(ref_logprobs - logprobs) + (ref_logprobs - logprobs)
                ),
                "e^d - 1 is about d when d is small, so its slope must cancel d, not double it.",
            ),
            WrongAnswer(
                "the correction without the log-ratio",
                lambda logprobs, ref_logprobs: np.expm1(ref_logprobs - logprobs),
                "The mean of this under π is 0 whatever π_ref is. Where is the KL?",
            ),
            WrongAnswer(
                "the mean over the samples",
                lambda logprobs, ref_logprobs: float(k3_estimate(logprobs, ref_logprobs).mean()),
                "One number for each sample is asked for: in this book losses and estimates are "
                "not reduced.",
            ),
        ),
    ),
    "clipped_objective": Exercise(
        reference=clipped_objective,
        cases=_clip_cases,
        hint="Work out both products, with the ratio and with the clipped ratio. Which is the more "
        "pessimistic?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "only the clipped ratio",
                lambda ratio, advantage, clip: np.clip(ratio, 1 - clip, 1 + clip) * advantage,
                "Then an action that was made likelier by mistake is never pushed back. The paper "
                "takes a minimum of two.",
            ),
            WrongAnswer(
                "the larger of the two",
                lambda ratio, advantage, clip: np.maximum(
                    ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage
                ),
                "This promises more than either bound allows. Which choice is pessimistic?",
            ),
            WrongAnswer(
                "no clip",
                lambda ratio, advantage, clip: ratio * advantage,
                "That is the surrogate which TRPO maximises under a constraint. Where is the "
                "constraint here?",
            ),
            WrongAnswer(
                "the minimum of the ratios, not of the products",
                lambda ratio, advantage, clip: (
                    np.minimum(ratio, np.clip(ratio, 1 - clip, 1 + clip)) * advantage
                ),
                "For A < 0 the smaller ratio makes the larger product. Of which two numbers is the "
                "minimum taken?",
            ),
            WrongAnswer(
                "the product clipped, not the ratio",
                lambda ratio, advantage, clip: np.clip(ratio * advantage, 1 - clip, 1 + clip),
                "An advantage has no reason to lie near 1. What lies near 1 at the start?",
            ),
            WrongAnswer(
                "the loss, not the objective",
                lambda ratio, advantage, clip: -clipped_objective(ratio, advantage, clip),
                "Right but for the sign: this one is to be made small.",
            ),
            WrongAnswer(
                "the ratio clipped at ε, not around 1",
                lambda ratio, advantage, clip: np.minimum(
                    ratio * advantage, np.clip(ratio, -clip, clip) * advantage
                ),
                "The ratio begins at 1. Between which two numbers may it move?",
            ),
            WrongAnswer(
                "one number for the batch",
                lambda ratio, advantage, clip: float(
                    clipped_objective(ratio, advantage, clip).mean()
                ),
                "One number for each action is asked for; only aggregate reduces a loss.",
            ),
        ),
    ),
    "clipped_slope": Exercise(
        reference=clipped_slope,
        cases=_clip_cases,
        hint="Draw the objective over the ratio, once for A > 0 and once for A < 0. Where is it "
        "flat?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "flat on both sides",
                _two_sided,
                "Outside the clip the objective is flat on one side only. Take A > 0 and a ratio "
                "far below 1: which of the two products is smaller?",
            ),
            WrongAnswer(
                "flat on the wrong side",
                lambda ratio, advantage, clip: np.where(
                    ((advantage > 0) & (ratio < 1 - clip)) | ((advantage < 0) & (ratio > 1 + clip)),
                    0.0,
                    advantage,
                ),
                "These are the moves in the wrong direction, the ones that must be taken back.",
            ),
            WrongAnswer(
                "never flat",
                lambda ratio, advantage, clip: advantage + 0.0,
                "That is the slope without a clip.",
            ),
            WrongAnswer(
                "only the upper side",
                lambda ratio, advantage, clip: np.where(ratio > 1 + clip, 0.0, advantage),
                "For A < 0 the good direction is down. Where does that stop?",
            ),
            WrongAnswer(
                "the slope by log π, not by the ratio",
                lambda ratio, advantage, clip: clipped_slope(ratio, advantage, clip) * ratio,
                "d ratio / d log π is the ratio, and this has it already. By which variable is the "
                "derivative asked for?",
            ),
            WrongAnswer(
                "the slope of the loss",
                lambda ratio, advantage, clip: -clipped_slope(ratio, advantage, clip) + 0.0,
                "Right but for the sign: this belongs to the loss.",
            ),
        ),
    ),
    "explained_variance": Exercise(
        reference=explained_variance,
        cases=_variance_cases,
        hint="How much do the errors scatter, compared with the targets themselves?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "mean squared error instead of the variance of the error",
                lambda values, targets: float(
                    1 - np.mean((targets - values) ** 2) / np.var(targets)
                ),
                "A critic that is off by a constant ranks states as well as before: a variance "
                "does not see the constant.",
            ),
            WrongAnswer(
                "divided by the variance of the values",
                lambda values, targets: float(1 - np.var(targets - values) / np.var(values)),
                "What is to be explained: the scatter of the predictions or of the targets?",
            ),
            WrongAnswer(
                "the squared correlation",
                lambda values, targets: float(np.corrcoef(values, targets)[0, 1] ** 2),
                "A critic that is ten times too large has correlation 1 and explains nothing.",
            ),
            WrongAnswer(
                "the share that is left",
                lambda values, targets: float(np.var(targets - values) / np.var(targets)),
                "That is what the critic leaves unexplained.",
            ),
            WrongAnswer(
                "standard deviations instead of variances",
                lambda values, targets: float(1 - np.std(targets - values) / np.std(targets)),
                "Variances add up over independent causes, standard deviations do not.",
            ),
        ),
    ),
    "ppo_epochs": Exercise(
        reference=ppo_epochs,
        cases=_epochs_cases,
        hint="Print the ratios of the second epoch. What should have moved since the first, and "
        "what should have stayed?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "still the broken loop",
                _epochs_with(clipped_slope, old_once=False),
                "The old log-probabilities are taken anew in every epoch, so every ratio is 1 and "
                "the clip never acts.",
            ),
            WrongAnswer(
                "no clip at all",
                _epochs_with(lambda ratio, advantage, clip: advantage),
                "The ratio moves now, and nothing stops it. Where does the slope become 0?",
            ),
            WrongAnswer(
                "a clip that also stops moves in the wrong direction",
                _epochs_with(_two_sided),
                "A ratio on the wrong side of its clip must still be pushed back: take the slope "
                "of exercise 9.4.",
            ),
            WrongAnswer(
                "REINFORCE's weight, without the ratio",
                _epochs_with(clipped_slope, by_ratio=False),
                "The slope by the ratio has to be multiplied by d ratio / dθ = ratio · ∇ log π.",
            ),
            WrongAnswer(
                "the old log-probabilities of the epoch before",
                _epochs_before,
                "The ratio compares with the last epoch here. Which policy drew the actions?",
            ),
            WrongAnswer(
                "downhill",
                _epochs_with(clipped_slope, step=-1.0),
                "The objective is to be made large.",
            ),
            WrongAnswer(
                "the sum over the batch",
                _epochs_with(clipped_slope, reduce="sum"),
                "A step should not grow with the batch: take the mean.",
            ),
        ),
    ),
}
