"""The exercises of chapter 11: a token's distribution, positions, masks, pass@k and a vote.

Plain arrays. Logits are [V], masks [B, P], token ids [B, T]; answers to problems [N, K].
Answers in 32 bits count (``FLOAT32``): a reader who writes in torch gets them by default.
"""

from math import comb

import numpy as np

from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def next_token_probabilities(logits, temperature, top_k, top_p):
    """What the next token is drawn from [V]: temperature, then top-k, then top-p."""
    p = np.exp((logits - logits.max()) / temperature)
    likeliest = np.argsort(-p)[:top_k]
    share = p[likeliest] / p[likeliest].sum()
    likelier = np.cumsum(share) - share  # what stands before each of them
    kept = likeliest[likelier < top_p]
    out = np.zeros(len(logits))
    out[kept] = p[kept] / p[kept].sum()
    return out


def text_positions(mask):
    """The place of each token in its own text [B, P], 0 for the first and under the padding."""
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)


def response_mask(ids, eos):
    """True up to the first EOS of each row, the EOS included [B, T]."""
    is_end = ids == eos
    ends_before = np.cumsum(is_end, axis=1) - is_end
    return ends_before == 0


def mean_pass_at_k(correct, k):
    """The chance that k of a problem's n samples [N, n] hold a right one, mean over problems."""
    n = correct.shape[1]
    all_wrong = [comb(n - int(c), k) / comb(n, k) for c in correct.sum(axis=1)]
    return 1 - float(np.mean(all_wrong))


def vote_accuracy(answers, truth):
    """The share of problems whose commonest answer is right; -1 has no vote, ties go by lot."""
    scores = []
    for row, right in zip(answers, truth, strict=True):
        values, counts = np.unique(row[row >= 0], return_counts=True)
        winners = values[counts == counts.max(initial=0)]
        scores.append((right in winners) / max(len(winners), 1))
    return float(np.mean(scores))


# --- cases -----------------------------------------------------------------------------------


def _token_cases(rng):
    # p = 0.5, 0.25, 0.15, 0.1. Of the likeliest three (together 0.9) the shares are 0.556, 0.278
    # and 0.167; the first two reach 0.8, so these stay: 2/3 and 1/3
    p = np.array([0.25, 0.5, 0.1, 0.15])
    cases = [{"logits": np.log(p), "temperature": 1.0, "top_k": 3, "top_p": 0.8}]
    for V, temperature, top_k, top_p in (
        (5, 0.5, 5, 0.999), (5, 2.0, 5, 0.999), (6, 1.0, 3, 0.999), (6, 1.0, 6, 0.85),
        (8, 2.0, 6, 0.7), (7, 0.8, 5, 0.9), (8, 1.5, 4, 0.75), (6, 3.0, 5, 0.6),
    ):  # fmt: skip
        logits = rng.permutation(np.arange(V)) / 2 + rng.integers(0, 4, size=V) / 20
        cases.append({"logits": logits, "temperature": temperature, "top_k": top_k, "top_p": top_p})
    return cases


def _mask_cases(rng):
    cases = [{"mask": np.array([[False, False, True, True], [True, True, True, True]])}]
    for B, P in ((2, 5), (3, 4), (1, 6), (4, 7), (3, 8)):
        first = rng.integers(0, P, size=B)
        first[0] = rng.integers(2, P)
        cases.append({"mask": np.arange(P) >= first[:, None]})
    return cases


def _end_cases(rng):
    cases = [{"ids": np.array([[5, 7, 0, 0, 0], [5, 7, 9, 8, 6]]), "eos": 0}]
    for B, T, eos in ((2, 6, 0), (3, 5, 3), (4, 6, 2), (2, 7, 0), (3, 8, 1)):
        ids = rng.integers(4, 10, size=(B, T))
        ids[0, [1, T - 2]] = eos  # one inside, and something else after the last
        ids[1:, T - 1] = np.where(np.arange(B - 1) % 2, eos, 9)
        cases.append({"ids": ids, "eos": eos})
    cases.append({"ids": np.array([[0, 0, 0], [4, 0, 5]]), "eos": 0})
    return cases


def _pass_cases(rng):
    # of the 6 pairs out of 4 samples, 3 hold the right one
    cases = [{"correct": np.array([[False, True, False, False]]), "k": 2}]
    cases.append({"correct": np.array([[True, True, False, True], [False] * 4]), "k": 3})
    for N, n, k in ((2, 5, 2), (3, 8, 3), (4, 6, 4), (3, 16, 5), (5, 10, 2)):
        correct = rng.random((N, n)) < 0.3
        correct[0, :2] = True
        cases.append({"correct": correct, "k": k})
    cases.append({"correct": rng.random((3, 7)) < 0.4, "k": 1})
    cases.append({"correct": rng.random((2, 200)) < 0.01, "k": 100})
    return cases


def _vote_cases(rng):
    # 7 wins with 2 of 5 and is right; 4 and 9 tie, and 4 is right: (1 + 1/2) / 2
    answers = np.array([[7, 3, 7, 1, 2], [4, 9, 4, 9, -1]])
    cases = [{"answers": answers, "truth": np.array([7, 4])}]
    unread = np.array([[-1, -1, -1, 8], [5, -1, -1, 6], [-1, -1, -1, -1]])
    cases.append({"answers": unread, "truth": np.array([8, 6, 2])})
    for N, K in ((3, 4), (4, 6), (3, 5), (5, 8), (6, 7)):
        answers = rng.integers(-1, 4, size=(N, K))
        truth = rng.integers(0, 4, size=N)
        answers[0, :4], truth[0] = [5, 8, 8, 5], 8 - 3 * (K % 2)  # the larger, or the smaller
        answers[1, :4], truth[1] = [8, 6, 6, 8], 8
        cases.append({"answers": answers, "truth": truth})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def _token_with(
    heat=lambda logits, temperature: logits / temperature,
    ascending=False,
    keep=lambda share, top_p: np.cumsum(share) - share < top_p,
    renormalise=True,
    shares_of_all=False,
):
    """A maker of wrong distributions: one step of the reference exchanged."""

    def answer(logits, temperature, top_k, top_p):
        p = _softmax(heat(logits, temperature))
        order = np.argsort(p if ascending else -p)[:top_k]
        share = p[order] / (1.0 if shares_of_all else p[order].sum())
        kept = order[keep(share, top_p)]
        out = np.zeros(len(p))
        out[kept] = p[kept] / (p[kept].sum() if renormalise else 1.0)
        return out

    return answer


def _one_more(share, top_p):
    count = int((np.cumsum(share) - share < top_p).sum()) + 1
    return np.arange(len(share)) < count


def _heat_afterwards(logits, temperature, top_k, top_p):
    kept = next_token_probabilities(logits, 1.0, top_k, top_p) > 0
    return _softmax(np.where(kept, logits / temperature, -np.inf))


def _zero_logits(logits, temperature, top_k, top_p):
    kept = next_token_probabilities(logits, temperature, top_k, top_p) > 0
    return _softmax(np.where(kept, logits / temperature, 0.0))


def _by_argmax(ids, eos):
    first = np.argmax(ids == eos, axis=1)
    return np.arange(ids.shape[1]) <= first[:, None]


def _to_the_last(ids, eos):
    is_end = ids == eos
    ends_from_here = is_end[:, ::-1].cumsum(axis=1)[:, ::-1]
    return (ends_from_here > 0) | ~is_end.any(axis=1, keepdims=True)


def _mean_over_problems(score):
    """A maker of wrong estimates: another score of (n, c, k)."""

    def answer(correct, k):
        return float(np.mean([score(len(row), int(row.sum()), k) for row in correct]))

    return answer


def _votes_with(score, unread=False):
    """A maker of wrong votes: another score of (values, counts, right answer, row)."""

    def answer(answers, truth):
        scores = []
        for row, right in zip(answers, truth, strict=True):
            voters = row if unread else row[row >= 0]
            values, counts = np.unique(voters, return_counts=True)
            scores.append(float(score(values, counts, right, row)) if len(values) else 0.0)
        return float(np.mean(scores))

    return answer


def _by_lot(values, counts, right, row):
    winners = values[counts == counts.max()]
    return (right in winners) / len(winners)


EXERCISES: dict[str, Exercise] = {
    "next_token_probabilities": Exercise(
        reference=next_token_probabilities,
        cases=_token_cases,
        hint="Divide, take the softmax, sort from the likeliest down and cut after top_k. Give "
        "the rest a sum of 1 before top-p: a token stays if those *before* it have less than p.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "top-p without the token that crosses p",
                _token_with(keep=lambda share, top_p: np.cumsum(share) <= top_p),
                "What is kept must have at least p together. Look at the sum before a token, "
                "not at the sum that includes it.",
            ),
            WrongAnswer(
                "top-p with one token more than it takes",
                _token_with(keep=_one_more),
                "As soon as the tokens so far have p together, stop.",
            ),
            WrongAnswer(
                "a sort from the least likely up",
                _token_with(ascending=True),
                "Both rules keep the *likeliest* tokens: sort downwards.",
            ),
            WrongAnswer(
                "not renormalised",
                _token_with(renormalise=False),
                "What is left must sum to 1 again: divide by the kept mass.",
            ),
            WrongAnswer(
                "top-p of the whole distribution",
                _token_with(shares_of_all=True),
                "Top-k comes first. What it leaves is a distribution of its own, with sum 1, and "
                "top-p looks at that.",
            ),
            WrongAnswer(
                "multiplied by the temperature",
                _token_with(heat=lambda logits, temperature: logits * temperature),
                "A high temperature flattens, so it divides the logits.",
            ),
            WrongAnswer(
                "no temperature",
                _token_with(heat=lambda logits, temperature: logits),
                "Dividing probabilities and giving them sum 1 again changes nothing. Temperature "
                "divides the logits.",
            ),
            WrongAnswer(
                "the temperature after top-p",
                _heat_afterwards,
                "Which tokens make up the mass p depends on the temperature: it comes first.",
            ),
            WrongAnswer(
                "logits of 0 for what is ruled out",
                _zero_logits,
                "A logit of 0 still has the weight exp(0) = 1. Rule a token out by probability 0, "
                "that is by a logit of minus infinity.",
            ),
        ),
    ),
    "text_positions": Exercise(
        reference=text_positions,
        cases=_mask_cases,
        hint="Count the tokens up to each column. The first token of a text has position 0.",
        wrong_answers=(
            WrongAnswer(
                "the numbers of the columns",
                lambda mask: np.arange(mask.shape[1]) + 0 * mask,
                "This is what a bare forward does: a padded text begins in the middle of itself. "
                "Count tokens, not columns.",
            ),
            WrongAnswer(
                "counted from 1",
                lambda mask: np.cumsum(mask, axis=1),
                "The count includes the token itself, and its first position is 0.",
            ),
            WrongAnswer(
                "minus 1 under the padding",
                lambda mask: np.cumsum(mask, axis=1) - 1,
                "There is no row -1 in an embedding (or it is the last one): clip at 0.",
            ),
            WrongAnswer(
                "negative numbers under the padding",
                lambda mask: np.arange(mask.shape[1]) - (~mask).sum(axis=1, keepdims=True),
                "The tokens are right. An embedding has no negative rows: clip at 0.",
            ),
            WrongAnswer(
                "1 under the padding",
                lambda mask: np.where(mask, np.cumsum(mask, axis=1) - 1, 1),
                "The tokens are right, and nobody looks at the padding, so it would do no harm. "
                "Here we agree on 0.",
            ),
            WrongAnswer(
                "counted from the right",
                lambda mask: (
                    np.maximum(mask.sum(axis=1, keepdims=True) - np.cumsum(mask, 1), 0) * mask
                ),
                "The first token of a text has position 0, not the last.",
            ),
            WrongAnswer(
                "counted down the batch",
                lambda mask: np.maximum(np.cumsum(mask, axis=0) - 1, 0),
                "Each row is a text: count along axis 1.",
            ),
        ),
    ),
    "response_mask": Exercise(
        reference=response_mask,
        cases=_end_cases,
        hint="How many EOS stand *before* a column? The response is where there are none.",
        wrong_answers=(
            WrongAnswer(
                "everything that is not EOS",
                lambda ids, eos: ids != eos,
                "The EOS that ends a response was chosen by the policy and belongs to it; and "
                "what comes after it does not, whatever it is.",
            ),
            WrongAnswer(
                "without the EOS",
                lambda ids, eos: np.cumsum(ids == eos, axis=1) == 0,
                "To end was a choice too, and it is the one that the reward arrives at. Count the "
                "EOS before each column, without the column itself.",
            ),
            WrongAnswer(
                "up to the second EOS",
                lambda ids, eos: np.cumsum(ids == eos, axis=1) <= 1,
                "Between the first EOS and the next nothing belongs to the response.",
            ),
            WrongAnswer(
                "up to the last EOS",
                _to_the_last,
                "A response ends at the *first* EOS. Padding may be EOS as well.",
            ),
            WrongAnswer(
                "one token for a row without an end",
                _by_argmax,
                "The argmax of a row of False is 0. A row without an EOS was cut, and all of it "
                "belongs to the response.",
            ),
            WrongAnswer(
                "nothing for a row without an end",
                lambda ids, eos: response_mask(ids, eos) & (ids == eos).any(axis=1, keepdims=True),
                "A row without an EOS was cut by the limit. The policy chose every token of it.",
            ),
            WrongAnswer(
                "one end for the whole batch",
                lambda ids, eos: np.cumsum(ids == eos).reshape(ids.shape) - (ids == eos) == 0,
                "Each row is a response of its own: count along axis 1.",
            ),
            WrongAnswer(
                "the padding",
                lambda ids, eos: ~response_mask(ids, eos),
                "This is True where the response is over.",
            ),
        ),
    ),
    "mean_pass_at_k": Exercise(
        reference=mean_pass_at_k,
        cases=_pass_cases,
        hint="There are C(n, k) ways to choose k samples of a problem. If c of its n samples are "
        "right, in how many of these ways is all wrong? math.comb counts them.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the biased estimate",
                _mean_over_problems(lambda n, c, k: 1 - (1 - c / n) ** k),
                "This draws the k samples with replacement, the same one twice included. That is "
                "too low on average. Choose k different ones.",
            ),
            WrongAnswer(
                "pooled over the problems",
                lambda correct, k: 1 - (1 - correct.mean()) ** k,
                "An easy problem cannot lend its right samples to a hard one: estimate each "
                "problem by itself, then take the mean.",
            ),
            WrongAnswer(
                "the chance that all are wrong",
                _mean_over_problems(lambda n, c, k: comb(n - c, k) / comb(n, k)),
                "Passing is the opposite of this: subtract it from 1.",
            ),
            WrongAnswer(
                "the chance that exactly one is right",
                _mean_over_problems(lambda n, c, k: c * comb(n - c, k - 1) / comb(n, k)),
                "A choice with two right samples passes as well.",
            ),
            WrongAnswer(
                "the chance that all are right",
                _mean_over_problems(lambda n, c, k: comb(c, k) / comb(n, k)),
                "One right sample among the k is enough.",
            ),
            WrongAnswer(
                "pass@1",
                _mean_over_problems(lambda n, c, k: c / n),
                "With k samples there are more chances than with one.",
            ),
            WrongAnswer(
                "k times the chance of one",
                _mean_over_problems(lambda n, c, k: min(k * c / n, 1.0)),
                "Choices that hold two right samples are counted twice here.",
            ),
            WrongAnswer(
                "the first k samples",
                lambda correct, k: correct[:, :k].any(axis=1).mean(),
                "Right on average, but it wastes the other samples. Average over every choice of "
                "k out of the n.",
            ),
        ),
    ),
    "vote_accuracy": Exercise(
        reference=vote_accuracy,
        cases=_vote_cases,
        hint="Problem by problem: count each answer that is not -1, find the largest count, and "
        "see whether the right answer is among those that have it, and among how many.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a vote that needs more than half",
                _votes_with(lambda values, counts, right, row: (row == right).sum() > len(row) / 2),
                "The commonest answer wins, with however few votes.",
            ),
            WrongAnswer(
                "votes for no answer",
                _votes_with(_by_lot, unread=True),
                "Responses without a readable answer agree with each other on nothing: leave the "
                "-1 out before you count.",
            ),
            WrongAnswer(
                "the accuracy of single samples",
                lambda answers, truth: np.mean(answers == truth[:, None]),
                "First let the samples of a problem vote, then judge the winner alone.",
            ),
            WrongAnswer(
                "pass@K",
                lambda answers, truth: np.mean((answers == truth[:, None]).any(axis=1)),
                "It is not enough that the right answer is among them: it has to win.",
            ),
            WrongAnswer(
                "ties that the right answer always wins",
                _votes_with(
                    lambda values, counts, right, row: right in values[counts == counts.max()]
                ),
                "The vote does not know which answer is right. Of two that tie, each wins half "
                "of the time.",
            ),
            WrongAnswer(
                "ties that the right answer always loses",
                _votes_with(
                    lambda values, counts, right, row: (
                        (counts == counts.max()).sum() == 1 and values[counts.argmax()] == right
                    )
                ),
                "Of two answers that tie, each wins half of the time.",
            ),
            WrongAnswer(
                "ties that the smallest answer wins",
                _votes_with(lambda values, counts, right, row: values[counts.argmax()] == right),
                "The argmax takes the first of equals. Break ties by lot.",
            ),
        ),
    ),
}
