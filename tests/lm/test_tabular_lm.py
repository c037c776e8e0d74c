"""TabularLM against its own table, against itself with a cache, and against GPT-2."""

import copy

import pytest
import torch
from naive_texts import SPACES, build, naive_rows
from small_models import tiny_gpt2

from rlbook.lm.batch import position_ids
from rlbook.lm.exact import enumerate_responses, enumerated_logprobs
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy
from rlbook.lm.tabular_lm import TabularLM

NAMES = list(SPACES)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- the table -------------------------------------------------------------------------------


def test_a_row_for_every_text():
    """Prompt 1, V = 2, T = 2, no EOS: rows for the prefixes (), (0), (1)."""
    model = TabularLM([[1]], vocab_size=2, max_new_tokens=2)
    with torch.no_grad():
        model.table.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    logits = model(torch.tensor([[1, 0, 1], [1, 1, 1]])).logits
    # After the second response token the text is complete: nothing to choose, logits 0.
    assert logits.tolist() == [[[1, 2], [3, 4], [0, 0]], [[1, 2], [5, 6], [0, 0]]]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_rows_of_the_table(name):
    model = build(name)
    for (prompt, prefix), row in naive_rows(model).items():
        logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
        same(logits, model.table[row])


def test_fixtures():
    g = torch.Generator().manual_seed(3)
    fixed, eos = TabularLM.fixed_length(g), TabularLM.with_eos(g, prompts=[[0], [1, 1]])
    assert fixed.table.shape == (13, 3)
    assert eos.table.shape == (14, 3)
    assert fixed.table.dtype == torch.float64
    assert (fixed.config.eos_token_id, fixed.config.pad_token_id) == (None, 0)
    assert (eos.config.eos_token_id, eos.config.pad_token_id) == (2, 2)
    assert (eos.config.vocab_size, eos.config.max_position_embeddings) == (3, 2 + 3)
    again = TabularLM.fixed_length(torch.Generator().manual_seed(3))
    same(fixed.table, again.table)


def test_without_a_generator_the_policy_is_uniform():
    model = TabularLM([[0]], vocab_size=4, max_new_tokens=2, dtype=torch.float32)
    assert model.table.dtype == torch.float32
    assert not model.table.any()


def test_scale_is_the_spread_of_the_logits():
    same(build("eos", scale=0.5).table, 0.5 * build("eos").table)


# --- forward, as transformers' models offer it ----------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    """The whole batch, padded by two more columns on each side with junk, against row by row."""
    model = build(name)
    responses = enumerate_responses(model)
    ids, mask = responses.sequence_ids, responses.sequence_mask
    junk = torch.randint(99, (len(ids), 2), generator=torch.Generator().manual_seed(1))
    none = torch.zeros_like(junk).bool()
    ids, mask = torch.cat([junk, ids, junk], dim=1), torch.cat([none, mask, none], dim=1)
    logits = model(ids, mask.long(), position_ids(mask)).logits
    for row in range(len(ids)):
        alone = model(ids[row, mask[row]][None]).logits[0]
        same(logits[row, mask[row]], alone)
        assert not logits[row, ~mask[row]].any()


@pytest.mark.parametrize("name", NAMES)
def test_token_by_token_with_a_cache(name):
    """Prompts once, repeated for their responses, then one column at a time."""
    model = build(name)
    responses = enumerate_responses(model)
    N, M = len(model.space.prompts), len(model.space.responses)
    whole = model(responses.sequence_ids, responses.sequence_mask).logits
    P, mask = responses.prompt_ids.shape[1], responses.sequence_mask
    prompts = responses.prompt_ids[::M]
    out = model(prompts, mask[::M, :P], use_cache=True, logits_to_keep=1)
    assert out.logits.shape == (N, 1, model.config.vocab_size)
    cache = out.past_key_values
    assert cache.get_seq_length() == P
    cache.batch_repeat_interleave(M)
    same(out.logits[:, 0].repeat_interleave(M, dim=0), whole[:, P - 1])

    rows = torch.arange(N * M)
    for t in range(responses.response_ids.shape[1] - 1):
        keep = responses.response_mask[rows, t].nonzero()[:, 0]  # drop finished rows
        cache.batch_select_indices(keep)
        rows = rows[keep]
        out = model(
            responses.response_ids[rows, t][:, None],
            attention_mask=mask[rows, : P + t + 1],
            position_ids=position_ids(mask[rows])[:, P + t][:, None],
            past_key_values=cache,
            use_cache=True,
        )
        assert out.past_key_values is cache
        assert cache.get_seq_length() == P + t + 1
        same(out.logits[:, 0], whole[rows, P + t])


def test_no_cache_unless_asked_for():
    model = build("eos")
    ids = torch.tensor([[0, 1]])
    assert model(ids).past_key_values is None
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == 2


def test_logits_to_keep():
    model = build("fixed")
    ids = torch.tensor([[0, 1, 2, 0], [0, 2, 2, 1]])
    logits = model(ids).logits
    same(model(ids, logits_to_keep=0).logits, logits)
    same(model(ids, logits_to_keep=2).logits, logits[:, -2:])
    same(model(ids, logits_to_keep=9).logits, logits)
    same(model(ids, logits_to_keep=torch.tensor([2, 0])).logits, logits[:, [2, 0]])


def test_wrong_positions_of_a_cached_column_are_found():
    model = build("eos-two-prompts")
    mask = torch.tensor([[0, 1], [1, 1]])
    cache = model(torch.tensor([[0, 0], [2, 2]]), mask, use_cache=True).past_key_values
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match=r"row 0 has position_ids \[2\].*stand at \[1\]"):
        model(torch.tensor([[1], [1]]), mask, torch.tensor([[2], [2]]), cache)


def test_gradient_reaches_the_rows_read_and_no_others():
    model = build("eos")
    model(torch.tensor([[0, 1, 2, 2], [0, 1, 0, 0]])).logits.sum().backward()
    # Row 0 (after the prompt) is read twice, row 2 (prefix 1) twice, row 5 (prefix 1 0) once.
    expected = torch.zeros(7, 3, dtype=torch.float64)
    expected[[0, 2, 5]] = torch.tensor([[2.0], [2.0], [1.0]], dtype=torch.float64)
    same(model.table.grad, expected)


# --- the rest of the book uses it as it uses GPT-2 -------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_shift_of_logprobs_finds_the_same_numbers(name):
    model = build(name)
    responses = enumerate_responses(model)
    found, looked_up = response_logprobs(model, responses), enumerated_logprobs(model)
    torch.testing.assert_close(found, looked_up, rtol=0, atol=1e-12)
    weights = torch.arange(1.0, 1.0 + found.numel(), dtype=torch.float64).reshape(found.shape)
    gradients = [
        torch.autograd.grad((weights * x).sum(), model.table)[0] for x in (found, looked_up)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_it_is_a_policys_model():
    policy = Policy(build("eos-two-prompts"))
    assert (policy.vocab_size, policy.context) == (3, 3 + 3)
    assert (policy.eos_id, policy.pad_id) == (2, 2)
    responses = enumerate_responses(policy.model)
    texts = [policy.decode(row[: int(n)]) for row, n in zip(
        responses.response_ids.tolist(), responses.lengths, strict=True)]  # fmt: skip
    assert texts == responses.texts


# --- copies ----------------------------------------------------------------------------------


def test_a_copy_stays_where_it_is():
    model = build("eos-two-prompts", pad_id=1)
    before = model.table.detach().clone()
    for other in (model.like(), copy.deepcopy(model)):
        same(other.table, before)
        assert other.space == model.space
        assert other.config == model.config
        with torch.no_grad():
            other.table += 1.0
        same(model.table, before)


def test_like_takes_a_table():
    model = build("eos")
    table = torch.linspace(0, 1, 21).reshape(7, 3).requires_grad_()
    other = model.like(table)
    same(other.table, table)
    assert other.table.is_leaf
    with pytest.raises(ValueError, match=r"shape \(7, 2\).*\(7, 3\)"):
        model.like(table[:, :2])


def test_state_dict():
    model, other = build("eos", seed=0), build("eos", seed=1)
    assert list(model.state_dict()) == ["table"]
    other.load_state_dict(model.state_dict())
    same(other.table, model.table)


@pytest.mark.parametrize("name", ["fixed", "eos-two-prompts"])
def test_gpt2_as_a_table(name):
    model = build(name)
    gpt2 = tiny_gpt2(vocab=3, context=8, pad_token_id=2, eos_token_id=2)
    table = model.tabulate(gpt2).table
    assert table.dtype == torch.float64
    with torch.no_grad():
        for (prompt, prefix), row in naive_rows(model).items():
            alone = gpt2(torch.tensor([[*prompt, *prefix]])).logits[0, -1].double()
            torch.testing.assert_close(table[row], alone, rtol=1e-5, atol=1e-5)


def test_a_table_of_a_table_is_itself():
    model = build("eos-two-prompts")
    same(build("eos-two-prompts", seed=5).tabulate(model).table, model.table)


def test_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="among 5 tokens, the table among 3"):
        build("eos").tabulate(tiny_gpt2(vocab=5, context=8))


def test_a_pad_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="pad_id=3 is not a token"):
        TabularLM([[0]], vocab_size=3, max_new_tokens=2, pad_id=3)
