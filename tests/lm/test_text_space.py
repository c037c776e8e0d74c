"""States and responses of short texts: numbered by arithmetic, checked against plain counting."""

import pytest
import torch
from naive_texts import SPACES, all_texts, build, naive_responses, naive_rows

from rlbook.lm.batch import pad_left, pad_right
from rlbook.lm.text_space import TextSpace

NAMES = list(SPACES)


def test_the_numbers_of_a_small_space():
    """V = 3 with EOS 2, so A = 2; T = 3: prefixes of 0, 1, 2 letters, 1 + 2 + 4 = 7 states."""
    space = TextSpace(((0,),), 3, 3, 2)
    assert space.letters == (0, 1)
    assert space.prefixes == [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    # EOS after each of the 7 prefixes, and 2³ = 8 responses that the limit cuts.
    assert len(space) == 7
    assert len(space.responses) == 7 + 8
    assert space.responses[:3] == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert space.responses[-1] == (2,)
    # prompt 0, then 1, 0: after the prompt state 0, after 1 state 1 + 1, after 1 0 state 3 + 2.
    assert space.states(torch.tensor([[0, 1, 0]])).tolist() == [[0, 2, 5]]
    # After the third token, or after an EOS, nothing is chosen.
    assert space.states(torch.tensor([[0, 1, 0, 1], [0, 1, 2, 2]])).tolist() == [
        [0, 2, 5, -1],
        [0, 2, -1, -1],
    ]


def test_fixed_length_has_27_responses():
    space = TextSpace(((0,),), 3, 3)
    assert (len(space), len(space.responses)) == (1 + 3 + 9, 27)


@pytest.mark.parametrize("name", NAMES)
def test_states_and_responses_are_those_of_a_plain_count(name):
    model = build(name)
    space, rows = model.space, naive_rows(model)
    assert len(space) == len(rows)
    assert [(x, prefix) for x in space.prompts for prefix in space.prefixes] == list(rows)
    assert space.responses == list(naive_responses(model))


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_finds_the_row_of_every_prefix(name):
    """Every text at once, prompts padded on the left, responses on the right."""
    model = build(name)
    rows, texts = naive_rows(model), all_texts(model)
    prompt_ids, prompt_mask = pad_left([x for x, _ in texts], 0)
    response_ids, response_mask = pad_right([y for _, y in texts], 0)
    ids = torch.cat([prompt_ids, response_ids], dim=1)
    mask = torch.cat([prompt_mask, response_mask], dim=1)
    states = model.space.states(ids, mask)
    P = prompt_ids.shape[1]
    for found, (x, y) in zip(states.tolist(), texts, strict=True):
        right = [rows.get((x, y[:t]), -1) for t in range(len(y) + 1)]
        right += [-1] * (ids.shape[1] - P - len(y))
        assert found == [-1] * (P - 1) + right


@pytest.mark.parametrize("name", NAMES)
def test_paths_hold_the_row_of_every_choice(name):
    model = build(name)
    rows = naive_rows(model)
    paths = model.space.paths(torch.device("cpu"))
    for i, (x, y) in enumerate(all_texts(model)):
        assert paths.mask[i].tolist() == [t < len(y) for t in range(model.space.max_new_tokens)]
        assert paths.tokens[i, : len(y)].tolist() == list(y)
        assert paths.states[i, : len(y)].tolist() == [rows[x, y[:t]] for t in range(len(y))]


def test_what_stands_under_padding_does_not_matter():
    space = TextSpace(((0,), (1, 2)), 3, 3, 2)
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    ids = torch.tensor([[0, 0, 1, 0, 0], [1, 2, 0, 0, 0]])
    junk = torch.tensor([[1, 0, 1, 0, -100], [1, 2, 0, 99, 2]])
    expected = [[-1, 0, 2, 5, -1], [-1, 7, 8, -1, -1]]
    assert space.states(ids, mask).tolist() == expected
    assert space.states(junk, mask).tolist() == expected


def test_spaces_compare_by_their_texts():
    space = TextSpace(((0,),), 3, 3, 2)
    assert space == TextSpace(((0,),), 3, 3, 2)
    for other in (((1,),), 3, 3, 2), (((0,),), 3, 2, 2), (((0,),), 3, 3, 1), (((0,),), 3, 3, None):
        assert space != TextSpace(*other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 3, 3), "0 prompts"),
        ((((0,),), 1, 3), "vocab_size=1"),
        ((((0,),), 3, 0), "max_new_tokens=0"),
        ((((0,), ()), 3, 3), r"prompt 1 = \[\] needs one or more ids from 0 to 2"),
        ((((0, 3),), 3, 3), r"prompt 0 = \[0, 3\]"),
        ((((0,), (1,), (0, 2)), 3, 3), r"prompt 2 = \[0, 2\] begins with prompt 0 = \[0\]"),
        ((((0, 2), (1,), (0,)), 3, 3), r"prompt 0 = \[0, 2\] begins with prompt 2 = \[0\]"),
        ((((1,), (1,)), 3, 3), r"prompt 1 = \[1\] begins with prompt 0"),
        ((((0,),), 3, 3, 3), "eos_id=3 is not a token"),
        ((((0,),), 10, 7), "10000000 responses, more than the 1000000"),
    ],
)
def test_a_space_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextSpace(*arguments)


LEFT = [[0, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("ids", "mask", "positions", "message"),
    [
        ([[1, 0, 0, 0], [2, 0, 0, 0]], None, None, r"row 1 reads \[2, 0, 0, 0\] after its padding"),
        ([[0, 2, 1, 0], [1, 2, 0, 0]], LEFT, None, r"row 0 reads \[2, 1, 0\] after its padding"),
        ([[1], [0]], None, None, r"row 1 reads \[0\]"),  # half a prompt
        ([[1, 0, 0, 3], [1, 0, 0, 0]], None, None, "ids span 0..3; the vocabulary is 0..2"),
        ([[1, 0, 0, -1], [1, 0, 0, 0]], None, None, "ids span -1..1"),
        ([[1, 0, 0, 0], [1, 0, 0, 0]], [[1, 0, 1, 1], [1] * 4], None, "row 0 has padding inside"),
        ([[1, 0, 0, 0], [1, 0, 0, 0]], [[1] * 4], None, r"attention_mask has shape \(1, 4\)"),
        ([[0, 1, 1, 0], [1] * 4], LEFT, [[0, 1, 2, 3]] * 2, r"position_ids \[0, 1, 2, 3\].*0, 1"),
        ([[0, 1, 1, 0], [1] * 4], LEFT, [[0, 1, 2, 3]], "row 0 has position_ids"),
        ([[1] * 6, [1, 1, 1, 1, 2, 0]], None, None, "longer than 3 tokens.*max_new_tokens=3"),
        ([[1, 0, 0, 0, 2]], None, None, "longer than 3 tokens"),
    ],
)
def test_a_text_outside_the_space(ids, mask, positions, message):
    space = TextSpace(((1,), (0, 1)), 3, 3, 2)
    arguments = (None if x is None else torch.tensor(x) for x in (mask, positions))
    with pytest.raises(ValueError, match=message):
        space.states(torch.tensor(ids), *arguments)


def test_after_an_eos_anything_may_follow():
    """An engine may keep a finished row in its batch, feeding it padding."""
    space = TextSpace(((1,),), 3, 2, 2)
    assert space.states(torch.tensor([[1, 2, 0, 0, 2, 1]])).tolist() == [[0, -1, -1, -1, -1, -1]]


def test_half_a_prompt_is_no_prompt():
    with pytest.raises(ValueError, match=r"row 0 reads \[1\] after its padding"):
        TextSpace(((1, 1),), 3, 3).states(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
