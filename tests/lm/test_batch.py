"""Padding, masks, choosing rows, pieces that fit in memory."""

import pytest
import torch
from ragged import EXACT, as_a_user, batch
from small_models import EOS, PAD, char_tokenizer, tiny_gpt2, tiny_llama

from rlbook.functional.masked import aggregate
from rlbook.lm.batch import (
    Responses,
    concatenate,
    micro_batches,
    pad_left,
    pad_right,
    position_ids,
    responses_from_texts,
)
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy
from rlbook.lm.tabular_lm import TabularLM


def rows_of(responses):
    """Every row without its padding, as lists; and the sampler's log-probabilities."""
    tensors = (responses.prompt_ids, responses.prompt_mask)
    prompts = [ids[mask].tolist() for ids, mask in zip(*tensors, strict=True)]
    mask = responses.response_mask
    answers = [ids[m].tolist() for ids, m in zip(responses.response_ids, mask, strict=True)]
    drawn = [x[m].tolist() for x, m in zip(responses.sampler_logprobs, mask, strict=True)]
    return prompts, answers, drawn, responses.texts, responses.truncated.tolist()


def numbered(extra=(0, 0)):
    """The ragged batch, its log-probabilities and texts telling the rows apart."""
    plain = batch(extra=extra)
    rows = torch.arange(1.0, 5.0)[:, None]
    return Responses(
        plain.prompt_ids,
        plain.prompt_mask,
        plain.response_ids,
        plain.response_mask,
        -rows - torch.arange(plain.response_ids.shape[1]) / 10,
        ["a", "b", "c", "d"],
        torch.tensor([False, False, False, True]),
    )


# --- padding ---------------------------------------------------------------------------------


def test_padding_by_hand():
    ids, mask = pad_left([[3, 4], [5], []], 9)
    assert ids.tolist() == [[3, 4], [9, 5], [9, 9]]
    assert mask.tolist() == [[True, True], [False, True], [False, False]]
    ids, mask = pad_right([(3, 4), (5,)], 9)
    assert ids.tolist() == [[3, 4], [5, 9]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert ids.dtype == torch.long
    for pad in (pad_left, pad_right):
        with pytest.raises(ValueError, match="nothing to pad"):
            pad([], 9)


def test_masks_go_by_position_where_the_pad_is_a_token_of_the_text():
    ids, mask = pad_right([[EOS, 5, EOS], [EOS]], EOS)
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    assert ids.tolist() == [[EOS, 5, EOS], [EOS] * 3]


def test_positions_by_hand():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).bool()
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 3, 4, 5]]


def test_side_by_side_by_hand():
    responses = batch()
    assert responses.sequence_ids[1].tolist() == [EOS] * 4 + [10, 21, 22, 23, EOS]
    assert responses.sequence_mask[0].tolist() == [True] * 7 + [False] * 2
    assert responses.lengths.tolist() == [2, 4, 1, 3]
    assert responses.prompt_lengths.tolist() == [5, 1, 3, 2]
    assert len(responses) == 4
    assert responses.truncated.tolist() == [False] * 4
    assert responses.to("cpu").texts == responses.texts


# --- choosing rows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [slice(1, 3), [2, 0, 0], torch.tensor([3]), torch.tensor([True, False, False, True]), [-1]],
    ids=str,
)
def test_select_keeps_rows_and_cuts_columns(rows):
    chosen = numbered(extra=(2, 3)).select(rows)
    expected = [part[i] for i in torch.arange(4)[rows].tolist() for part in [range(4)]]
    for ours, every in zip(rows_of(chosen), rows_of(numbered()), strict=True):
        assert ours == [every[i] for i in expected]
    assert chosen.prompt_ids.shape[1] == chosen.prompt_lengths.max()
    assert chosen.response_ids.shape[1] == chosen.lengths.max()


def test_select_keeps_a_column_for_a_response_without_tokens():
    chosen = batch([[5], [6]], [[7, 8], []]).select([1])
    assert chosen.response_ids.shape == (1, 1)
    assert not chosen.response_mask.any()


def test_select_does_not_change_logprobs():
    model, responses = tiny_gpt2().double(), batch(extra=(3, 2))
    every = response_logprobs(model, responses)
    for rows in ([1], [2, 3], [3, 0, 1, 2]):
        scores = response_logprobs(model, responses.select(rows))
        T = scores.shape[1]
        torch.testing.assert_close(scores, every[rows][:, :T], **EXACT)
        assert (every[rows][:, T:] == 0).all()


def test_concatenate_pads_to_the_longest():
    whole = numbered()
    pieces = [whole.select([0]), whole.select([1]), whole.select([2, 3])]
    joined = concatenate(iter(pieces))
    assert rows_of(joined) == rows_of(whole)
    assert joined.sequence_ids.shape == whole.sequence_ids.shape
    assert torch.equal(joined.sequence_mask, whole.sequence_mask)
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate([])


# --- pieces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{}, {"max_rows": 1}, {"max_rows": 3}, {"max_tokens": 12}, {"max_tokens": 1}], ids=str
)
def test_every_row_is_in_one_piece_and_pieces_keep_their_limits(limits):
    responses = numbered()
    pieces = list(micro_batches(responses, **limits))
    assert sorted(torch.cat(pieces).tolist()) == [0, 1, 2, 3]
    lengths = [(responses.prompt_lengths + responses.lengths)[piece].tolist() for piece in pieces]
    assert [n for piece in lengths for n in piece] == [7, 5, 5, 4]  # the longest first
    for piece in pieces:
        cells = responses.select(piece).sequence_ids.numel()
        assert len(piece) <= limits.get("max_rows", 4)
        assert len(piece) == 1 or cells <= limits.get("max_tokens", 100)
    expected = {"{}": 1, "{'max_rows': 1}": 4, "{'max_rows': 3}": 2, "{'max_tokens': 12}": 3}
    assert len(pieces) == expected.get(str(limits), 4)


def test_gradients_of_pieces_add_up_to_that_of_the_batch():
    model, responses = tiny_gpt2().double(), batch()
    count = int(responses.response_mask.sum())

    def gradient(part):
        loss = aggregate(
            -response_logprobs(model, part), part.response_mask, "token-mean", denominator=count
        )
        return torch.autograd.grad(loss, model.transformer.wte.weight)[0]

    pieces = [responses.select(rows) for rows in micro_batches(responses, max_tokens=12)]
    torch.testing.assert_close(sum(map(gradient, pieces)), gradient(responses), **EXACT)


def test_limits_below_1_are_refused():
    for limit in ({"max_rows": 0}, {"max_tokens": -1}):
        with pytest.raises(ValueError, match="must be at least 1"):
            list(micro_batches(batch(), **limit))


# --- from texts ------------------------------------------------------------------------------


def policy(model=None):
    return Policy(model or tiny_gpt2(), char_tokenizer())


def test_texts_become_responses_with_eos():
    tokenizer = char_tokenizer()
    responses = responses_from_texts(policy(), ["1+2=", "3"], ["3", "1,2"])
    prompts, answers, drawn, texts, truncated = rows_of(responses)
    assert [tokenizer.decode(p) for p in prompts] == ["1+2=", "3"]
    assert [a[-1] for a in answers] == [EOS, EOS]
    assert [tokenizer.decode(a[:-1]) for a in answers] == ["3", "1,2"]
    assert texts == ["3", "1,2"]
    assert truncated == [False, False]
    assert drawn == [[0.0] * 2, [0.0] * 4]
    assert (responses.response_ids[0, 2:] == PAD).all()
    open_ended = responses_from_texts(policy(), ["1+2=", "3"], ["3", "1,2"], end=False)
    assert open_ended.lengths.tolist() == [1, 3]


def test_ids_become_responses_and_eos_is_not_doubled():
    responses = responses_from_texts(policy(), [[5, 6]] * 2, [[7, EOS], [8]])
    assert rows_of(responses)[1] == [[7, EOS], [8, EOS]]
    assert responses.texts == [char_tokenizer().decode([7]), char_tokenizer().decode([8])]


def test_texts_of_a_table_are_ids_with_spaces():
    table = Policy(TabularLM.with_eos(torch.Generator().manual_seed(0)), None)
    responses = responses_from_texts(table, [[0]] * 3, ["0 1", "", [1]])
    assert rows_of(responses)[1] == [[0, 1, 2], [2], [1, 2]]
    assert responses.texts == ["0 1", "", "1"]
    fixed = Policy(TabularLM.fixed_length(torch.Generator().manual_seed(0)), None)
    with pytest.raises(ValueError, match="no EOS to append: pass end=False"):
        responses_from_texts(fixed, [[0]], ["0 1 2"])
    assert responses_from_texts(fixed, [[0]], ["0 1 2"], end=False).lengths.tolist() == [3]


def test_a_bos_of_the_tokenizer_stays_out_of_the_response():
    """Llama's tokenizers put a BOS before whatever they read."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = char_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("j")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="j $A", special_tokens=[("j", bos)]
    )
    responses = responses_from_texts(Policy(tiny_llama(), tokenizer), ["1"], ["2"])
    one, two = tokenizer.convert_tokens_to_ids(["1", "2"])
    assert rows_of(responses)[:2] == ([[bos, one]], [[two, EOS]])


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 prompts and 1 texts: give one text per prompt"):
        responses_from_texts(policy(), ["1", "2"], ["3"])
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        responses_from_texts(policy(), ["1", "2"], ["3", ""], end=False)
    with pytest.raises(ValueError, match=r"prompt 1 has 30 tokens and its text 35, but .* 64"):
        responses_from_texts(policy(), ["1", "2" * 30], ["3", "4" * 34])
    exact = responses_from_texts(policy(), ["2" * 30], ["4" * 33])
    assert exact.sequence_ids.shape == (1, 64)


# --- the door --------------------------------------------------------------------------------


def changed(**fields):
    given = {
        "prompt_ids": torch.tensor([[0, 5], [6, 7]]),
        "prompt_mask": torch.tensor([[False, True], [True, True]]),
        "response_ids": torch.tensor([[8, 9], [8, 0]]),
        "response_mask": torch.tensor([[True, True], [True, False]]),
        "sampler_logprobs": torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]]),
        "texts": ["x", "y"],
    }
    return Responses(**(given | fields))


def test_what_stands_in_masked_cells_of_the_log_probabilities_is_wiped():
    attached = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]], requires_grad=True)
    responses = changed(sampler_logprobs=attached)
    assert responses.sampler_logprobs.tolist() == [[-1, -2], [-3, 0]]
    assert not responses.sampler_logprobs.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_mask": torch.tensor([[True, False], [True, True]])}, "prompt_mask: row 0 is not"),
        ({"prompt_mask": torch.tensor([[True, True], [False, False]])}, "row 1 .* on the left"),
        ({"response_mask": torch.tensor([[True, True], [False, True]])}, "row 1 .* on the right"),
        ({"response_mask": torch.ones(2, 2)}, "response_mask holds torch.float32.*bool"),
        ({"prompt_ids": torch.ones(2, 2)}, "prompt_ids holds torch.float32.*long"),
        ({"response_ids": torch.ones(2, 3).long()}, r"response_mask has shape \(2, 2\)"),
        ({"sampler_logprobs": torch.ones(2, 1)}, r"sampler_logprobs has shape \(2, 1\)"),
        ({"texts": ["x"]}, "1 texts"),
        ({"truncated": torch.tensor([True])}, r"truncated has shape \(1,\) for 2 responses"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused(fields, message):
    with as_a_user(), pytest.raises(ValueError, match=message):
        changed(**fields)


def test_an_empty_choice_is_refused():
    with pytest.raises(ValueError, match="no row is chosen from these 4 responses"):
        batch().select([])
    with pytest.raises(ValueError, match="no row is chosen"):
        batch().select(torch.zeros(4, dtype=torch.bool))
