"""Masked means, whitening, and the aggregation that makes a loss a number."""

import math

import pytest
import torch
from rollouts import NAN

from rlbook.functional.kl import kl_k1, kl_k2, kl_k3
from rlbook.functional.masked import aggregate, blank, masked_mean, masked_whiten, unit_count
from rlbook.functional.off_policy import importance_ratios
from rlbook.functional.policy_losses import ppo_clip_loss, reinforce_loss
from rlbook.functional.value_losses import clipped_value_loss, huber_loss, squared_loss

HOWS = ("token-mean", "sequence-mean", "fixed-length")
X = torch.tensor([[1.0, 2.0, 4.0], [8.0, NAN, NAN]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False]])


def ragged(B=16, T=9, seed=0):
    """Random numbers, and a mask with rows of 1 to T tokens; token counts of the halves differ."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (B,), generator=g)
    lengths[: B // 2] = lengths[: B // 2].clamp(max=3)
    return x, torch.arange(T) < lengths[:, None]


def length_of(how, T):
    return T if how == "fixed-length" else None


# --- masked_mean and masked_whiten -----------------------------------------------------------


def test_masked_mean_by_hand():
    assert masked_mean(X, MASK).item() == (1 + 2 + 4 + 8) / 4
    assert masked_mean(X, MASK, dim=1).tolist() == [(1 + 2 + 4) / 3, 8]
    assert masked_mean(X[:, :1], MASK[:, :1], dim=0).tolist() == [(1 + 8) / 2]
    assert masked_mean(X[0], MASK[0]).item() == (1 + 2 + 4) / 3


def test_masked_mean_is_the_mean_of_the_chosen():
    x, mask = ragged()
    torch.testing.assert_close(masked_mean(x, mask), x[mask].mean(), rtol=1e-12, atol=1e-12)


def test_whitening_by_hand():
    x, mask = (
        torch.tensor([[0.0, 4.0, NAN]], dtype=torch.float64),
        torch.tensor([[True, True, False]]),
    )
    # mean 2, population variance 4
    expected = torch.tensor([[-1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(masked_whiten(x, mask), expected, rtol=1e-8, atol=1e-8)
    kept = torch.tensor([[2 - 1.0, 2 + 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(masked_whiten(x, mask, shift_mean=False), kept, rtol=1e-8, atol=1e-8)


def test_whitening_gives_mean_0_and_variance_1_and_forgets_the_scale():
    x, mask = ragged(seed=1)
    white = masked_whiten(x, mask)
    assert abs(white[mask].mean().item()) < 1e-12
    # the 1e-8 that is added to the variance shows at this size
    assert white[mask].var(unbiased=False).item() == pytest.approx(1.0, abs=1e-7)
    torch.testing.assert_close(masked_whiten(5 * x - 3, mask), white, rtol=1e-7, atol=1e-7)
    kept = masked_whiten(x + 10, mask, shift_mean=False)
    torch.testing.assert_close(masked_mean(kept, mask), masked_mean(x + 10, mask))
    assert (kept[~mask] == 0).all()


def test_equal_numbers_whiten_to_zero():
    x = torch.full((2, 3), 7.0, requires_grad=True)
    white = masked_whiten(x, MASK)
    white[0, 0].backward()
    assert (white == 0).all() and x.grad.isfinite().all()


# --- aggregate -------------------------------------------------------------------------------


def test_aggregate_by_hand():
    assert aggregate(X, MASK, "token-mean").item() == (1 + 2 + 4 + 8) / 4
    sequence_mean = aggregate(X, MASK, "sequence-mean").item()
    assert sequence_mean == pytest.approx(((1 + 2 + 4) / 3 + 8) / 2, abs=1e-12)
    assert aggregate(X, MASK, "fixed-length", length=5).item() == (1 + 2 + 4 + 8) / (2 * 5)
    assert aggregate(X, MASK, "token-mean", denominator=10).item() == 15 / 10
    assert aggregate(X, MASK, "fixed-length", length=5, denominator=6).item() == 15 / (6 * 5)
    assert [unit_count(MASK, how) for how in HOWS] == [4, 2, 2]


def test_aggregate_equals_two_loops():
    x, mask = ragged(seed=2)
    B, T = x.shape
    sums, counts = [0.0] * B, [0] * B
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                sums[b] += x[b, t].item()
                counts[b] += 1
    expected = {
        "token-mean": sum(sums) / sum(counts),
        "sequence-mean": sum(s / n for s, n in zip(sums, counts, strict=True)) / B,
        "fixed-length": sum(sums) / (B * T),
    }
    for how, value in expected.items():
        ours = aggregate(x, mask, how, length=length_of(how, T)).item()
        assert ours == pytest.approx(value, abs=1e-12), how
    assert len({round(value, 6) for value in expected.values()}) == 3


def test_without_padding_the_three_agree():
    x, _ = ragged(seed=3)
    mask = torch.ones_like(x, dtype=torch.bool)
    for how in HOWS:
        value = aggregate(x, mask, how, length=length_of(how, x.shape[1]))
        torch.testing.assert_close(value, x.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_micro_batches_add_up(how, parts):
    """With the whole step's denominator, the gradient of 1, 2 or 8 micro-batches is the same."""
    features, mask = ragged(seed=4)
    if how != "fixed-length" and parts == 8:
        mask[2:4] = False  # one micro-batch without a token adds 0
    length = length_of(how, features.shape[1])

    def gradient(pieces, denominator):
        w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        for x, m in pieces:
            aggregate(torch.sin(w * x), m, how, length=length, denominator=denominator).backward()
        return w.grad

    whole = gradient([(features, mask)], None)
    pieces = list(zip(features.chunk(parts), mask.chunk(parts), strict=True))
    summed = gradient(pieces, unit_count(mask, how))
    torch.testing.assert_close(summed, whole, rtol=1e-12, atol=1e-12)


def test_means_of_micro_batch_means_are_another_gradient():
    """Why the denominator exists: dividing by the number of micro-batches is wrong here."""
    x, mask = ragged(seed=4)
    halves = [aggregate(a, m, "token-mean") for a, m in zip(x.chunk(2), mask.chunk(2), strict=True)]
    assert mask.chunk(2)[0].sum() != mask.chunk(2)[1].sum()
    assert abs(sum(halves) / 2 - aggregate(x, mask, "token-mean")) > 1e-2


@pytest.mark.parametrize("how", HOWS)
def test_aggregate_ignores_the_order_of_rows_and_more_padding(how):
    x, mask = ragged(seed=5)
    length = length_of(how, x.shape[1])
    value = aggregate(x, mask, how, length=length)
    flipped = aggregate(x.flip(0), mask.flip(0), how, length=length)
    wider = torch.cat([x, torch.full((16, 4), NAN)], dim=1)
    padded = torch.cat([mask, torch.zeros(16, 4, dtype=torch.bool)], dim=1)
    longer = aggregate(wider, padded, how, length=length)
    torch.testing.assert_close(torch.stack([flipped, longer]), value.expand(2))


# --- junk in masked cells --------------------------------------------------------------------

REDUCTIONS = {
    "masked_mean": masked_mean,
    "masked_mean of rows": lambda x, m: masked_mean(x, m, dim=1).square().sum(),
    "masked_whiten": lambda x, m: (masked_whiten(x, m) ** 3).sum(),
    "masked_whiten, mean kept": lambda x, m: (masked_whiten(x, m, shift_mean=False) ** 3).sum(),
    **{
        how: lambda x, m, how=how: aggregate(x, m, how, length=length_of(how, 9))
        for how in HOWS
    },
}  # fmt: skip


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_junk_changes_neither_value_nor_gradient(name, junk):
    x, mask = ragged(seed=6)
    results = []
    for filler in (0.0, junk):
        leaf = torch.where(mask, x, filler).requires_grad_()
        value = REDUCTIONS[name](leaf, mask)
        results.append((value, *torch.autograd.grad(value, leaf)))
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert (results[1][1][~mask] == 0).all()


LOSSES = {
    "reinforce": reinforce_loss,
    "ppo": lambda x, y: ppo_clip_loss(x, y, torch.where(x.detach() > y, 1.0, -1.0), clip=0.2),
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
    "ratio": importance_ratios,
    "squared": squared_loss,
    "huber": huber_loss,
    "clipped value": lambda x, y: clipped_value_loss(x, y, y + 1.0, clip=0.2),
}  # fmt: skip


@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("name", LOSSES)
def test_blanked_inputs_protect_every_loss(name, junk):
    """Junk in what goes into the loss: blank before it, aggregate after it."""
    (x, mask), (y, _) = ragged(seed=7), ragged(seed=8)
    results = []
    for filler in (0.0, junk):
        leaf = torch.where(mask, x, filler).requires_grad_()
        other = torch.where(mask, y, -filler)
        loss = LOSSES[name](blank(leaf, mask), blank(other, mask))
        value = aggregate(loss, mask, "token-mean")
        results.append((value, *torch.autograd.grad(value, leaf)))
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


def test_why_blank_exists():
    """exp(1000) in a masked cell: aggregate hides its value, but its gradient is 0·inf."""
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    old_logprobs, advantages = torch.tensor([[-1.0, -1000.0]]), torch.full((1, 2), -1.0)
    unprotected = aggregate(
        ppo_clip_loss(logprobs, old_logprobs, advantages, clip=0.2), mask, "token-mean"
    )
    assert unprotected.item() == 1.0
    assert torch.autograd.grad(unprotected, logprobs)[0].isnan().tolist() == [[False, True]]
    protected = ppo_clip_loss(
        blank(logprobs, mask), blank(old_logprobs, mask), advantages, clip=0.2
    )
    value = aggregate(protected, mask, "token-mean")
    assert torch.autograd.grad(value, logprobs)[0].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("name", [*REDUCTIONS, "blank"])
def test_gradcheck(name):
    x, mask = ragged(4, 9, seed=9)
    function = {**REDUCTIONS, "blank": blank}[name]
    assert torch.autograd.gradcheck(lambda x: function(x, mask), x.requires_grad_())


# --- errors ----------------------------------------------------------------------------------


def test_the_mean_of_nothing_is_refused():
    x, empty = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    for function in (masked_mean, masked_whiten):
        with pytest.raises(ValueError, match="nothing to average: no cell counts"):
            function(x, empty)
    with pytest.raises(ValueError, match="nothing to average"):
        masked_mean(x, torch.tensor([[True] * 3, [False] * 3]), dim=1)
    for how in HOWS:
        with pytest.raises(ValueError, match="denominator=, the count of the whole step"):
            aggregate(x, empty, how, length=length_of(how, 3))
        assert aggregate(x, empty, how, length=length_of(how, 3), denominator=8).item() == 0.0


def test_an_empty_row_adds_nothing_but_is_a_sequence():
    x, mask = torch.full((2, 2), 6.0), torch.tensor([[True, True], [False, False]])
    values = [aggregate(x, mask, how, length=length_of(how, 2)).item() for how in HOWS]
    assert values == [6.0, (6 + 0) / 2, 12 / (2 * 2)]


def test_misspelt_and_misplaced_arguments():
    x, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for denominator in (None, 5):
        with pytest.raises(
            ValueError, match="how='token_mean' is unknown: use one of 'token-mean'"
        ):
            aggregate(x, mask, "token_mean", denominator=denominator)
    with pytest.raises(ValueError, match="how='mean' is unknown"):
        unit_count(mask, "mean")
    with pytest.raises(ValueError, match="length=None with how='fixed-length'"):
        aggregate(x, mask, "fixed-length")
    with pytest.raises(ValueError, match="length=3 with how='token-mean'"):
        aggregate(x, mask, "token-mean", length=3)
    with pytest.raises(ValueError, match="length=0 must be above 0"):
        aggregate(x, mask, "fixed-length", length=0)
    with pytest.raises(ValueError, match="denominator=0 must be above 0"):
        aggregate(x, mask, "token-mean", denominator=0)
