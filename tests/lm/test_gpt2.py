"""The book's GPT-2 against transformers' own, on the same parameters: values and gradients."""

import copy

import pytest
import torch
from small_models import tiny_gpt2, tiny_llama

from rlbook.lm import gpt2
from rlbook.lm.batch import position_ids
from rlbook.lm.gpt2 import SIZES, Cache, Size, document_mask, forward, hidden_states, is_plain_gpt2

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = (12, 7, 1)


@pytest.fixture
def model():
    return tiny_gpt2()


def left_padded(seed=0):
    """Ids [3, 12] and their mask, the second and third text shorter."""
    ids = torch.randint(2, 31, (3, 12), generator=torch.Generator().manual_seed(seed))
    return ids, torch.arange(12) >= 12 - torch.tensor(LENGTHS)[:, None]


def theirs(model, ids, mask):
    return model(ids, attention_mask=mask.long(), position_ids=position_ids(mask)).logits


def test_logits_equal_transformers(model):
    ids, _ = left_padded()
    torch.testing.assert_close(forward(model, ids), model(ids).logits, **CLOSE)


def test_logits_equal_transformers_with_left_padding(model):
    ids, mask = left_padded()
    ours = forward(model, ids, position_ids=position_ids(mask), attention_mask=mask)
    torch.testing.assert_close(ours[mask], theirs(model, ids, mask)[mask], **CLOSE)


def test_left_padding_changes_nothing_and_counting_columns_does(model):
    ids, mask = left_padded()
    ours = forward(model, ids, position_ids=position_ids(mask), attention_mask=mask)
    alone = forward(model, ids[1:2, -LENGTHS[1] :])
    torch.testing.assert_close(ours[1:2, -LENGTHS[1] :], alone, **CLOSE)
    trap = forward(model, ids, attention_mask=mask)  # positions 5, 6, ... for the second text
    assert (trap[1, -1] - alone[0, -1]).abs().max() > 0.1


@pytest.mark.parametrize("padded", [False, True])
def test_gradients_equal_transformers(model, padded):
    ids, mask = left_padded()
    mask = mask if padded else torch.ones_like(mask)
    weights = torch.randn(int(mask.sum()), 31, generator=torch.Generator().manual_seed(1))

    def gradients(logits):
        model.zero_grad()
        (logits[mask] * weights).mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    ours = gradients(forward(model, ids, position_ids=position_ids(mask), attention_mask=mask))
    reference = gradients(theirs(model, ids, mask))
    assert ours.keys() == reference.keys()
    for name, gradient in reference.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(ours[name], gradient, **CLOSE, msg=name)


def test_rows_of_padding_alone_give_no_nan(model):
    """A query that may look at nothing: neither its value nor anyone's gradient is NaN."""
    ids, mask = left_padded()
    mask[2] = False
    # The newest kernels of torch forgive such rows by themselves; older and other ones do not.
    added = gpt2._who_sees_whom(12, 0, mask, torch.zeros(()))
    assert (added == 0).any(dim=-1).all() and not (added == 0).all()
    logits = forward(model, ids, position_ids=position_ids(mask), attention_mask=mask)
    assert logits.isfinite().all()
    logits[mask].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pieces", [[12], [8, 1, 1, 1, 1], [5, 4, 3]])
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(model, pieces, padded):
    ids, mask = left_padded()
    mask = mask if padded else torch.ones_like(mask)
    positions = position_ids(mask)
    whole = forward(model, ids, position_ids=positions, attention_mask=mask)
    cache, found, end = Cache(model, 3, slots=14), [], 0
    with torch.no_grad():
        for length in pieces:
            start, end = end, end + length
            found.append(
                forward(
                    model,
                    ids[:, start:end],
                    position_ids=positions[:, start:end] if padded else None,
                    attention_mask=mask[:, :end] if padded else None,
                    cache=cache,
                )
            )
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(found, dim=1)[mask], whole[mask], **CLOSE)


@pytest.mark.parametrize("padded", [False, True])
def test_one_token_after_many(model, padded):
    """From FEW multiplications on, a single query goes another way through attention."""
    ids = torch.randint(2, 31, (2, 60), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :20] = not padded
    positions = position_ids(mask)
    cache, seen = Cache(model, 2, slots=60), mask if padded else None
    with torch.no_grad():
        early = None if seen is None else seen[:, :59]
        forward(
            model, ids[:, :59], position_ids=positions[:, :59], attention_mask=early, cache=cache
        )
        assert 60 * 8 >= gpt2.FEW > 59
        last = forward(
            model, ids[:, 59:], position_ids=positions[:, 59:], attention_mask=seen, cache=cache
        )
    torch.testing.assert_close(last, theirs(model, ids, mask)[:, 59:], **CLOSE)


def test_a_cache_hands_on_chosen_rows(model):
    ids, _ = left_padded()
    rows = torch.tensor([2, 0, 0])
    cache = Cache(model, 3, slots=13)
    forward(model, ids[:, :11], cache=cache)
    cache.select(rows)
    ours = forward(model, ids[rows, 11:], cache=cache)
    torch.testing.assert_close(ours, forward(model, ids[rows])[:, 11:], **CLOSE)


def test_packed_texts_do_not_see_each_other(model):
    texts = [torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8, 9]])]
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
    ids = torch.cat([*texts, torch.tensor([[1, 1]])], dim=1)
    mask = document_mask(documents)
    for form in (mask, mask[:, None]):
        packed = forward(model, ids, position_ids=positions, attention_mask=form)
        torch.testing.assert_close(packed[:, :4], forward(model, texts[0]), **CLOSE)
        torch.testing.assert_close(packed[:, 4:7], forward(model, texts[1]), **CLOSE)


def test_document_mask_by_hand():
    found = document_mask(torch.tensor([[1, 1, 2]]))
    assert found.tolist() == [[[True, False, False], [True, True, False], [False, False, True]]]


def test_logits_only_where_wanted(model):
    ids, mask = left_padded()
    everything = forward(model, ids)
    keep_last = forward(model, ids, keep=slice(-1, None))
    torch.testing.assert_close(keep_last, everything[:, -1:], **CLOSE)
    some = torch.tensor([1, 5])
    torch.testing.assert_close(forward(model, ids, keep=some), everything[:, some], **CLOSE)
    torch.testing.assert_close(forward(model, ids, keep=mask), everything[mask], **CLOSE)
    h = hidden_states(model, ids)
    torch.testing.assert_close(h @ model.transformer.wte.weight.T, everything, **CLOSE)


def test_parameters_are_used_in_place(model):
    """No copy: a change of the model is a change of the next forward."""
    ids, _ = left_padded()
    before = forward(model, ids)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias += 1.0
    after = forward(model, ids)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, model(ids).logits, **CLOSE)


def test_sizes_are_those_of_gpt2():
    """Counted in the published models: 124,439,808 and so on."""
    counts = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1.5B": 1_557_611_200}
    assert {name: size.parameters() for name, size in SIZES.items()} == counts
    model = tiny_gpt2(vocab=31, context=64)
    found = sum(p.numel() for p in model.parameters())
    assert Size(n_layer=2, n_head=4, d=32).parameters(31, 64) == found


def test_what_is_not_plain_gpt2_is_recognised(model):
    assert is_plain_gpt2(model)
    assert not is_plain_gpt2(tiny_llama())
    assert not is_plain_gpt2(tiny_gpt2(activation_function="relu"))
    assert not is_plain_gpt2(tiny_gpt2(scale_attn_by_inverse_layer_idx=True))
    assert not is_plain_gpt2(tiny_gpt2(scale_attn_weights=False))
    hooked = copy.deepcopy(model)
    hooked.transformer.h[0].mlp.register_forward_hook(lambda *_: None)
    assert not is_plain_gpt2(hooked)
    replaced = copy.deepcopy(model)
    replaced.transformer.h[0].mlp.c_fc = torch.nn.Linear(32, 128)
    assert not is_plain_gpt2(replaced)
    model.train()  # dropout is at its 0.1 here
    assert not is_plain_gpt2(model)
    model.eval()
    model.transformer.h[0].gradient_checkpointing = True
    assert not is_plain_gpt2(model)
