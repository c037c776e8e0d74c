"""The exercises of chapter 13: what an imitator learns from, and how far it can get.

Plain arrays. A text is prompt, response and EOS; in batches [B, L] it is padded on the right.
``learnt`` is True for tokens that the loss counts. Answers in 32 bits count (``FLOAT32``).
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def learnt_tokens(prompt_lengths, lengths, width):
    """Which tokens the loss counts [B, width]: the response and its EOS, never a first token."""
    column = np.arange(width)
    first = np.maximum(prompt_lengths, 1)  # nothing predicts the first token of a text
    return (column >= first[:, None]) & (column < lengths[:, None])


def masked_loss(logits, ids, learnt):
    """Minus the mean log-probability of the learnt tokens; logits [B, L, V], ids, learnt [B, L]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_pi = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    predicted = np.take_along_axis(log_pi[:, :-1], ids[:, 1:, None], axis=2)[:, :, 0]
    counts = learnt[:, 1:]
    return float(-np.where(counts, predicted, 0.0).sum() / counts.sum())


def step_loss(means, counts):
    """The token-mean of a whole step from the micro-batches' own means [M] and counts [M]."""
    return float((means * counts).sum() / counts.sum())


def packed_attention(lengths, width):
    """mask [width, width]: True where position i of a packed row may look at position j."""
    text = np.full(width, len(lengths))  # the padding is a text of its own
    text[: lengths.sum()] = np.repeat(np.arange(len(lengths)), lengths)
    causal = np.tril(np.ones((width, width), dtype=bool))
    return causal & (text[:, None] == text[None, :])


def chain_distribution(first, operators, digits, bias, noise):
    """Probability of each final digit [10] when a demonstrator works out a chain."""
    done = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    p = np.zeros(10)
    p[first] = 1.0
    for operator, digit in zip(operators, digits, strict=True):
        wrong = bias if operator == "*" else 0.0
        after = np.full(10, noise / 10)
        for value in range(10):
            right = done[operator](value, digit) % 10
            after[right] += p[value] * (1 - noise) * (1 - wrong)
            after[(value + digit) % 10] += p[value] * (1 - noise) * wrong
        p = after
    return p


def imitate(table, texts, prompt_lengths, steps, rate):
    """The logits [V, V] of a bigram model after gradient descent on the token-mean loss."""
    table = table.copy()
    count = sum(len(text) - given for text, given in zip(texts, prompt_lengths, strict=True))
    for _ in range(steps):
        weights = np.exp(table - table.max(axis=1, keepdims=True))
        pi = weights / weights.sum(axis=1, keepdims=True)
        gradient = np.zeros_like(table)
        for text, given in zip(texts, prompt_lengths, strict=True):
            for t in range(given, len(text)):  # EOS is the last token of a text
                gradient[text[t - 1]] += pi[text[t - 1]] / count
                gradient[text[t - 1], text[t]] -= 1 / count
        table -= rate * gradient
    return table


# --- cases -----------------------------------------------------------------------------------


def _token_cases(rng):
    # Prompt of 2, response of 2 with EOS, one cell of padding: columns 2 and 3.
    cases = [{"prompt_lengths": np.array([2]), "lengths": np.array([4]), "width": 5}]
    for B, longest in ((3, 4), (2, 6), (4, 5), (3, 7), (5, 4)):
        prompts = rng.integers(1, longest, size=B)
        lengths = prompts + rng.integers(2, longest, size=B)
        cases.append(
            {"prompt_lengths": prompts, "lengths": lengths, "width": int(lengths.max()) + 1}
        )
    cases.append({"prompt_lengths": np.array([0, 2]), "lengths": np.array([4, 5]), "width": 6})
    cases.append({"prompt_lengths": np.array([3, 0]), "lengths": np.array([5, 3]), "width": 5})
    return cases


def _loss_cases(rng):
    # Probabilities 1/4 and 3/4 everywhere; the tokens 0 and 1 at the end count:
    # -(log 1/4 + log 3/4) / 2 = 0.8370
    quarter = np.log(np.array([0.25, 0.75]))
    cases = [
        {
            "logits": np.tile(quarter, (1, 5, 1)),
            "ids": np.array([[1, 1, 0, 1, 1]]),
            "learnt": np.array([[False, False, True, True, False]]),
        }
    ]
    for B, L, V in ((2, 4, 3), (3, 6, 4), (2, 7, 5), (4, 5, 3), (3, 8, 4)):
        given = rng.integers(1, L - 2, size=B)
        lengths = np.minimum(given + 2 + rng.integers(0, L, size=B), L)
        given[0], lengths[0], given[1], lengths[1] = 1, L, L - 3, L - 1  # rows of unequal counts
        cases.append(
            {
                "logits": random_halves(rng, (B, L, V)) / 2,
                "ids": rng.integers(V, size=(B, L)),
                "learnt": learnt_tokens(given, lengths, L),
            }
        )
    return cases


def _step_cases(rng):
    # 2 tokens of mean 2 and 1 token of 8: (2 + 2 + 8) / 3 = 4
    cases = [{"means": np.array([2.0, 8.0]), "counts": np.array([2, 1])}]
    for M in (2, 3, 4, 2, 5):
        counts = rng.integers(2, 20, size=M)
        counts[:2] = 1, 20
        cases.append(
            {"means": np.abs(random_halves(rng, M)) + np.arange(M) + 0.5, "counts": counts}
        )
    return cases


def _attention_cases(rng):
    cases = [{"lengths": np.array([2, 1]), "width": 4}]
    for texts, room in ((2, 0), (3, 2), (1, 3), (4, 1), (3, 3)):
        lengths = rng.integers(1, 4, size=texts)
        lengths[-1] += 1
        cases.append({"lengths": lengths, "width": int(lengths.sum()) + room})
    return cases


def _chain_cases(rng):
    # 4*9: right 6 with (1 - 0.7), 3 with 0.7; noise 0.1 leaves 0.9 of that, and 0.01 each.
    cases = [
        {"first": 4, "operators": "*", "digits": np.array([9]), "bias": 0.7, "noise": 0.1},
        {"first": 3, "operators": "+-", "digits": np.array([5, 4]), "bias": 0.7, "noise": 0.2},
    ]
    for operators, bias, noise in (
        ("*-", 0.7, 0.1), ("-*+", 0.4, 0.05), ("**-", 0.6, 0.2), ("+*-*", 0.8, 0.1),
        ("*+*", 0.3, 0.0),
    ):  # fmt: skip
        digits = rng.integers(2, 10, size=len(operators))
        first = int(rng.integers(3, 10))
        cases.append(
            {"first": first, "operators": operators, "digits": digits, "bias": bias, "noise": noise}
        )
    return cases


def _imitation_cases(rng):
    # Text 0 | 1 2, where 2 is the EOS: the pairs 0 -> 1 and 1 -> 2 count half each. π = 1/3:
    # rows 0 and 1 move by 1/2 · (onehot - 1/3), at rate 1.
    cases = [
        {
            "table": np.zeros((3, 3)), "texts": [[0, 1, 2]], "prompt_lengths": [1], "steps": 1,
            "rate": 1.0,
        }
    ]  # fmt: skip
    for V, count, steps, rate in ((3, 2, 1, 2.0), (4, 3, 2, 1.0), (3, 4, 3, 2.0), (5, 3, 4, 1.5),
                                  (4, 4, 3, 3.0)):  # fmt: skip
        given = rng.integers(1, 4, size=count)
        responses = rng.integers(1, 5, size=count)
        given[0], responses[0], responses[1] = 2, 4, 1
        texts = [
            [*rng.integers(V - 1, size=p + n).tolist(), V - 1]
            for p, n in zip(given, responses, strict=True)
        ]
        cases.append(
            {
                "table": random_halves(rng, (V, V)) / 4, "texts": texts,
                "prompt_lengths": given.tolist(), "steps": steps, "rate": rate,
            }
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def log_softmax(logits):
    """log π along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def token_losses(logits, ids):
    """-log π of every token but the first, given those before it [B, L - 1]."""
    return -np.take_along_axis(log_softmax(logits)[:, :-1], ids[:, 1:, None], axis=2)[:, :, 0]


def _same_place(logits, ids, learnt):
    losses = -np.take_along_axis(log_softmax(logits), ids[:, :, None], axis=2)[:, :, 0]
    return float(losses[learnt].mean())


def _wrong_way(logits, ids, learnt):
    losses = -np.take_along_axis(log_softmax(logits)[:, 1:], ids[:, :-1, None], axis=2)[:, :, 0]
    return float(losses[learnt[:, :-1]].sum() / learnt.sum())


def _unnormalised(logits, ids, learnt):
    chosen = np.take_along_axis(logits[:, :-1], ids[:, 1:, None], axis=2)[:, :, 0]
    return float(-chosen[learnt[:, 1:]].mean())


def _mean_of_rows(logits, ids, learnt):
    counts = learnt[:, 1:]
    sums = np.where(counts, token_losses(logits, ids), 0.0).sum(axis=1)
    return float((sums / np.maximum(counts.sum(axis=1), 1)).mean())


def _numbered(lengths, width, padding):
    """The number of the text that each position belongs to."""
    text = np.full(width, padding)
    text[: lengths.sum()] = np.repeat(np.arange(len(lengths)), lengths)
    return text


def _block(lengths, width):
    text = _numbered(lengths, width, len(lengths))
    return text[:, None] == text[None, :]


def _padding_in_last(lengths, width):
    text = _numbered(lengths, width, len(lengths) - 1)
    return np.tril(text[:, None] == text[None, :])


def _blind_padding(lengths, width):
    real = np.arange(width) < lengths.sum()
    return packed_attention(lengths, width) & real[:, None]


def _chain(step):
    """A maker of wrong distributions: ``step`` gives p after one operator."""

    def answer(first, operators, digits, bias, noise):
        p = np.eye(10)[first]
        for operator, digit in zip(operators, digits, strict=True):
            p = step(p, operator, int(digit), bias, noise)
        return p

    return answer


def _moved(p, operator, digit, bias, *, backwards=False, everywhere=False):
    """p after a step without noise."""
    after = np.zeros(10)
    for value in range(10):
        first, second = (digit, value) if backwards else (value, digit)
        right = {"+": first + second, "-": first - second, "*": first * second}[operator] % 10
        wrong = bias if operator == "*" or everywhere else 0.0
        after[right] += p[value] * (1 - wrong)
        after[(value + digit) % 10] += p[value] * wrong
    return after


def _noise_elsewhere(p, operator, digit, bias, noise):
    after = np.zeros(10)
    for value in range(10):
        meant = _moved(np.eye(10)[value], operator, digit, bias)
        right = _moved(np.eye(10)[value], operator, digit, 0.0)
        after += p[value] * ((1 - noise) * meant + noise * (1 - right) / 9)
    return after


def _from_the_right_value(first, operators, digits, bias, noise):
    value = np.eye(10)[first]
    for operator, digit in zip(operators[:-1], digits[:-1], strict=True):
        value = _moved(value, operator, int(digit), 0.0)
    last = _moved(value, operators[-1], int(digits[-1]), bias)
    return (1 - noise) * last + noise / 10


def _imitating(pairs, *, by_text=False, per_text=False, summed=False, sign=1.0, renew=True):
    """A maker of wrong loops: other pairs (from, to) of a text, another weight."""

    def answer(table, texts, prompt_lengths, steps, rate):
        table = table.copy()
        found = [pairs(text, p) for text, p in zip(texts, prompt_lengths, strict=True)]
        count = 1 if summed else len(found) if per_text else sum(map(len, found))
        pi = np.exp(log_softmax(table))
        for _ in range(steps):
            pi = np.exp(log_softmax(table)) if renew else pi
            gradient = np.zeros_like(table)
            for row in found:
                weight = 1 / (len(found) * max(len(row), 1)) if by_text else 1 / max(count, 1)
                for a, b in row:
                    gradient[a] += weight * pi[a]
                    gradient[a, b] -= weight
            table -= sign * rate * gradient
        return table

    return answer


def _right_pairs(text, given):
    return list(zip(text[given - 1 : -1], text[given:], strict=True))


EXERCISES: dict[str, Exercise] = {
    "learnt_tokens": Exercise(
        reference=learnt_tokens,
        cases=_token_cases,
        hint="Number the columns from 0. At which column does the response begin, and at which "
        "does the padding begin?",
        wrong_answers=(
            WrongAnswer(
                "the prompt learnt too",
                lambda prompt_lengths, lengths, width: learnt_tokens(
                    0 * prompt_lengths, lengths, width
                ),
                "That is the mask of pretraining. Whose words are the first ones?",
            ),
            WrongAnswer(
                "the EOS dropped",
                lambda prompt_lengths, lengths, width: learnt_tokens(
                    prompt_lengths, lengths - 1, width
                ),
                "The last token of a text is its EOS. Who chooses that it ends there?",
            ),
            WrongAnswer(
                "the first response token dropped",
                lambda prompt_lengths, lengths, width: learnt_tokens(
                    prompt_lengths + 1, lengths, width
                ),
                "A prompt of two tokens fills the columns 0 and 1. Which comes next?",
            ),
            WrongAnswer(
                "one column too early",
                lambda prompt_lengths, lengths, width: (
                    (np.arange(width) >= prompt_lengths[:, None] - 1)
                    & (np.arange(width) < lengths[:, None] - 1)
                ),
                "These are the positions whose outputs predict the learnt tokens. The tokens "
                "themselves are asked for.",
            ),
            WrongAnswer(
                "the padding learnt",
                lambda prompt_lengths, lengths, width: learnt_tokens(
                    prompt_lengths, width + 0 * lengths, width
                ),
                "Where a text has ended there is only padding. What would the model learn there?",
            ),
            WrongAnswer(
                "the first token of a text without a prompt",
                lambda prompt_lengths, lengths, width: (
                    (np.arange(width) >= prompt_lengths[:, None])
                    & (np.arange(width) < lengths[:, None])
                ),
                "Without a prompt the text begins at column 0. What could predict that token?",
            ),
        ),
    ),
    "masked_loss": Exercise(
        reference=masked_loss,
        cases=_loss_cases,
        hint="First log π for every position and token. The output at position t - 1 belongs to "
        "the token at t: cut one end off each of the three arrays.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the shift forgotten",
                _same_place,
                "The output at position t is compared with the token at t, which the model has "
                "just read. What does it predict?",
            ),
            WrongAnswer(
                "shifted the wrong way",
                _wrong_way,
                "Here an output is judged by the token before it. Which of the two comes first?",
            ),
            WrongAnswer(
                "the mask left unshifted",
                lambda logits, ids, learnt: float(
                    token_losses(logits, ids)[learnt[:, :-1]].sum() / learnt[:, :-1].sum()
                ),
                "The losses belong to the tokens from the second on. To which tokens do the "
                "entries of your mask belong?",
            ),
            WrongAnswer(
                "every token counted",
                lambda logits, ids, learnt: float(token_losses(logits, ids).mean()),
                "Prompt and padding are in there too. What does the mask say?",
            ),
            WrongAnswer(
                "the mean over all positions",
                lambda logits, ids, learnt: float(
                    np.where(learnt[:, 1:], token_losses(logits, ids), 0.0).mean()
                ),
                "The sum is right. By how many tokens must it be divided?",
            ),
            WrongAnswer(
                "the mean of the rows' means",
                _mean_of_rows,
                "Here a token of a short response weighs more than one of a long response. All "
                "that count are to weigh the same.",
            ),
            WrongAnswer(
                "divided by the number of texts",
                lambda logits, ids, learnt: (
                    masked_loss(logits, ids, learnt) * learnt[:, 1:].sum() / len(ids)
                ),
                "This grows with the length of the responses. A mean over tokens is asked for.",
            ),
            WrongAnswer(
                "the sum",
                lambda logits, ids, learnt: float(token_losses(logits, ids)[learnt[:, 1:]].sum()),
                "This grows with the batch. A mean over the learnt tokens is asked for.",
            ),
            WrongAnswer(
                "the sign turned round",
                lambda logits, ids, learnt: -masked_loss(logits, ids, learnt),
                "A loss is to be made small, and a log-probability large.",
            ),
            WrongAnswer(
                "logits taken for log-probabilities",
                _unnormalised,
                "Logits do not add up to a probability of 1. What has to be subtracted first?",
            ),
        ),
    ),
    "step_loss": Exercise(
        reference=step_loss,
        cases=_step_cases,
        hint="Go back to sums: what is the sum of the losses in each micro-batch? If all rows "
        "stood in one large batch, by which count would the total be divided?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the mean of the means",
                lambda means, counts: float(means.mean()),
                "A token in a micro-batch with few of them weighs more here than one among many.",
            ),
            WrongAnswer(
                "the sum of the means",
                lambda means, counts: float(means.sum()),
                "Twice as many micro-batches would double this, with the same data.",
            ),
            WrongAnswer(
                "the sum over all tokens",
                lambda means, counts: float((means * counts).sum()),
                "It is not divided by anything. How many tokens count in the whole step?",
            ),
            WrongAnswer(
                "divided by the number of micro-batches",
                lambda means, counts: float((means * counts).mean()),
                "The numerator is a sum over tokens. What is to be counted below it?",
            ),
            WrongAnswer(
                "means divided by all tokens",
                lambda means, counts: float(means.sum() / counts.sum()),
                "The denominator is right. A mean has already lost its count: put it back first.",
            ),
            WrongAnswer(
                "divided by the last micro-batch's tokens",
                lambda means, counts: float((means * counts).sum() / counts[-1]),
                "The denominator belongs to the whole step, not to what came last.",
            ),
            WrongAnswer(
                "divided twice",
                lambda means, counts: float((means / counts).sum()),
                "These are means already. A micro-batch with many tokens should weigh more.",
            ),
        ),
    ),
    "packed_attention": Exercise(
        reference=packed_attention,
        cases=_attention_cases,
        hint="Give each position the number of its text. Two positions may meet if these are the "
        "same, and if the one looked at is not later.",
        wrong_answers=(
            WrongAnswer(
                "the plain causal mask",
                lambda lengths, width: np.tril(np.ones((width, width), dtype=bool)),
                "The second text reads the first one here, as if it were its prompt.",
            ),
            WrongAnswer(
                "a look ahead",
                _block,
                "Within a text a position may look at itself and at what is before it, no further.",
            ),
            WrongAnswer(
                "blind to itself",
                lambda lengths, width: np.tril(_block(lengths, width), -1),
                "The first token of a text can look at nothing here, not even at itself.",
            ),
            WrongAnswer(
                "rows and columns exchanged",
                lambda lengths, width: np.triu(_block(lengths, width)),
                "Row i says what position i may look at. Can the first position see the second?",
            ),
            WrongAnswer(
                "the padding joined to the last text",
                _padding_in_last,
                "The padding reads the last text. It is to be a text of its own.",
            ),
            WrongAnswer(
                "padding that sees nothing",
                _blind_padding,
                "A softmax over no position at all is not a number. Let the padding be a text of "
                "its own.",
            ),
            WrongAnswer(
                "padding that sees everything",
                lambda lengths, width: (
                    packed_attention(lengths, width)
                    | np.tril(np.arange(width)[:, None] >= lengths.sum())
                ),
                "It would do no harm, since nothing is learnt there; but a text sees its own "
                "tokens only, and the padding counts as one.",
            ),
        ),
    ),
    "chain_distribution": Exercise(
        reference=chain_distribution,
        cases=_chain_cases,
        hint="Carry a probability for each of the ten values. A step sends the share of a value to "
        "its right result, to its wrong one, and a little to all digits.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the bias forgotten",
                lambda first, operators, digits, bias, noise: chain_distribution(
                    first, operators, digits, 0.0, noise
                ),
                "These people multiply rightly. What do they do at a * as a rule?",
            ),
            WrongAnswer(
                "the noise forgotten",
                lambda first, operators, digits, bias, noise: chain_distribution(
                    first, operators, digits, bias, 0.0
                ),
                "Now and then a demonstrator writes any digit at all.",
            ),
            WrongAnswer(
                "bias at every operator",
                _chain(
                    lambda p, operator, digit, bias, noise: (
                        (1 - noise) * _moved(p, operator, digit, bias, everywhere=True) + noise / 10
                    )
                ),
                "They add in place of multiplying. Subtracting they can do.",
            ),
            WrongAnswer(
                "noise that never hits the right digit",
                _chain(_noise_elsewhere),
                "The digit is drawn from all ten, and one of them is right.",
            ),
            WrongAnswer(
                "noise on top",
                _chain(
                    lambda p, operator, digit, bias, noise: (
                        _moved(p, operator, digit, bias) + noise / 10
                    )
                ),
                "These numbers add up to more than 1. Who slips does not do the step as well.",
            ),
            WrongAnswer(
                "each step from the right value",
                _from_the_right_value,
                "A demonstrator goes on from the value that he has written, right or wrong.",
            ),
            WrongAnswer(
                "the operands exchanged",
                _chain(
                    lambda p, operator, digit, bias, noise: (
                        (1 - noise) * _moved(p, operator, digit, bias, backwards=True) + noise / 10
                    )
                ),
                "The value so far comes first: 3-5 is 8 modulo 10, and 5-3 is 2.",
            ),
        ),
    ),
    "imitate": Exercise(
        reference=imitate,
        cases=_imitation_cases,
        hint="Take the text 0 | 1 2 with a prompt of one token, and write down by hand which token "
        "is predicted from which. Then ask by what number every pair must be divided.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the loop as it was",
                _imitating(lambda text, p: _right_pairs(text, p)[1:], by_text=True),
                "The result is that of the broken loop. Which response token is never a target?",
            ),
            WrongAnswer(
                "the first response token never a target",
                _imitating(lambda text, p: _right_pairs(text, p)[1:]),
                "It is predicted from the last token of the prompt. Where does the range begin?",
            ),
            WrongAnswer(
                "every text with the same weight",
                _imitating(_right_pairs, by_text=True),
                "A token of a short response pulls harder here than one of a long response.",
            ),
            WrongAnswer(
                "the EOS never a target",
                _imitating(lambda text, p: _right_pairs(text, p)[:-1]),
                "A model that never sees an ending never ends. Where does the range stop?",
            ),
            WrongAnswer(
                "the prompt learnt too",
                _imitating(lambda text, p: _right_pairs(text, 1)),
                "The prompt is somebody else's. Where does the response begin?",
            ),
            WrongAnswer(
                "a token predicted from itself",
                _imitating(lambda text, p: [(token, token) for token in text[p:]]),
                "The row of a token holds what comes after it.",
            ),
            WrongAnswer(
                "the sum instead of the mean",
                _imitating(_right_pairs, summed=True),
                "The step grows with the batch here. By how many tokens is it to be divided?",
            ),
            WrongAnswer(
                "divided by the number of texts",
                _imitating(_right_pairs, per_text=True),
                "The sum of the pairs is right. It is still divided by the number of texts: how "
                "many tokens count in the batch?",
            ),
            WrongAnswer(
                "uphill",
                _imitating(_right_pairs, sign=-1.0),
                "What was shown becomes less likely here. Which way does descent go?",
            ),
            WrongAnswer(
                "the gradient of the first step, again and again",
                _imitating(_right_pairs, renew=False),
                "The probabilities change with every step, and the gradient with them.",
            ),
        ),
    ),
}
