"""The exercises of chapter 19: implicit rewards, DPO's loss and loop, where the mass goes, and KTO.

Plain arrays. Log-probabilities of whole responses are [B], of tokens [B, T], padded on the right
with junk that must not be looked at. Answers in 32 bits count (``FLOAT32``).
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def implicit_rewards(logprobs, ref_logprobs, mask, beta):
    """β log π(y)/π_ref(y) of each response [B]; the others [B, T], mask True at its tokens."""
    return beta * np.where(mask, logprobs - ref_logprobs, 0.0).sum(axis=1)


def dpo_losses(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    """DPO's loss of each pair [B], where a share ``smoothing`` of the labels may be flipped."""
    h = (chosen - ref_chosen) - (rejected - ref_rejected)
    right, flipped = np.logaddexp(0.0, -beta * h), np.logaddexp(0.0, beta * h)
    return (1 - smoothing) * right + smoothing * flipped


def train_on_pairs(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    """The logits [N, A] after gradient descent from the reference on DPO's mean loss."""
    logits, h_ref = ref_logits.copy(), ref_logits[prompts, chosen] - ref_logits[prompts, rejected]
    for _ in range(steps):
        h = logits[prompts, chosen] - logits[prompts, rejected] - h_ref
        weight = beta / (1 + np.exp(beta * h)) / len(prompts)  # β σ(-β h), of the mean
        np.add.at(logits, (prompts, chosen), rate * weight)  # adds up where a cell comes twice
        np.add.at(logits, (prompts, rejected), -rate * weight)
    return logits


def answer_slopes(unembedding, hidden, chosen, rejected):
    """How fast each log π(a) [A] moves when ``hidden`` follows log π(chosen) - log π(rejected)."""
    scores = unembedding @ hidden
    p = np.exp(scores - scores.max())
    p = p / p.sum()
    along = unembedding @ (unembedding[chosen] - unembedding[rejected])
    return along - p @ along


def kto_losses(logprobs, ref_logprobs, desirable, beta, reference_point):
    """KTO's loss of each response [B], with both weights 1; desirable [B] is bool."""
    surplus = beta * (logprobs - ref_logprobs - reference_point)
    return 1 / (1 + np.exp(np.where(desirable, surplus, -surplus)))


# --- cases -----------------------------------------------------------------------------------


def _implicit_cases(rng):
    # log-ratios log 2 and log 3, the third is padding: 1/2 · log 6.
    cases = [
        {
            "logprobs": np.log([[0.5, 0.6, 0.9]]), "ref_logprobs": np.log([[0.25, 0.2, 0.1]]),
            "mask": np.array([[True, True, False]]), "beta": 0.5,
        }
    ]  # fmt: skip
    for B, T, beta in ((2, 3, 0.1), (3, 4, 2.0), (4, 5, 0.25), (5, 3, 0.5), (3, 6, 1.5)):
        lengths = rng.integers(1, T + 1, size=B)
        lengths[0], lengths[1] = T, T - 1
        pieces = -rng.integers(1, 12, size=(2, B, T)) / 4
        cases.append(
            {
                "logprobs": pieces[0], "ref_logprobs": pieces[1],
                "mask": np.arange(T) < lengths[:, None], "beta": beta,
            }
        )  # fmt: skip
    junk = [
        case | {name: np.where(case["mask"], case[name], np.nan)}
        for case, name in ((cases[2], "logprobs"), (cases[4], "ref_logprobs"))
    ]
    return [*cases, *junk]


def _loss_cases(rng):
    # h = (-1 + 2) - (-3 + 3) = 1 and β = log 3: σ = 3/4, so -log 3/4. Then a fifth flipped.
    first = {
        "chosen": np.array([-1.0]), "rejected": np.array([-3.0]), "ref_chosen": np.array([-2.0]),
        "ref_rejected": np.array([-3.0]), "beta": float(np.log(3.0)),
    }  # fmt: skip
    cases = [first | {"smoothing": 0.0}, first | {"smoothing": 0.2}]
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
    for B, beta, smoothing in ((3, 0.1, 0.1), (4, 0.5, 0.0), (5, 2.0, 0.25), (3, 1.0, 0.4)):
        rows = -np.abs(random_halves(rng, (4, B)))
        cases.append(dict(zip(names, rows, strict=True), beta=beta, smoothing=smoothing))
    far = np.array([-1500.0, -10.0]), np.array([-10.0, -1500.0]), np.zeros(2), np.zeros(2)
    far = dict(zip(names, far, strict=True), beta=1.0)
    return [*cases, far | {"smoothing": 0.0}, far | {"smoothing": 0.1}]


def _train_cases(rng):
    # One pair, β = 2, rate 1/2, one step from h = 0: the weight is 2 · 1/2, so a half up and down.
    cases = [
        {
            "ref_logits": np.array([[1.0, 0.0]]), "prompts": np.array([0]),
            "chosen": np.array([1]), "rejected": np.array([0]), "beta": 2.0, "rate": 0.5,
            "steps": 1,
        }
    ]  # fmt: skip
    for N, A, B, beta, rate, steps in (
        (1, 3, 2, 1.0, 0.5, 2), (2, 3, 4, 0.5, 1.0, 3), (3, 4, 6, 2.0, 0.5, 4),
        (2, 4, 8, 0.1, 2.0, 6), (3, 3, 9, 1.5, 1.0, 5),
    ):  # fmt: skip
        chosen = rng.integers(A, size=B)
        prompts = rng.integers(N, size=B)
        prompts[0] = prompts[-1]  # one cell twice
        chosen[0] = chosen[-1]
        cases.append(
            {
                "ref_logits": random_halves(rng, (N, A)) / 2, "prompts": prompts, "chosen": chosen,
                "rejected": (chosen + rng.integers(1, A, size=B)) % A, "beta": beta,
                "rate": rate, "steps": steps,
            }
        )  # fmt: skip
    return cases


def _slope_cases(rng):
    # hidden 0: p = 1/3 each. Direction (1, 0): products 1, 0, 2 with mean 1.
    cases = [
        {
            "unembedding": np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]]), "hidden": np.zeros(2),
            "chosen": 0, "rejected": 1,
        }
    ]  # fmt: skip
    for A, d in ((3, 2), (4, 2), (4, 3), (5, 3), (6, 4)):
        chosen = int(rng.integers(A))
        cases.append(
            {
                "unembedding": random_halves(rng, (A, d)) / 4, "hidden": random_halves(rng, d) / 4,
                "chosen": chosen, "rejected": int((chosen + rng.integers(1, A)) % A),
            }
        )  # fmt: skip
    return cases


def _kto_cases(rng):
    # β (log-ratio - z) = log 3 · (2 - 1): 1 - 3/4 if good, 3/4 if bad.
    cases = [
        {
            "logprobs": np.array([-1.0, -1.0]), "ref_logprobs": np.array([-3.0, -3.0]),
            "desirable": np.array([True, False]), "beta": float(np.log(3.0)),
            "reference_point": 1.0,
        }
    ]  # fmt: skip
    for B, beta, z in ((2, 1.5, 1.0), (3, 0.5, 0.5), (4, 0.1, 2.0), (5, 1.0, 0.25), (6, 2.0, 1.5)):
        desirable = rng.random(B) < 0.5
        desirable[:2] = True, False
        rows = -np.abs(random_halves(rng, (2, B)))
        cases.append(
            {
                "logprobs": rows[0], "ref_logprobs": rows[1], "desirable": desirable,
                "beta": beta, "reference_point": z,
            }
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _mean_over_tokens(logprobs, ref_logprobs, mask, beta):
    x = np.where(mask, logprobs - ref_logprobs, 0.0)
    return beta * x.sum(axis=1) / mask.sum(axis=1)


def _mean_over_columns(logprobs, ref_logprobs, mask, beta):
    return beta * np.where(mask, logprobs - ref_logprobs, 0.0).mean(axis=1)


def _padding_too(logprobs, ref_logprobs, mask, beta):
    return beta * (logprobs - ref_logprobs).sum(axis=1)


def _without_reference(logprobs, ref_logprobs, mask, beta):
    return beta * np.where(mask, logprobs, 0.0).sum(axis=1)


def _ratio_turned(logprobs, ref_logprobs, mask, beta):
    return -implicit_rewards(logprobs, ref_logprobs, mask, beta)


def _divided_by_beta(logprobs, ref_logprobs, mask, beta):
    return implicit_rewards(logprobs, ref_logprobs, mask, 1 / beta)


def _ratio_of_log_probabilities(logprobs, ref_logprobs, mask, beta):
    ones = np.where(mask, logprobs, 0.0).sum(axis=1)
    return beta * ones / np.where(mask, ref_logprobs, 0.0).sum(axis=1)


def _masked_by_product(logprobs, ref_logprobs, mask, beta):
    return beta * ((logprobs - ref_logprobs) * mask).sum(axis=1)


def _loss_with(margin, scaled=lambda beta, h: beta * h):
    """A maker of wrong losses: another h of (chosen, rejected, their references)."""

    def answer(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
        x = scaled(beta, margin(chosen, rejected, ref_chosen, ref_rejected))
        right, flipped = np.logaddexp(0.0, -x), np.logaddexp(0.0, x)
        return (1 - smoothing) * right + smoothing * flipped

    return answer


def _margin(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def _overflowing(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    with np.errstate(all="ignore"):
        sigma = 1 / (1 + np.exp(-beta * _margin(chosen, rejected, ref_chosen, ref_rejected)))
        return -(1 - smoothing) * np.log(sigma) - smoothing * np.log(1 - sigma)


def _not_smoothed(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    return dpo_losses(chosen, rejected, ref_chosen, ref_rejected, beta, 0.0)


def _flipped_on_top(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    h = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    return np.logaddexp(0.0, -h) + smoothing * np.logaddexp(0.0, h)


def _likelihood(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    return -dpo_losses(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing)


def _train_with(weight, moving=False, swapped=False, total=False):
    """A maker of wrong loops: another weight of (β, h); a reference that moves; labels swapped."""

    def answer(ref_logits, prompts, chosen, rejected, beta, rate, steps):
        first, second = (rejected, chosen) if swapped else (chosen, rejected)
        logits, ref = ref_logits.copy(), ref_logits.copy()
        for _ in range(steps):
            own, base = (x[prompts, first] - x[prompts, second] for x in (logits, ref))
            by = rate * weight(beta, own - base) / (1 if total else len(prompts))
            np.add.at(logits, (prompts, first), by)
            np.add.at(logits, (prompts, second), -by)
            if moving:
                ref = logits.copy()
        return logits

    return answer


def _sigma(x):
    return 1 / (1 + np.exp(-x))


def _chosen_alone(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    logits = ref_logits.copy()
    h_ref = logits[prompts, chosen] - logits[prompts, rejected]
    for _ in range(steps):
        h = logits[prompts, chosen] - logits[prompts, rejected] - h_ref
        np.add.at(logits, (prompts, chosen), rate * beta * _sigma(-beta * h) / len(prompts))
    return logits


def _no_reference(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    logits = ref_logits.copy()
    for _ in range(steps):
        h = logits[prompts, chosen] - logits[prompts, rejected]
        by = rate * beta * _sigma(-beta * h) / len(prompts)
        np.add.at(logits, (prompts, chosen), by)
        np.add.at(logits, (prompts, rejected), -by)
    return logits


def _once_per_cell(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    logits = ref_logits.copy()
    h_ref = logits[prompts, chosen] - logits[prompts, rejected]
    for _ in range(steps):
        h = logits[prompts, chosen] - logits[prompts, rejected] - h_ref
        by = rate * beta * _sigma(-beta * h) / len(prompts)
        logits[prompts, chosen] += by
        logits[prompts, rejected] -= by
    return logits


def _pair_by_pair(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    logits = ref_logits.copy()
    for _ in range(steps):
        for x, w, loser in zip(prompts, chosen, rejected, strict=True):
            h = (logits[x, w] - logits[x, loser]) - (ref_logits[x, w] - ref_logits[x, loser])
            by = rate * beta * _sigma(-beta * h) / len(prompts)
            logits[x, w] += by
            logits[x, loser] -= by
    return logits


def _slopes_with(mean=True, towards=lambda W, w, other: W[w] - W[other], weights=None):
    """A maker of wrong slopes: no mean taken away, another direction, other weights of the mean."""

    def answer(unembedding, hidden, chosen, rejected):
        scores = unembedding @ hidden
        p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        p = p if weights is None else weights(p)
        along = unembedding @ towards(unembedding, chosen, rejected)
        return along - p @ along if mean else along

    return answer


def _of_probabilities(unembedding, hidden, chosen, rejected):
    scores = unembedding @ hidden
    p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return p * answer_slopes(unembedding, hidden, chosen, rejected)


def _free_logits(unembedding, hidden, chosen, rejected):
    scores = unembedding @ hidden
    p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    moved = np.zeros(len(p))
    moved[chosen], moved[rejected] = 1.0, -1.0
    return moved - p @ moved


def _kto_with(x, loss=lambda surplus: 1 - _sigma(surplus), bad=lambda s: -s):
    """A maker of wrong KTO losses: another surplus of (logprobs, ref, β, z), loss, or bad side."""

    def answer(logprobs, ref_logprobs, desirable, beta, reference_point):
        surplus = x(logprobs, ref_logprobs, beta, reference_point)
        return loss(np.where(desirable, surplus, bad(surplus)))

    return answer


def _surplus(logprobs, ref_logprobs, beta, z):
    return beta * (logprobs - ref_logprobs - z)


def _z_for_good_alone(logprobs, ref_logprobs, desirable, beta, reference_point):
    ratio = logprobs - ref_logprobs
    return 1 - _sigma(beta * np.where(desirable, ratio - reference_point, -ratio))


def _z_both_ways(logprobs, ref_logprobs, desirable, beta, reference_point):
    ratio = logprobs - ref_logprobs
    signed = np.where(desirable, ratio, -ratio) - reference_point
    return 1 - _sigma(beta * signed)


EXERCISES: dict[str, Exercise] = {
    "implicit_rewards": Exercise(
        reference=implicit_rewards,
        cases=_implicit_cases,
        hint="The probability of a response is a product over its tokens, so its logarithm is a "
        "sum. Take out the padding by where, not by a product: NaN times 0 is NaN.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the mean over the tokens",
                _mean_over_tokens,
                "π(y) is a product over all tokens: its logarithm is their sum. A mean is the "
                "reward of another method.",
            ),
            WrongAnswer(
                "the mean over the columns",
                _mean_over_columns,
                "The width of the batch has no place in a probability: take the sum.",
            ),
            WrongAnswer(
                "the padding scored too",
                _padding_too,
                "Look at the last column of the first case: the mask is False there.",
            ),
            WrongAnswer(
                "the log-probability alone",
                _without_reference,
                "Where does the reference come in? A policy that has not moved has the reward 0.",
            ),
            WrongAnswer(
                "the ratio turned over",
                _ratio_turned,
                "What the policy says more often than the reference has a positive reward.",
            ),
            WrongAnswer(
                "a log-ratio divided by β",
                _divided_by_beta,
                "β is the price of a nat in units of reward: nats times β are reward.",
            ),
            WrongAnswer(
                "a ratio of logarithms",
                _ratio_of_log_probabilities,
                "The logarithm of a ratio is a difference of logarithms.",
            ),
            WrongAnswer(
                "a mask by multiplication",
                _masked_by_product,
                "Right until the padding holds a NaN: then NaN times 0 is NaN. Use where.",
            ),
        ),
    ),
    "dpo_losses": Exercise(
        reference=dpo_losses,
        cases=_loss_cases,
        hint="First h, from two log-ratios. Then the loss is log(1 + exp(-βh)), which logaddexp "
        "gives for any size; a flipped label turns the sign of h.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a loss that overflows",
                _overflowing,
                "Right until βh is large: then σ is 0 or 1 to the last digit, and the logarithm "
                "is lost. Use logaddexp.",
            ),
            WrongAnswer(
                "the reference forgotten",
                _loss_with(lambda w, other, ref_w, ref_other: w - other),
                "Without the reference nothing holds the policy where it was.",
            ),
            WrongAnswer(
                "chosen and rejected swapped",
                _loss_with(lambda w, other, ref_w, ref_other: -_margin(w, other, ref_w, ref_other)),
                "This teaches what people liked less.",
            ),
            WrongAnswer(
                "the reference's margin added",
                _loss_with(lambda w, other, ref_w, ref_other: w - other + ref_w - ref_other),
                "A log-ratio is log π minus log π_ref, for both responses: watch the signs.",
            ),
            WrongAnswer(
                "β left out",
                _loss_with(_margin, lambda beta, h: h),
                "This is the loss for β = 1: the implicit reward is β times a log-ratio.",
            ),
            WrongAnswer(
                "β as a divisor",
                _loss_with(_margin, lambda beta, h: h / beta),
                "The implicit reward is β times the log-ratio.",
            ),
            WrongAnswer(
                "a loss without the flipped labels",
                _not_smoothed,
                "A share of the labels is believed to be wrong: for these the other response won.",
            ),
            WrongAnswer(
                "the flipped labels on top",
                _flipped_on_top,
                "Shares add up to 1: what is flipped is missing from the others.",
            ),
            WrongAnswer(
                "a likelihood instead of a loss",
                _likelihood,
                "A loss is made small, a likelihood large: turn the sign.",
            ),
        ),
    ),
    "train_on_pairs": Exercise(
        reference=train_on_pairs,
        cases=_train_cases,
        hint="Look at the names logits and ref_logits in the broken loop: how many arrays are "
        "there? Then use add.at, because a cell may come twice in a batch.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a reference that moves along",
                _train_with(lambda beta, h: beta * _sigma(-beta * h), moving=True),
                "With it h is 0 at every step and the weight is β/2 for ever. The reference is a "
                "copy of the first logits.",
            ),
            WrongAnswer(
                "no reference at all",
                _no_reference,
                "h is the margin minus the reference's margin.",
            ),
            WrongAnswer(
                "chosen and rejected swapped",
                _train_with(lambda beta, h: beta * _sigma(-beta * h), swapped=True),
                "The chosen answers become rarer. Which of them should go up?",
            ),
            WrongAnswer(
                "a loss that is climbed",
                _train_with(lambda beta, h: -beta * _sigma(-beta * h)),
                "Descent goes against the gradient of the loss: the chosen logit goes up.",
            ),
            WrongAnswer(
                "σ of the wrong sign",
                _train_with(lambda beta, h: beta * _sigma(beta * h)),
                "The weight is large where the pair is in the wrong order: σ(-βh).",
            ),
            WrongAnswer(
                "a gradient without its β",
                _train_with(lambda beta, h: _sigma(-beta * h)),
                "The chain rule brings β out of the sigmoid.",
            ),
            WrongAnswer(
                "the sum over the pairs",
                _train_with(lambda beta, h: beta * _sigma(-beta * h), total=True),
                "The loss is a mean over the pairs: divide by their number.",
            ),
            WrongAnswer(
                "the chosen answer alone",
                _chosen_alone,
                "The gradient has two parts: up for the one, down for the other.",
            ),
            WrongAnswer(
                "a cell that counts once",
                _once_per_cell,
                "Where two pairs share a prompt and an answer, += with index arrays adds only the "
                "last one. Use add.at.",
            ),
            WrongAnswer(
                "one update per pair",
                _pair_by_pair,
                "All pairs of a step see the same logits: first all weights, then the update.",
            ),
        ),
    ),
    "answer_slopes": Exercise(
        reference=answer_slopes,
        cases=_slope_cases,
        hint="The gradient of log π(w) - log π(l) in the hidden vector is a difference of two "
        "rows. Each score moves by its product with that; log π is a score minus the log of a sum.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the slopes of the scores",
                _slopes_with(mean=False),
                "log π is a score minus log Σ exp(scores), and that moves too.",
            ),
            WrongAnswer(
                "a plain mean taken away",
                _slopes_with(weights=lambda p: np.full_like(p, 1 / len(p))),
                "The slope of log Σ exp(scores) is a mean under π, not over the answers.",
            ),
            WrongAnswer(
                "chosen and rejected swapped",
                _slopes_with(towards=lambda W, w, other: W[other] - W[w]),
                "The hidden vector moves towards the chosen row and away from the rejected one.",
            ),
            WrongAnswer(
                "the chosen row alone",
                _slopes_with(towards=lambda W, w, other: W[w]),
                "The margin has two parts: the rejected row pushes as well.",
            ),
            WrongAnswer(
                "the slopes of the probabilities",
                _of_probabilities,
                "Asked for is the slope of the logarithm: not multiplied by π.",
            ),
            WrongAnswer(
                "a table without a hidden vector",
                _free_logits,
                "This moves two scores and leaves the others. Here all scores are made of one "
                "hidden vector, so all of them move.",
            ),
        ),
    ),
    "kto_losses": Exercise(
        reference=kto_losses,
        cases=_kto_cases,
        hint="One number, β times (log-ratio minus z), and its sign turned for a bad response.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the same loss for good and bad",
                _kto_with(_surplus, bad=lambda surplus: surplus),
                "A bad response should become rarer: turn the sign for it.",
            ),
            WrongAnswer(
                "good and bad exchanged",
                _kto_with(lambda *args: -_surplus(*args)),
                "For a good response the loss falls as it becomes likelier.",
            ),
            WrongAnswer(
                "z forgotten",
                _kto_with(lambda own, ref, beta, z: beta * (own - ref)),
                "A response counts as a gain only beyond the reference point.",
            ),
            WrongAnswer(
                "z on the wrong side of a bad response",
                _z_both_ways,
                "Turn the sign of the whole: z minus the log-ratio, not minus both.",
            ),
            WrongAnswer(
                "z for the good responses alone",
                _z_for_good_alone,
                "Both kinds are measured from the reference point.",
            ),
            WrongAnswer(
                "z outside β",
                _kto_with(lambda own, ref, beta, z: beta * (own - ref) - z),
                "z is in nats, as the log-ratio is: β multiplies both.",
            ),
            WrongAnswer(
                "a logarithm taken",
                _kto_with(_surplus, loss=lambda s: np.logaddexp(0.0, -s)),
                "That is DPO's loss. KTO's is 1 - σ itself, which flattens on both sides.",
            ),
            WrongAnswer(
                "the reference forgotten",
                _kto_with(lambda own, ref, beta, z: beta * (own - z)),
                "What counts is the log-ratio to the reference.",
            ),
        ),
    ),
}
