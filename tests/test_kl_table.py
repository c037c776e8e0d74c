"""The table of KL losses, exactly: one choice, a sum per token, a whole sequence; and by sampling.

loss              one choice      whole sequence    summed per token
k1                0               0                 0
k2                ∇KL(π‖ref)      ∇KL(π‖ref)        ∇KL(π‖ref) at fixed prefixes
k3                ∇KL(ref‖π)      ∇KL(ref‖π)        ∇KL(ref‖π) at fixed prefixes
(π/π_old) k3      ∇KL(π‖ref)      ∇KL(π‖ref)        ∇KL(π‖ref) at fixed prefixes
k1 in the reward  ∇KL(π‖ref)                        ∇KL(π‖ref)
"""

import math

import pytest
import torch

from rlbook.audit import audit, exact_gradients
from rlbook.functional.kl import kl_k1, kl_k2, kl_k3, per_token_kl_reward
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.lm.exact import enumerated_logprobs
from rlbook.lm.groups import Groups
from rlbook.lm.tabular_lm import TabularLM

EXACT = {"rtol": 0.0, "atol": 1e-9}
FORTH, BACK = "KL(π‖ref)", "KL(ref‖π)"
FIXED = " at fixed prefixes"
MODELS = {
    "one choice": TabularLM.fixed_length(torch.Generator().manual_seed(5), max_new_tokens=1),
    "fixed length": TabularLM.fixed_length(torch.Generator().manual_seed(6), max_new_tokens=3),
    "with EOS": TabularLM.with_eos(torch.Generator().manual_seed(7), max_new_tokens=3),
}


def reference(model):
    """Logits with noise of standard deviation 1: far enough for the two directions to part."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(model.table.shape, generator=generator, dtype=torch.float64)
    return model.like(model.table.detach() + noise)


def weighted_k3(logprobs, ref, old):
    """k3 with the ratio before it: what k3 needs if its samples are to follow the policy."""
    return (logprobs - old).exp() * kl_k3(logprobs, ref)


ESTIMATES = {
    "k1": lambda logprobs, ref, old: kl_k1(logprobs, ref),
    "k2": lambda logprobs, ref, old: kl_k2(logprobs, ref),
    "k3": lambda logprobs, ref, old: kl_k3(logprobs, ref),
    "ratio · k3": weighted_k3,
}
MEANS = {"k1": None, "k2": FORTH, "k3": BACK, "ratio · k3": FORTH}


def per_token(estimate):
    def loss(logprobs, old, ref, rewards, mask):
        return aggregate(estimate(logprobs, ref, old), mask, "fixed-length", length=1)

    return loss


def whole_sequence(estimate):
    def loss(logprobs, old, ref, rewards, mask):
        sums = [torch.where(mask, x, 0.0).sum(dim=1) for x in (logprobs, ref, old)]
        return estimate(*sums).mean()

    return loss


def in_the_reward(logprobs, old, ref, rewards, mask):
    """-KL alone: no reward but the price, and every token answers for what follows it."""
    paid = per_token_kl_reward(torch.zeros_like(rewards), old, ref, mask, beta=1.0)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    to_go = discounted_returns(paid, gamma=1.0, terminated=last, ended=last)
    losses = reinforce_loss(logprobs, torch.where(mask, to_go, 0.0))
    return aggregate(losses, mask, "fixed-length", length=1)


def expected(model, loss):
    ref = reference(model)
    rewards = torch.zeros(len(model.space.responses), dtype=torch.float64)
    return audit(loss, model=model, ref=ref, rewards=rewards).expected


def targets(model):
    rewards = torch.zeros(len(model.space.responses), dtype=torch.float64)
    return exact_gradients(model, reference(model), rewards)


def wanted(model, name, suffix=""):
    mean = MEANS[name]
    return torch.zeros_like(model.table) if mean is None else targets(model)[mean + suffix]


@pytest.mark.parametrize("name", ESTIMATES)
def test_one_choice(name: str) -> None:
    model = MODELS["one choice"]
    found = expected(model, per_token(ESTIMATES[name]))
    torch.testing.assert_close(found, wanted(model, name).detach(), **EXACT)
    torch.testing.assert_close(found, wanted(model, name, FIXED if MEANS[name] else ""), **EXACT)
    assert (targets(model)[FORTH] - targets(model)[BACK]).norm() > 0.01


def test_k3_turned_round_is_half_the_gradient_of_chi_squared() -> None:
    """With e^x - 1 - x, x = log π - log ref, one choice: ½ ∇ Σ_a π(a)²/ref(a), and no KL."""
    model = MODELS["one choice"]
    probs, ref = model.table.softmax(dim=1), reference(model).table.softmax(dim=1).detach()
    (chi2,) = torch.autograd.grad((probs.square() / ref).sum(), model.table)
    found = expected(model, per_token(lambda p, q, old: torch.expm1(p - q) - (p - q)))
    torch.testing.assert_close(found, chi2 / 2, **EXACT)
    assert all((found / found.norm() - g / g.norm()).norm() > 0.01 for g in targets(model).values()
               if g.norm() > 1e-9)  # fmt: skip


@pytest.mark.parametrize("texts", ["fixed length", "with EOS"])
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_whole_sequence(name: str, texts: str) -> None:
    model = MODELS[texts]
    found = expected(model, whole_sequence(ESTIMATES[name]))
    torch.testing.assert_close(found, wanted(model, name).detach(), **EXACT)


@pytest.mark.parametrize("texts", ["fixed length", "with EOS"])
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_sum_per_token_is_the_gradient_at_fixed_prefixes(name: str, texts: str) -> None:
    model = MODELS[texts]
    found = expected(model, per_token(ESTIMATES[name]))
    exact = wanted(model, name, FIXED if MEANS[name] else "")
    torch.testing.assert_close(found, exact.detach(), **EXACT)
    if MEANS[name]:
        for whole in (FORTH, BACK):  # visibly not: a tenth of its length and more is missing
            miss = (found - targets(model)[whole]).norm() / targets(model)[whole].norm()
            assert miss > 0.1


@pytest.mark.parametrize("texts", MODELS)
def test_k1_in_the_reward_to_go_is_the_gradient_of_the_sequence(texts: str) -> None:
    model = MODELS[texts]
    found = expected(model, in_the_reward)
    torch.testing.assert_close(found, targets(model)[FORTH], **EXACT)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (per_token(weighted_k3), "per-token KL(π‖ref) at fixed prefixes: a partial gradient"),
        (whole_sequence(weighted_k3), "it holds down KL(π‖ref)"),
        (in_the_reward, "it holds down KL(π‖ref)"),
    ],
)
def test_the_auditor_says_so(loss, words: str) -> None:
    verdict = audit(loss).verdict
    assert words in verdict and "nearly" not in verdict
    assert ("fixed" in words) == ("fixed" in verdict)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_monte_carlo_lies_in_its_interval(name: str) -> None:
    """20,000 sampled responses: mean of the estimate, and of one coordinate of its gradient.

    Intervals of 4.5 standard errors, those of the exact variance: a right value falls outside one
    with a chance below 1e-5.
    """
    model = MODELS["with EOS"]
    ref, B = reference(model), 20_000
    with torch.no_grad():
        logprobs, ref_logprobs = enumerated_logprobs(model), enumerated_logprobs(ref)
    states, tokens, mask = model.space.paths(logprobs.device)
    chances = logprobs.sum(dim=1).exp()
    drawn = torch.multinomial(
        chances, B, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    estimate = ESTIMATES[name](logprobs, ref_logprobs, logprobs)
    per_response = torch.where(mask, estimate, 0.0).sum(dim=1)
    d = (ref_logprobs - logprobs).where(mask, torch.zeros_like(logprobs))
    slope = {"k1": torch.ones_like(d), "k2": -d, "k3": -torch.expm1(d)}[name]
    at_start = (states[:, 0] == 0) & mask[:, 0]
    score = (tokens[:, 0] == 0).double() - model.table[0].softmax(0)[0].item()  # ∂ log π / ∂ [0, 0]
    gradient = torch.where(at_start, slope[:, 0] * score, 0.0)
    exact = expected(model, per_token(ESTIMATES[name]))[0, 0]
    assert (chances @ gradient).item() == pytest.approx(exact.item(), abs=1e-12)
    for x in (per_response, gradient):
        mean = chances @ x
        error = math.sqrt(float(chances @ (x - mean).square()) / B)
        assert abs(x[drawn].mean() - mean) < 4.5 * error
        assert error > 0


def test_sampled_gradients_of_the_auditor_have_its_variance() -> None:
    """4,000 draws of one response's gradient scatter as ``audit`` says: within 10%, where the
    standard error of the estimate, from the gradients' exact fourth moments, is below 2%."""
    model, B = MODELS["with EOS"], 4_000
    ref = reference(model)
    rewards = torch.zeros(len(model.space.responses), dtype=torch.float64)
    loss = per_token(ESTIMATES["k2"])
    groups = Groups(model, ref, model, rewards, 1)
    index = torch.arange(len(rewards))[:, None]
    each = groups._gradients(index, groups._slopes(loss, index))
    found = audit(loss, model=model, ref=ref, rewards=rewards)
    lengths = (each - found.expected.flatten()).square().sum(dim=1)
    chances = groups.logprobs.sum(dim=1).exp()
    assert (chances @ lengths).item() == pytest.approx(found.variance, rel=1e-9)
    error = math.sqrt(float(chances @ (lengths - found.variance).square()) / B)
    drawn = torch.multinomial(
        chances, B, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    assert abs(lengths[drawn].mean() - found.variance) < 4.5 * error
