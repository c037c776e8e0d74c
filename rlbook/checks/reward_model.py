"""The exercises of chapter 14: what a comparison teaches, and how to judge what was learnt.

Plain arrays. Scores r are numbers, one per response; "first" in a ranking is best. Padding holds
junk that must not be looked at.
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import Exercise, WrongAnswer


def pair_loss(chosen, rejected, margin):
    """Bradley-Terry's loss of each pair [B], -log σ(r_w - r_l - m)."""
    return np.logaddexp(0.0, -(chosen - rejected - margin))  # log(1 + e^-x), of any size


def ranking_loss(scores, counts):
    """The mean pair loss of each prompt [N]; scores [N, K] best first, counts [N] are real."""
    losses = []
    for row, count in zip(scores, counts, strict=True):
        pairs = [
            np.logaddexp(0.0, row[j] - row[i]) for i in range(count) for j in range(i + 1, count)
        ]
        losses.append(np.mean(pairs))
    return np.array(losses)


def last_scores(values, response_mask):
    """The number at the last response token [B]; values [B, P + T], response_mask [B, T]."""
    prompt = values.shape[1] - response_mask.shape[1]
    last = prompt + response_mask.sum(axis=1) - 1
    return values[np.arange(len(values)), last]


def calibration_error(p, happened, bins):
    """Mean distance of predicted and seen share over bins of equal width, weighted by counts."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - happened[inside].mean())
    return float(error)


def fit_reward(features, pairs, steps, rate):
    """Weights [d] of a linear reward after gradient descent from 0 on the mean pair loss."""
    difference = features[pairs[:, 0]] - features[pairs[:, 1]]
    w = np.zeros(features.shape[1])
    for _ in range(steps):
        surprise = 1 / (1 + np.exp(difference @ w))  # σ(-gap): small where the pair is in order
        w = w + rate * (surprise[:, None] * difference).mean(axis=0)
    return w


# --- cases -----------------------------------------------------------------------------------


def _pair_cases(rng):
    # Odds 3: -log 3/4; then a margin of log 3 leaves nothing of the lead: log 2.
    lead = np.log(3.0)
    cases = [
        {"chosen": np.array([lead]), "rejected": np.zeros(1), "margin": np.zeros(1)},
        {"chosen": np.array([lead]), "rejected": np.zeros(1), "margin": np.array([lead])},
    ]
    for B in (3, 4, 5, 6):
        margin = rng.integers(1, 4, size=B) / 2
        cases.append(
            {"chosen": random_halves(rng, B), "rejected": random_halves(rng, B), "margin": margin}
        )
    far = {"chosen": np.array([-900.0, 900.0]), "rejected": np.zeros(2), "margin": np.ones(2)}
    high = {"chosen": np.zeros(1), "rejected": np.array([800.0]), "margin": np.zeros(1)}
    return [*cases, far, high]


def _ranking_cases(rng):
    # scores log 4, log 2, 0: the pairs have odds 2, 4 and 2
    cases = [{"scores": np.log([[4.0, 2.0, 1.0]]), "counts": np.array([3])}]
    for N, K in ((2, 4), (3, 5), (2, 6), (4, 4), (3, 9)):
        counts = rng.integers(2, K, size=N)
        counts[0], counts[1] = K, 3
        scores = random_halves(rng, (N, K)) / 2
        cases.append({"scores": scores, "counts": counts})
    return cases


def _score_cases(rng):
    # A prompt of two columns; the responses have 1 and 3 tokens.
    cases = [
        {
            "values": np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]]),
            "response_mask": np.array([[True, False, False], [True, True, True]]),
        }
    ]
    for B, P, T in ((2, 3, 4), (3, 1, 5), (4, 5, 3), (3, 2, 6), (5, 4, 4)):
        lengths = rng.integers(1, T, size=B)
        lengths[0], lengths[1] = T, 2
        values = rng.permutation(B * (P + T)).reshape(B, P + T).astype(float) + 0.5
        cases.append({"values": values, "response_mask": np.arange(T) < lengths[:, None]})
    return cases


def _calibration_cases(rng):
    # bin [0, ½): mean 0.3 against 1/2, two of three; bin [½, 1]: 0.9 against 1.
    # (2 · 0.2 + 0.1) / 3 = 1/6
    cases = [{"p": np.array([0.2, 0.4, 0.9]), "happened": np.array([0.0, 1.0, 1.0]), "bins": 2}]
    for n, bins in ((12, 2), (20, 5), (30, 4), (25, 10), (40, 5)):
        # Off the edges, whose last digit depends on how they are computed; 0, 1/2 and 1 do not.
        p = (rng.integers(0, 40, size=n) + 0.5) / 40
        happened = (rng.random(n) < p**2).astype(float)
        p[:2], happened[:2] = (1.0, 0.0), (0.0, 1.0)
        if bins % 2 == 0:
            p[2], happened[2] = 0.5, 0.0
        cases.append({"p": p, "happened": happened, "bins": bins})
    return cases


def _fit_cases(rng):
    # One pair, one feature, one step: half of the difference.
    cases = [
        {
            "features": np.array([[1.0], [0.0]]), "pairs": np.array([[0, 1]]), "steps": 1,
            "rate": 1.0,
        }
    ]  # fmt: skip
    for texts, d, n, steps, rate in ((4, 2, 5, 2, 1.0), (5, 3, 8, 4, 0.5), (4, 2, 6, 10, 1.0),
                                     (6, 3, 9, 3, 2.0), (6, 4, 12, 5, 0.5)):  # fmt: skip
        first = rng.integers(texts, size=n)
        pairs = np.stack([first, (first + rng.integers(1, texts, size=n)) % texts], axis=1)
        cases.append(
            {"features": random_halves(rng, (texts, d)) / 4, "pairs": pairs, "steps": steps,
             "rate": rate}
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def soft(x):
    """log(1 + e^x)."""
    return np.logaddexp(0.0, x)


def _naive(chosen, rejected, margin):
    with np.errstate(over="ignore", divide="ignore"):
        return -np.log(1 / (1 + np.exp(-(chosen - rejected - margin))))


def _over_rankings(of_row):
    """A maker of wrong losses: ``of_row`` gives the loss of one row of real scores."""

    def answer(scores, counts):
        return np.array([of_row(row[:n]) for row, n in zip(scores, counts, strict=True)])

    return answer


def _pairs(row):
    first, second = np.triu_indices(len(row), 1)
    return soft(row[second] - row[first])


def _plackett_luce(row):
    left = np.logaddexp.accumulate(row[::-1])[::-1]
    return (left - row).sum()


def _binned(p, happened, bins, *, weigh=True, middle=False, square=False, last=True):
    place = (p * bins).astype(int)
    place = np.minimum(place, bins - 1) if last else place
    errors, weights = [], []
    for b in np.unique(place[place < bins]):
        inside = place == b
        said = (b + 0.5) / bins if middle else p[inside].mean()
        gap = said - happened[inside].mean()
        errors.append(gap**2 if square else abs(gap))
        weights.append(inside.mean())
    if weigh:  # not np.average: where p = 1 falls out, the weights do not add up to 1
        return float(np.dot(errors, weights))
    return float(np.mean(errors))


def _fitting(weight, *, summed=False, flip=False):
    """A maker of wrong loops: ``weight`` of the gap is how hard a pair is pushed."""

    def answer(features, pairs, steps, rate):
        difference = features[pairs[:, 0]] - features[pairs[:, 1]]
        difference = -difference if flip else difference
        w = np.zeros(features.shape[1])
        for _ in range(steps):
            push = weight(difference @ w)[:, None] * difference
            w = w + rate * (push.sum(axis=0) if summed else push.mean(axis=0))
        return w

    return answer


def sigmoid(x):
    """1 / (1 + e^-x), of any size."""
    return np.exp(-np.logaddexp(0.0, -x))


EXERCISES: dict[str, Exercise] = {
    "pair_loss": Exercise(
        reference=pair_loss,
        cases=_pair_cases,
        hint="Minus the logarithm of a sigmoid is log(1 + e to the minus lead). NumPy has a "
        "function for the logarithm of a sum of exponentials that does not overflow.",
        wrong_answers=(
            WrongAnswer(
                "the margin added",
                lambda chosen, rejected, margin: soft(-(chosen - rejected + margin)),
                "A margin makes more demands. Here a large one makes the loss smaller.",
            ),
            WrongAnswer(
                "the margin forgotten",
                lambda chosen, rejected, margin: soft(-(chosen - rejected)),
                "How far apart should the two scores be before the loss is content?",
            ),
            WrongAnswer(
                "chosen and rejected exchanged",
                lambda chosen, rejected, margin: soft(-(rejected - chosen - margin)),
                "This is small where the rejected response has the higher score.",
            ),
            WrongAnswer(
                "the log-probability instead of the loss",
                lambda chosen, rejected, margin: -pair_loss(chosen, rejected, margin),
                "A loss is to be made small, and a log-probability large.",
            ),
            WrongAnswer(
                "the logarithm of a number that has become 0",
                _naive,
                "Your formula is right and overflows where the wrong response leads by far. Write "
                "it without taking the logarithm of the sigmoid.",
            ),
            WrongAnswer(
                "a probability without its logarithm",
                lambda chosen, rejected, margin: sigmoid(-(chosen - rejected - margin)),
                "This is the probability of the other choice. The loss is minus the logarithm of "
                "the probability of this one.",
            ),
            WrongAnswer(
                "the mean of the batch",
                lambda chosen, rejected, margin: pair_loss(chosen, rejected, margin).mean(),
                "One number per pair is asked for.",
            ),
        ),
    ),
    "ranking_loss": Exercise(
        reference=ranking_loss,
        cases=_ranking_cases,
        hint="Two loops, over the better and the worse one of a pair, within the real columns of a "
        "row. How many pairs are there, and by what do you divide?",
        wrong_answers=(
            WrongAnswer(
                "the sum over pairs",
                _over_rankings(lambda row: _pairs(row).sum()),
                "A prompt with nine responses has 36 pairs and would count 36 times as much as a "
                "single pair.",
            ),
            WrongAnswer(
                "neighbours alone",
                _over_rankings(lambda row: soft(row[1:] - row[:-1]).mean()),
                "The best is also preferred to the third, and to the last.",
            ),
            WrongAnswer(
                "the best against the rest",
                _over_rankings(lambda row: soft(row[1:] - row[0]).mean()),
                "The order among the others is in the ranking too.",
            ),
            WrongAnswer(
                "Plackett and Luce's loss",
                _over_rankings(_plackett_luce),
                "That is the surprise of the whole ranking, as choices of the best of what is "
                "left. Here each pair counts by itself.",
            ),
            WrongAnswer(
                "the padding ranked too",
                lambda scores, counts: np.array([_pairs(row).mean() for row in scores]),
                "Columns from the count on hold junk.",
            ),
            WrongAnswer(
                "the worst taken for the best",
                _over_rankings(lambda row: _pairs(row[::-1]).mean()),
                "Column 0 was liked best. Which of the two scores should be higher?",
            ),
            WrongAnswer(
                "the mean over all K² cells",
                _over_rankings(lambda row: _pairs(row).sum() / len(row) ** 2),
                "Divide by the number of pairs. A response is not compared with itself, and no "
                "pair counts twice.",
            ),
        ),
    ),
    "last_scores": Exercise(
        reference=last_scores,
        cases=_score_cases,
        hint="Count: how many columns has the prompt, and how many tokens this response? The last "
        "of them stands in which column?",
        wrong_answers=(
            WrongAnswer(
                "the last column",
                lambda values, response_mask: values[:, -1],
                "Responses are padded on the right. What stands in the last column of a short one?",
            ),
            WrongAnswer(
                "the prompt forgotten",
                lambda values, response_mask: values[
                    np.arange(len(values)), response_mask.sum(axis=1) - 1
                ],
                "This counts from the first column, and there the prompt begins.",
            ),
            WrongAnswer(
                "one token early",
                lambda values, response_mask: values[
                    np.arange(len(values)),
                    values.shape[1] - response_mask.shape[1] + response_mask.sum(axis=1) - 2,
                ],
                "This is read before the last token was. The EOS belongs to the response.",
            ),
            WrongAnswer(
                "the end of the prompt",
                lambda values, response_mask: values[
                    :, values.shape[1] - response_mask.shape[1] - 1
                ],
                "There the model has not seen any of the response.",
            ),
            WrongAnswer(
                "the mean over the response",
                lambda values, response_mask: (
                    (values[:, -response_mask.shape[1] :] * response_mask).sum(axis=1)
                    / response_mask.sum(axis=1)
                ),
                "One place has seen the whole response. Which?",
            ),
        ),
    ),
    "calibration_error": Exercise(
        reference=calibration_error,
        cases=_calibration_cases,
        hint="For each bin: which pairs are in it, what was predicted for them on the average, and "
        "how often did it happen? A bin counts by its share of the pairs.",
        wrong_answers=(
            WrongAnswer(
                "every bin alike",
                lambda p, happened, bins: _binned(p, happened, bins, weigh=False),
                "A bin with one pair in it says little. Weigh the bins by their pairs.",
            ),
            WrongAnswer(
                "the middle of the bin",
                lambda p, happened, bins: _binned(p, happened, bins, middle=True),
                "Compare with what was predicted inside the bin, not with the bin's middle.",
            ),
            WrongAnswer(
                "the square",
                lambda p, happened, bins: _binned(p, happened, bins, square=True),
                "The distance itself is asked for.",
            ),
            WrongAnswer(
                "p = 1 in no bin",
                lambda p, happened, bins: _binned(p, happened, bins, last=False),
                "A prediction of exactly 1 belongs to the last bin. Yours falls out of them all.",
            ),
            WrongAnswer(
                "no bins at all",
                lambda p, happened, bins: float(abs(p.mean() - happened.mean())),
                "Too sure here and too unsure there cancel in this. Take the distance per bin.",
            ),
            WrongAnswer(
                "the distance of each pair",
                lambda p, happened, bins: float(np.abs(p - happened).mean()),
                "A coin that is called at one half is perfectly calibrated, and yet each throw is "
                "one half away. Average first, within the bin.",
            ),
        ),
    ),
    "fit_reward": Exercise(
        reference=fit_reward,
        cases=_fit_cases,
        hint="Differentiate -log σ(gap): how hard should a pair be pushed that is already in the "
        "right order by far? Which way does the log show it?",
        wrong_answers=(
            WrongAnswer(
                "the loop as it was broken",
                _fitting(sigmoid),
                "The pairs that are in order are pushed hardest here. What is the slope of the "
                "loss where the gap is large?",
            ),
            WrongAnswer(
                "every pair pushed alike",
                _fitting(lambda gap: 1.0 + 0 * gap),
                "A pair that is in order has little more to teach. Its weight must shrink as the "
                "gap grows.",
            ),
            WrongAnswer(
                "climbing the loss",
                _fitting(lambda gap: sigmoid(-gap), flip=True),
                "This makes the chosen responses' scores lower. Which way is downhill?",
            ),
            WrongAnswer(
                "the sum over pairs",
                _fitting(lambda gap: sigmoid(-gap), summed=True),
                "The loss is a mean over pairs, so that the step does not grow with their number.",
            ),
            WrongAnswer(
                "the slope of the sigmoid",
                _fitting(lambda gap: sigmoid(gap) * sigmoid(-gap)),
                "This descends on a probability. The loss is minus its logarithm, and a pair that "
                "is badly wrong keeps its full weight.",
            ),
        ),
    ),
}
