"""Chapter 11's exercises: first cases by hand, references against the package and enumeration."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from rlbook.checks.generation import EXERCISES
from rlbook.checks.harness import RIGHT, SEED, WRONG, judge
from rlbook.lm import evaluation
from rlbook.lm.batch import position_ids
from rlbook.lm.sampling import restrict

BY_HAND = {
    # p = 0.25, 0.5, 0.1, 0.15. Top-3 drops 0.1. Shares 0.5/0.9, 0.25/0.9: together 0.83 ≥ 0.8
    "next_token_probabilities": [1 / 3, 2 / 3, 0, 0],
    "text_positions": [[0, 0, 0, 1], [0, 1, 2, 3]],
    "response_mask": [[True, True, True, False, False], [True] * 5],
    # pairs out of {right, a, b, c}: 3 of 6 hold the right one
    "mean_pass_at_k": 0.5,
    # 7 has 2 votes of 5 and is right: 1. 4 and 9 tie and 4 is right: 1/2
    "vote_accuracy": 0.75,
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]))
    np.testing.assert_allclose(found, BY_HAND[name], atol=1e-12)


def by_restrict(logits, temperature, top_k, top_p, dtype=torch.float64):
    allowed = restrict(
        torch.tensor(logits, dtype=dtype)[None] / temperature, top_k=top_k, top_p=top_p
    )
    return allowed.softmax(dim=-1)[0]


def by_position_ids(mask):
    return position_ids(torch.tensor(mask))


def row_by_row(ids, eos):
    mask = np.zeros(ids.shape, dtype=bool)
    for row, tokens in enumerate(ids.tolist()):
        length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
        mask[row, :length] = True
    return mask


def by_counting_choices(correct, k):
    """Every choice of k samples, listed where there are not too many."""
    found = []
    for row in correct:
        if len(row) <= 10:
            found.append(np.mean([any(choice) for choice in combinations(row, k)]))
        else:
            found.append(evaluation.pass_at_k(len(row), int(row.sum()), k))
    return np.mean(found)


def by_majority_vote(answers, truth):
    return np.mean(
        [
            evaluation.majority_vote(
                ["" if answer < 0 else str(answer) for answer in row], (row == right).tolist()
            )
            for row, right in zip(answers, truth, strict=True)
        ]
    )


BY_PACKAGE = {
    "next_token_probabilities": by_restrict,
    "text_positions": by_position_ids,
    "response_mask": row_by_row,
    "mean_pass_at_k": by_counting_choices,
    "vote_accuracy": by_majority_vote,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    for case in cases(name):
        found = EXERCISES[name].reference(**case)
        np.testing.assert_allclose(found, BY_PACKAGE[name](**case), atol=1e-12)


def in_32_bits(logits, temperature, top_k, top_p):
    return by_restrict(logits, temperature, top_k, top_p, dtype=torch.float32)


def in_place_of_combinations(correct, k):
    """The package's product, without its case for n - c < k: a factor is 0 there."""
    n = correct.shape[1]
    counts = correct.sum(axis=1)
    return np.mean([1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)) for c in counts])


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("next_token_probabilities", in_32_bits),
        ("text_positions", lambda mask: (np.cumsum(mask, axis=1) - 1).clip(min=0)),
        ("text_positions", lambda mask: np.where(mask, np.cumsum(mask, axis=1) - 1, 0)),
        ("response_mask", row_by_row),
        ("mean_pass_at_k", in_place_of_combinations),
        ("vote_accuracy", by_majority_vote),
    ],
)
def test_other_ways_of_writing_it_are_right(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == RIGHT


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("next_token_probabilities", lambda logits, temperature, top_k, top_p: (  # no truncation
            by_restrict(logits, temperature, None, None))),
        ("next_token_probabilities", lambda logits, temperature, top_k, top_p: (  # p before k
            restrict(restrict(torch.tensor(logits) / temperature, top_p=top_p), top_k=top_k)
            .softmax(-1) * (1 + 1e-3))),
        ("text_positions", lambda mask: mask.astype(int)),
        ("response_mask", lambda ids, eos: np.ones(ids.shape, dtype=bool)),
        ("mean_pass_at_k", lambda correct, k: (  # k and c exchanged
            np.mean(1 - (1 - k / correct.shape[1]) ** correct.sum(axis=1)))),
        ("vote_accuracy", lambda answers, truth: np.median(answers, axis=1).mean()),
    ],
)  # fmt: skip
def test_other_mistakes_are_not_accepted(name: str, answer: Callable) -> None:
    assert judge("x", EXERCISES[name], answer).status == WRONG


def test_no_token_of_a_case_lies_on_an_edge() -> None:
    # where likelier tokens had exactly p together, rounding would decide
    for case in cases("next_token_probabilities"):
        p = np.sort(np.exp(case["logits"] / case["temperature"]))[::-1]
        assert np.abs(np.diff(p)).min() > 1e-6, "ties"
        share = p[: case["top_k"]] / p[: case["top_k"]].sum()
        assert np.abs(np.cumsum(share) - case["top_p"]).min() > 1e-4
        assert share[0] < case["top_p"], "at least two tokens stay"


def test_every_rule_cuts_something_in_some_case() -> None:
    found = [
        (len(case["logits"]), case["top_k"], int((next_token(**case) > 0).sum()))
        for case in cases("next_token_probabilities")
    ]
    assert any(k < V for V, k, _ in found), "top-k"
    assert any(left < k for _, k, left in found), "top-p"
    assert any(left == V for V, _, left in found), "neither"


def next_token(**case) -> np.ndarray:
    return EXERCISES["next_token_probabilities"].reference(**case)
