"""Packing: every text once, no row too full, and no text sees another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlbook.posttrain.packing import Example, encode_examples, micro_batches, pack, rows_of

EXAMPLES = [Example((5, 6, 7), 1), Example((8, 9), 0)]


def test_the_longest_texts_go_first_and_to_the_first_row_with_room():
    """Row of 10: 7 leaves 3, 6 leaves 4; 4 goes beside 6, 3 beside 7; 2 begins a third row."""
    assert pack([3, 7, 2, 6, 4], 10) == [[1, 0], [3, 4], [2]]


def test_texts_of_one_length_fill_the_rows():
    assert pack([5] * 6, 10) == [[0, 1], [2, 3], [4, 5]]
    assert pack([5] * 3, 9) == [[0], [1], [2]]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 50))
def test_every_text_is_packed_once_and_no_row_overflows(lengths, capacity):
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert max(filled) <= capacity
    # No two rows together fit into one: with first-fit the later would have gone to the earlier.
    assert all(a + b > capacity for i, a in enumerate(filled) for b in filled[:i])


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="text 1 has 11 tokens and a row 10"):
        pack([3, 11], 10)


def test_a_row_by_hand():
    """Two texts side by side, then a row with one and its padding."""
    rows = rows_of([EXAMPLES, EXAMPLES[1:]], pad_id=0)
    assert rows.ids.tolist() == [[5, 6, 7, 8, 9], [8, 9, 0, 0, 0]]
    assert rows.text.tolist() == [[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert rows.learnt.int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]]
    first = rows.mask[0, 0].int().tolist()
    assert first == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_one_text_in_a_row_needs_a_mask_of_tokens_only():
    rows = rows_of([EXAMPLES[:1], EXAMPLES[1:]], pad_id=0)
    assert rows.mask.int().tolist() == [[1, 1, 1], [1, 1, 0]]


def test_the_given_tokens_and_the_first_are_not_learnt():
    """Of 4 tokens: prompt of 3 leaves 1, prompt of 1 and no prompt leave 3."""
    assert [Example((1, 2, 3, 4), given).learnt for given in (3, 1, 0)] == [1, 3, 3]
    for given_tokens in (3, 1, 0):
        example = Example((1, 2, 3, 4), given_tokens)
        assert int(rows_of([[example]], pad_id=0).learnt.sum()) == example.learnt


@pytest.mark.parametrize("capacity", [None, 8])
def test_pieces_hold_every_text_once_within_the_memory(capacity):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (30,), generator=generator).tolist()
    examples = [Example((100 + i,) * length, 0) for i, length in enumerate(lengths)]
    pieces = list(micro_batches(examples, capacity=capacity, cells=24, pad_id=0))
    assert all(piece.ids.numel() <= 24 for piece in pieces)
    widths = [piece.ids.shape[1] for piece in pieces]
    assert widths == sorted(widths, reverse=True)
    ids = torch.cat([piece.ids.flatten() for piece in pieces])
    assert torch.bincount(ids, minlength=130)[100:].tolist() == lengths
    learnt = torch.cat([piece.ids[piece.learnt] for piece in pieces])
    assert torch.bincount(learnt, minlength=130)[100:].tolist() == [n - 1 for n in lengths]


def test_a_single_row_may_be_larger_than_the_memory():
    pieces = list(micro_batches(EXAMPLES, capacity=None, cells=1, pad_id=0))
    assert [tuple(piece.ids.shape) for piece in pieces] == [(1, 3), (1, 2)]


def test_prompt_and_response_are_tokenised_apart_and_end_once(policy):
    """Characters as tokens; EOS is appended, but not twice."""
    eos = policy.eos_id
    one, two, three = policy.encode(["12=", "3", "4"])
    examples = encode_examples(policy, [("12=", "3"), (one, [*two, eos]), ("12=", "34")])
    assert examples[0].ids == examples[1].ids == (*one, *two, eos)
    assert examples[2].ids == (*one, *two, *three, eos)
    assert [example.given for example in examples] == [3, 3, 3]
    (whole,) = encode_examples(policy, [("", "34")], mask_prompt=False)
    assert (whole.ids, whole.given) == ((*two, *three, eos), 0)


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([], {}, "there are no examples"),
        ([("1=", "1"), ("", "2")], {}, "example 1 has an empty prompt.*mask_prompt=False"),
        ([("1" * 40, "2" * 40)], {}, "example 0 has 81 tokens with EOS, but must have 2 to 64"),
        ([("", "")], {"mask_prompt": False}, "example 0 has 1 tokens"),
    ],
)
def test_what_cannot_be_learnt_is_refused(policy, examples, options, message):
    with pytest.raises(ValueError, match=message):
        encode_examples(policy, examples, **options)
