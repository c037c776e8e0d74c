"""Chapter 13's exercises: first cases by hand, references against the package and autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, WRONG, judge
from rlbook.checks.imitation import EXERCISES
from rlbook.functional.masked import aggregate
from rlbook.lm.gpt2 import document_mask
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.packing import Example, rows_of

BY_HAND = {
    "learnt_tokens": [[False, False, True, True, False]],
    # -(log 1/4 + log 3/4) / 2 = (2 log 4 - log 3) / 2
    "masked_loss": (2 * np.log(4.0) - np.log(3.0)) / 2,
    "step_loss": 4.0,  # (2·2 + 8) / 3
    "packed_attention": [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ],
    # 4*9 = 6 with 0.9·0.3, 4+9 = 3 with 0.9·0.7, and 0.01 for every digit
    "chain_distribution": [0.01, 0.01, 0.01, 0.64, 0.01, 0.01, 0.28, 0.01, 0.01, 0.01],
    # rows 0 and 1: 1/2 · (onehot - 1/3)
    "imitate": [[-1 / 6, 1 / 3, -1 / 6], [-1 / 6, -1 / 6, 1 / 3], [0.0, 0.0, 0.0]],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]), float)
    np.testing.assert_allclose(found, np.asarray(BY_HAND[name], float), atol=1e-12)


def by_rows(prompt_lengths, lengths, width):
    """``rows_of``, one text in a row, and one more row that makes them wide enough."""
    pairs = zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)
    texts = [Example((0,) * n, p) for p, n in pairs]
    return rows_of([[text] for text in [*texts, Example((0,) * width, 0)]], pad_id=0).learnt[:-1]


def by_cross_entropy(logits, ids, learnt):
    labels = torch.where(torch.tensor(learnt), torch.tensor(ids), -100)[:, 1:]
    flat = torch.tensor(logits[:, :-1]).flatten(0, 1)
    return torch.nn.functional.cross_entropy(flat, labels.flatten()).item()


def by_aggregate(means, counts):
    """Micro-batches whose tokens all have the mean loss, with the step's denominator."""
    total = int(counts.sum())
    parts = [
        aggregate(torch.full((1, n), m), torch.ones(1, n, dtype=torch.bool), "token-mean",
                  denominator=total)
        for m, n in zip(means.tolist(), counts.tolist(), strict=True)
    ]  # fmt: skip
    return sum(part.item() for part in parts)


def by_document_mask(lengths, width):
    texts = [number for number, n in enumerate(lengths) for _ in range(n)]
    return document_mask(torch.tensor([texts + [-1] * (width - len(texts))]))[0]


def by_task(first, operators, digits, bias, noise):
    prompt = str(first) + "".join(f"{o}{d}" for o, d in zip(operators, digits, strict=True)) + "="
    return Arithmetic(bias=bias, noise=noise).answer_probabilities([Problem(prompt)])[0]


def by_autograd(table, texts, prompt_lengths, steps, rate):
    """Gradient descent on the cross-entropy of all response tokens together."""
    table = torch.tensor(table, requires_grad=True)
    pairs = [
        (text[t - 1], text[t])
        for text, given in zip(texts, prompt_lengths, strict=True)
        for t in range(given, len(text))
    ]
    seen, followed = torch.tensor(pairs).T
    optimiser = torch.optim.SGD([table], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(table[seen], followed).backward()
        optimiser.step()
    return table.detach()


BY_PACKAGE = {
    "learnt_tokens": by_rows,
    "masked_loss": by_cross_entropy,
    "step_loss": by_aggregate,
    "packed_attention": by_document_mask,
    "chain_distribution": by_task,
    "imitate": by_autograd,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    tolerance = 1e-6 if name == "step_loss" else 1e-12  # aggregate is given 32-bit losses
    for case in cases(name):
        found = np.asarray(EXERCISES[name].reference(**case), float)
        other = np.asarray(BY_PACKAGE[name](**case), float)
        np.testing.assert_allclose(found, other, atol=tolerance, rtol=tolerance)


def mask_as_loop(prompt_lengths, lengths, width):
    return [
        [max(p, 1) <= t < n for t in range(width)]
        for p, n in zip(prompt_lengths, lengths, strict=True)
    ]


def attention_as_loop(lengths, width):
    mask, start = torch.zeros(width, width, dtype=torch.bool), 0
    for n in [*lengths, width - sum(lengths)]:
        mask[start : start + n, start : start + n] = torch.ones(n, n).tril().bool()
        start += n
    return mask


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("learnt_tokens", mask_as_loop),
        ("packed_attention", attention_as_loop),
        ("step_loss", lambda means, counts: np.average(means, weights=counts)),
        ("imitate", by_autograd),
        ("chain_distribution", by_task),
    ],
)
def test_other_ways_of_writing_it_are_right(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == RIGHT


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("masked_loss", lambda logits, ids, learnt: (  # sum of probabilities' log
            -np.log(np.exp(logits).mean()))),
        ("chain_distribution", lambda first, operators, digits, bias, noise: (  # no working at all
            np.full(10, 0.1))),
        ("step_loss", lambda means, counts: float(means[np.argmax(counts)])),
    ],
)  # fmt: skip
def test_other_mistakes_are_not_accepted(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == WRONG


def test_an_answer_in_32_bits_is_right() -> None:
    def answer(table, texts, prompt_lengths, steps, rate):
        return by_autograd(table.astype(np.float32), texts, prompt_lengths, steps, rate)

    assert judge("x", EXERCISES["imitate"], answer).status == RIGHT
