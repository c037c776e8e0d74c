"""The exercises of chapter 10: the parts of GPT-2, its loss, and the rate it is trained with.

Small tensors of 32-bit numbers, as in training, so answers may differ by rounding (``FLOAT32``).
L tokens, width d, heads of width w, V tokens in the vocabulary. Counts and schedules are numpy.
"""

import math

import numpy as np
import torch

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def layer_norm(x, scale, shift, eps):
    """Each row of x [L, d] to mean 0 and variance 1, then times scale [d], plus shift [d]."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return scale * (x - mean) / torch.sqrt(variance + eps) + shift


def causal_attention(query, key, value):
    """One head: what each position collects from itself and those before it; all [L, w]."""
    L, w = query.shape
    scores = query @ key.T / math.sqrt(w)
    future = torch.ones(L, L).triu(1).bool()
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ value


def split_heads(x, n_head):
    """Cut the columns of x [L, d] into heads [n_head, L, d / n_head]."""
    L, d = x.shape
    return x.view(L, n_head, d // n_head).transpose(0, 1)


def count_parameters(n_layer, d, vocab_size, context):
    """How many numbers a GPT-2 learns; arrays n_layer, d [n] hold several sizes."""
    attention = d * 3 * d + 3 * d + d * d + d
    mlp = d * 4 * d + 4 * d + 4 * d * d + d
    norms = 2 * (d + d)
    return n_layer * (attention + mlp + norms) + vocab_size * d + context * d + 2 * d


def next_token_loss(logits, ids):
    """Mean over the tokens that are predicted of -log π(token | those before it), in nats."""
    logprobs = logits[:-1].log_softmax(dim=-1)
    return -logprobs.gather(1, ids[1:, None]).mean()


def learning_rate(step, steps, warmup, peak):
    """Rate at each step [n]: up a line to the peak, then down half a cosine to 0."""
    progress = (step - warmup) / (steps - warmup)
    cosine = peak * 0.5 * (1 + np.cos(np.pi * progress))
    return np.where(step < warmup, peak * (step + 1) / warmup, cosine)


# --- cases -----------------------------------------------------------------------------------


def _halves(rng, *shape):
    return torch.tensor(random_halves(rng, shape), dtype=torch.float32)


def _norm_cases(rng):
    # mean 2, variance ((-1)² + 1²) / 2 = 1, and √(1 + 3) = 2: (-½, ½), times (2, 4), plus (1, 0)
    cases = [
        {
            "x": torch.tensor([[1.0, 3.0]]),
            "scale": torch.tensor([2.0, 4.0]),
            "shift": torch.tensor([1.0, 0.0]),
            "eps": 3.0,
        }
    ]
    for L, d, eps in ((3, 4, 0.5), (2, 5, 1e-5), (4, 3, 0.25), (5, 6, 1.0), (3, 8, 1e-5)):
        x = _halves(rng, L, d) + 1
        x[:, 0] += 7.0  # no row is constant
        scale, shift = 1 + _halves(rng, d).abs(), _halves(rng, d)
        cases.append({"x": x, "scale": scale, "shift": shift, "eps": eps})
    return cases


def _attention_cases(rng):
    # Scores of position 1: (0, 2 log 3) / √4 = (0, log 3), so the weights are 1/4 and 3/4:
    # (1, 0, 0, 0)/4 + 3 (5, 4, 0, 0)/4. Position 0 has only itself to look at.
    query, key, value = torch.zeros(3, 2, 4)
    query[1, 0], key[1, 0] = 2 * math.log(3.0), 1.0
    value[0, 0], value[1, 0], value[1, 1] = 1.0, 5.0, 4.0
    cases = [{"query": query, "key": key, "value": value}]
    for L, w in ((3, 2), (4, 3), (5, 4), (3, 4), (6, 2)):
        query, key = _halves(rng, L, w) / 2, _halves(rng, L, w) / 2
        cases.append({"query": query, "key": key, "value": _halves(rng, L, w)})
    return cases


def _heads_cases(rng):
    # Columns 0, 1 are the first head, 2, 3 the second; positions stay rows.
    hand = torch.arange(8.0).view(2, 4)
    cases = [{"x": hand, "n_head": 2}]
    for L, n_head, w in ((3, 2, 2), (4, 3, 2), (2, 2, 3), (5, 2, 4), (3, 4, 3)):
        cases.append({"x": _halves(rng, L, n_head * w), "n_head": n_head})
    return cases


def _count_cases(rng):
    # A block with d = 2: attention 12 + 6 + 4 + 2 = 24, MLP 16 + 8 + 16 + 2 = 42, norms 8.
    # 74, and (3 + 4) · 2 for the embeddings, and 4 for the last norm: 92.
    cases = [{"n_layer": np.array([1]), "d": np.array([2]), "vocab_size": 3, "context": 4}]
    for vocab_size, context in ((5, 8), (50_257, 1_024), (11, 6), (257, 64), (34, 128)):
        n_layer, d = rng.integers(2, 20, size=2), 16 * rng.integers(1, 40, size=2)
        cases.append({"n_layer": n_layer, "d": d, "vocab_size": vocab_size, "context": context})
    return cases


def _loss_cases(rng):
    # Token 1 after row 0: 1/2. Token 1 after row 1: 3/4. Row 2 predicts nothing.
    # -(log 1/2 + log 3/4) / 2 = log(8/3) / 2
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [9.0, 0.0]])
    cases = [{"logits": logits, "ids": torch.tensor([0, 1, 1])}]
    for L, V in ((3, 3), (4, 5), (6, 4), (5, 3), (8, 6)):
        ids = torch.tensor(rng.integers(V, size=L))
        cases.append({"logits": _halves(rng, L, V) / 2, "ids": ids})
    return cases


def _rate_cases(rng):
    # Two steps of warm-up: 1/2 and 1 of 8. Then 4 steps, with cosines of 0, 90 and 180 degrees
    # at progress 0, 1/2 and 1 (a step that is no longer made): 8, 4, 0.
    hand = {"step": np.array([0, 1, 2, 4, 6]), "steps": 6, "warmup": 2, "peak": 8.0}
    cases = [hand]
    for steps, warmup in ((10, 3), (50, 5), (20, 4), (100, 10), (12, 6)):
        peak = float(rng.integers(1, 9))
        cases.append({"step": np.arange(steps), "steps": steps, "warmup": warmup, "peak": peak})
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _normalised(x, scale, shift, eps, *, dim=-1, correction=0):
    mean = x.mean(dim=dim, keepdim=True)
    variance = (x - mean).square().sum(dim=dim, keepdim=True)
    count = x.numel() if dim is None else x.shape[dim]
    return scale * (x - mean) / torch.sqrt(variance / max(count - correction, 1) + eps) + shift


def _root_before_eps(x, scale, shift, eps):
    spread = x.std(dim=-1, keepdim=True, correction=0)
    return scale * (x - x.mean(dim=-1, keepdim=True)) / (spread + eps) + shift


def _by_variance(x, scale, shift, eps):
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return scale * (x - x.mean(dim=-1, keepdim=True)) / (variance + eps) + shift


def _mean_kept(x, scale, shift, eps):
    return scale * x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) + shift


def _unscaled(x, scale, shift, eps):
    return _normalised(x, torch.ones_like(scale), torch.zeros_like(shift), eps)


def _attend(query, key, value, *, divide=math.sqrt, allowed="past", dim=-1, mask="before"):
    """Attention with one thing about it wrong."""
    L, w = query.shape
    scores = query @ key.T / divide(w)
    ones = torch.ones(L, L)
    looks = {"past": ones.tril(), "future": ones.triu(), "before": ones.tril(-1), "all": ones}
    looks = looks[allowed].bool()
    if mask == "before":
        return scores.masked_fill(~looks, -math.inf).softmax(dim=dim) @ value
    if mask == "zero":
        return (scores * looks).softmax(dim=dim) @ value
    return (scores.softmax(dim=dim) * looks) @ value


def _by_heads_last(x, n_head):
    return x.view(x.shape[0], -1, n_head).permute(2, 0, 1)


def _logprobs(logits, ids):
    return logits.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]


def _rates(
    step,
    steps,
    warmup,
    peak,
    *,
    first=1,
    last=0,
    after=True,
    long=False,
    turns=1.0,
    half=0.5,
    line=False,
):
    """Warm-up and cosine with one thing about them wrong."""
    progress = (step - warmup) / (steps if long else steps - warmup) if after else step / steps
    down = 1 - progress if line else half * (1 + np.cos(turns * np.pi * progress))
    return np.where(step < warmup + last, peak * (step + first) / warmup, peak * down)


EXERCISES: dict[str, Exercise] = {
    "layer_norm": Exercise(
        reference=layer_norm,
        cases=_norm_cases,
        hint="Every position by itself: its own mean and its own variance, over the d columns.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a norm over the positions",
                lambda **case: _normalised(**case, dim=0),
                "Each token is normalised by itself, over its d numbers; so the result does not "
                "depend on what other tokens there are.",
            ),
            WrongAnswer(
                "a norm of the whole matrix",
                lambda **case: _normalised(**case, dim=None),
                "One mean and one variance per row, not one for all rows together.",
            ),
            WrongAnswer(
                "the sample variance",
                lambda **case: _normalised(**case, correction=1),
                "It divides by d - 1, which is what torch does unless told otherwise; layer norm "
                "divides by d.",
            ),
            WrongAnswer(
                "eps outside the root",
                _root_before_eps,
                "Add eps to the variance, then take the root.",
            ),
            WrongAnswer(
                "a division by the variance",
                _by_variance,
                "For a variance of 1 divide by the standard deviation, the root of the variance.",
            ),
            WrongAnswer(
                "RMS norm, which keeps the mean",
                _mean_kept,
                "It is what Llama uses. GPT-2 first takes the mean away.",
            ),
            WrongAnswer(
                "a norm without its scale and shift",
                _unscaled,
                "Each column has a learnt scale and a learnt shift: apply them at the end.",
            ),
        ),
    ),
    "causal_attention": Exercise(
        reference=causal_attention,
        cases=_attention_cases,
        hint="Scores [L, L] first: row i says how well each key fits query i. Rule out the "
        "columns after i, and then make each row a distribution.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "attention without a mask, as in an encoder",
                lambda **case: _attend(**case, allowed="all"),
                "Position i may look at positions 0 to i and at no later one.",
            ),
            WrongAnswer(
                "a mask that is transposed",
                lambda **case: _attend(**case, allowed="future"),
                "Yours looks at itself and into the future: row i is the one that looks, "
                "column j is what it looks at, and j ≤ i is allowed.",
            ),
            WrongAnswer(
                "a mask that hides the token from itself",
                lambda **case: _attend(**case, allowed="before"),
                "Position i may look at position i too. The first one has nothing else, and "
                "a softmax over nothing is not a number.",
            ),
            WrongAnswer(
                "a mask after the softmax",
                lambda **case: _attend(**case, mask="after"),
                "The weights of a row no longer sum to 1, since the future has had its share: "
                "mask the scores, then take the softmax.",
            ),
            WrongAnswer(
                "a mask of zeros before the softmax",
                lambda **case: _attend(**case, mask="zero"),
                "A score of 0 still has the weight e⁰ = 1; to rule out a position its score "
                "must be minus infinity.",
            ),
            WrongAnswer(
                "scores without 1/√w",
                lambda **case: _attend(**case, divide=lambda w: 1.0),
                "Divide the scores by the root of the head's width.",
            ),
            WrongAnswer(
                "a division by w instead of √w",
                lambda **case: _attend(**case, divide=float),
                "A sum of w products grows like the root of w: divide by that.",
            ),
            WrongAnswer(
                "a softmax over the wrong axis",
                lambda **case: _attend(**case, dim=0),
                "The weights that one query gives to all keys must sum to 1: a softmax along "
                "each row of the scores.",
            ),
            WrongAnswer(
                "query and key exchanged",
                lambda query, key, value: _attend(key, query, value),
                "Row i of the scores belongs to query i, which is compared with every key.",
            ),
        ),
    ),
    "split_heads": Exercise(
        reference=split_heads,
        cases=_heads_cases,
        hint="A head is a block of neighbouring columns. Give the columns two axes first, "
        "then bring the axes into order.",
        wrong_answers=(
            WrongAnswer(
                "a reshape that mixes the positions",
                lambda x, n_head: x.reshape(n_head, x.shape[0], -1),
                "The shape is right, and head 0 now holds the first positions instead of the "
                "first columns: view as [L, n_head, w], then exchange the first two axes.",
            ),
            WrongAnswer(
                "every n-th column for a head",
                _by_heads_last,
                "A head's columns stand side by side: split d into (n_head, w), in this order.",
            ),
            WrongAnswer(
                "heads in the middle",
                lambda x, n_head: x.view(x.shape[0], n_head, -1),
                "The split is right; the heads must be the first axis, [n_head, L, w].",
            ),
            WrongAnswer(
                "heads that are transposed",
                lambda x, n_head: x.view(x.shape[0], n_head, -1).permute(1, 2, 0),
                "Within a head the positions are rows and the columns columns, [n_head, L, w].",
            ),
        ),
    ),
    "count_parameters": Exercise(
        reference=count_parameters,
        cases=_count_cases,
        hint="A block: matrices d × 3d, d × d, d × 4d and 4d × d with their biases, and two "
        "layer norms. Around the blocks: two embeddings and one more layer norm.",
        wrong_answers=(
            WrongAnswer(
                "a count with the head as a matrix of its own",
                lambda **case: count_parameters(**case) + case["vocab_size"] * case["d"],
                "The head is the token embedding again (tied): it is counted once.",
            ),
            WrongAnswer(
                "a count of the matrices alone",
                lambda **case: count_parameters(**case) - (13 * case["n_layer"] + 2) * case["d"],
                "12 d² per block is right for its matrices; biases and norms are learnt, too.",
            ),
            WrongAnswer(
                "a count without biases",
                lambda **case: count_parameters(**case) - case["n_layer"] * 9 * case["d"],
                "Every matrix of a block has a bias, as long as its output: 3d, d, 4d and d.",
            ),
            WrongAnswer(
                "a count without layer norms",
                lambda **case: count_parameters(**case) - (4 * case["n_layer"] + 2) * case["d"],
                "Two in each block and one at the end, with a scale and a shift each.",
            ),
            WrongAnswer(
                "a count without the last layer norm",
                lambda **case: count_parameters(**case) - 2 * case["d"],
                "One more norm stands after the last block, before the head.",
            ),
            WrongAnswer(
                "a count without positions",
                lambda **case: count_parameters(**case) - case["context"] * case["d"],
                "GPT-2 learns an embedding for each position up to the context, too.",
            ),
            WrongAnswer(
                "a count without the attention's last matrix",
                lambda **case: (
                    count_parameters(**case) - case["n_layer"] * (case["d"] ** 2 + case["d"])
                ),
                "After the heads are side by side one more d × d matrix, with a bias, mixes them.",
            ),
        ),
    ),
    "next_token_loss": Exercise(
        reference=next_token_loss,
        cases=_loss_cases,
        hint="The logits at position t are a forecast of token t + 1. So how many forecasts "
        "can be judged?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a loss without the shift",
                lambda logits, ids: -_logprobs(logits, ids).mean(),
                "It asks each position for the token that it has just read: copying earns a "
                "perfect score. Position t forecasts token t + 1.",
            ),
            WrongAnswer(
                "a shift the wrong way",
                lambda logits, ids: -_logprobs(logits[1:], ids[:-1]).mean(),
                "Yours forecasts the past: the logits lose their last row, the tokens their first.",
            ),
            WrongAnswer(
                "a loss that forgets the first forecast",
                lambda logits, ids: -_logprobs(logits[1:-1], ids[2:]).mean(),
                "Row 0 forecasts token 1, and this counts as well: only the very first token "
                "has no forecast.",
            ),
            WrongAnswer(
                "a sum instead of a mean",
                lambda logits, ids: -_logprobs(logits[:-1], ids[1:]).sum(),
                "Divide by the number of forecasts, so that texts of all lengths compare.",
            ),
            WrongAnswer(
                "a mean over all L tokens",
                lambda logits, ids: -_logprobs(logits[:-1], ids[1:]).sum() / len(ids),
                "There are L - 1 forecasts for L tokens: divide by these.",
            ),
            WrongAnswer(
                "a loss with its sign turned round",
                lambda logits, ids: _logprobs(logits[:-1], ids[1:]).mean(),
                "Log-probabilities are negative, and a loss is to be made small: minus them.",
            ),
            WrongAnswer(
                "a softmax before the cross entropy",
                lambda logits, ids: -_logprobs(logits[:-1].softmax(dim=-1), ids[1:]).mean(),
                "Cross entropy takes its own softmax: give it the logits, not probabilities.",
            ),
            WrongAnswer(
                "the log of the mean probability",
                lambda logits, ids: -_logprobs(logits[:-1], ids[1:]).exp().mean().log(),
                "The probability of a text is a product, so its logarithm is a sum: take the "
                "logs first and average them.",
            ),
        ),
    ),
    "learning_rate": Exercise(
        reference=learning_rate,
        cases=_rate_cases,
        hint="Two formulas and a choice between them. The second one needs its progress from "
        "0 at the end of the warm-up to 1 at the last step.",
        wrong_answers=(
            WrongAnswer(
                "a warm-up that begins at 0",
                lambda **case: _rates(**case, first=0),
                "Step 0 would be made with rate 0 and change nothing: take step + 1.",
            ),
            WrongAnswer(
                "a cosine that began before the warm-up ended",
                lambda **case: _rates(**case, after=False),
                "Progress counts from the end of the warm-up; or the rate jumps there.",
            ),
            WrongAnswer(
                "a cosine that is too long for what is left",
                lambda **case: _rates(**case, long=True),
                "Progress goes from 0 to 1 after the warm-up: divide by steps - warmup.",
            ),
            WrongAnswer(
                "a warm-up of one step too many",
                lambda **case: _rates(**case, last=1),
                "Step t = warmup belongs to the cosine, and has the peak: t < warmup is the line.",
            ),
            WrongAnswer(
                "a cosine that starts at twice the peak",
                lambda **case: _rates(**case, half=1.0),
                "1 + cos goes from 2 to 0: halve it.",
            ),
            WrongAnswer(
                "a whole turn of the cosine",
                lambda **case: _rates(**case, turns=2.0),
                "Half a turn, from cos 0 to cos π, ends at 0; a whole one comes back to the peak.",
            ),
            WrongAnswer(
                "a quarter of the cosine's turn",
                lambda **case: _rates(**case, turns=0.5),
                "Half a turn, from cos 0 to cos π: yours ends at half the peak.",
            ),
            WrongAnswer(
                "a straight line down",
                lambda **case: _rates(**case, line=True),
                "Linear decay works too, but asked for is half a cosine.",
            ),
        ),
    ),
}
