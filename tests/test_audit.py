"""The auditor against closed forms: losses whose expected gradient is known, and named mistakes."""

import itertools

import pytest
import torch

from rlbook.audit import (
    Audit,
    _kl_losses,
    _mistakes,
    audit,
    default_model,
    default_rewards,
    exact_gradients,
    nearby,
)
from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlbook.functional.kl import kl_k1, kl_k2, kl_k3, per_token_kl_reward
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import cispo_loss, ppo_clip_loss, reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.lm.exact import enumerate_responses, policy_gradient
from rlbook.lm.groups import Groups
from rlbook.lm.tabular_lm import TabularLM

ONE = {"how": "fixed-length", "length": 1}  # a plain sum over tokens, a mean over responses
EXACT = 1e-9


def spread(rewards, logprobs):
    """An advantage per response on each of its tokens."""
    return rewards[:, None].expand_as(logprobs)


def reinforce(logprobs, old, ref, rewards, mask):
    return aggregate(reinforce_loss(logprobs, spread(rewards, logprobs)), mask, **ONE)


def grouped(advantages, loss=ppo_clip_loss, **how):
    def f(logprobs, old, ref, rewards, mask):
        A = spread(advantages(rewards[None])[0], logprobs)
        options = {"clip_high": 0.2} if loss is cispo_loss else {"clip": 0.2}
        return aggregate(loss(logprobs, old, A, **options), mask, **(how or ONE))

    return f


def penalty(estimate):
    def f(logprobs, old, ref, rewards, mask):
        return aggregate(estimate(logprobs, ref), mask, **ONE)

    return f


def whole_sequence(estimate):
    def f(logprobs, old, ref, rewards, mask):
        blank = torch.where(mask, logprobs, 0.0), torch.where(mask, ref, 0.0)
        return estimate(*(x.sum(dim=1) for x in blank)).mean()

    return f


def kl_in_the_reward(beta):
    def f(logprobs, old, ref, rewards, mask):
        r = per_token_kl_reward(rewards, old, ref, mask, beta=beta)
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        to_go = discounted_returns(r, gamma=1.0, terminated=last, ended=last)
        return aggregate(reinforce_loss(logprobs, torch.where(mask, to_go, 0.0)), mask, **ONE)

    return f


def with_mask(change):
    def f(logprobs, old, ref, rewards, mask):
        kept = change(mask.clone())
        losses = reinforce_loss(logprobs, spread(rewards, logprobs))
        return aggregate(losses, kept, "fixed-length", length=1, denominator=len(mask))

    return f


def without_first(mask):
    mask[:, 0] = False
    return mask


def without_last(mask):
    return mask & (mask.flip(1).cumsum(1).flip(1) > 1)


def plus(f, g, weight):
    return lambda *inputs: f(*inputs) + weight * g(*inputs)


# loss, K, the exact gradient it climbs (or holds down: -1), the factor
EXACTLY = {
    "REINFORCE": (reinforce, 1, "J", 1.0),
    "REINFORCE over groups": (reinforce, 2, "J", 1.0),
    "RLOO": (grouped(rloo_advantages), 2, "J", 1.0),
    "Dr. GRPO with 2": (grouped(dr_grpo_advantages), 2, "J", 1 / 2),
    "Dr. GRPO with 3": (grouped(dr_grpo_advantages), 3, "J", 2 / 3),
    "CISPO": (grouped(rloo_advantages, cispo_loss), 2, "J", 1.0),
    "k2 per token": (penalty(kl_k2), 1, "KL(π‖ref) at fixed prefixes", -1.0),
    "k3 per token": (penalty(kl_k3), 1, "KL(ref‖π) at fixed prefixes", -1.0),
    "k2 of the response": (whole_sequence(kl_k2), 1, "KL(π‖ref)", -1.0),
    "k3 of the response": (whole_sequence(kl_k3), 1, "KL(ref‖π)", -1.0),
    "sign turned": (lambda *x: -reinforce(*x), 1, "J", -1.0),
}


@pytest.mark.parametrize("name", EXACTLY)
def test_losses_with_a_known_gradient(name):
    loss, K, target, factor = EXACTLY[name]
    found = audit(loss, group=K)
    assert found.scale[target] == pytest.approx(factor, abs=EXACT)
    assert found.bias[target] < EXACT
    assert abs(found.cosine[target]) == pytest.approx(1.0, abs=EXACT)
    others = [found.bias[other] for other in found.bias if other != target]
    assert min(others) > 0.01  # the fixture tells them apart
    words = "KL" if "KL" in target else "the expected reward J"
    assert words in found.verdict and "nearly" not in found.verdict
    assert ("partial gradient" in found.verdict) == ("fixed" in target)
    assert ("the sign is turned" in found.verdict) == (name == "sign turned")


SAID = {
    "k1 as a loss": (penalty(kl_k1), 1, "no gradient in expectation"),
    "a KL paid for": (
        lambda *x: -penalty(kl_k2)(*x),
        1,
        "the sign is turned: it pays for leaving the reference",
    ),
    "KL in the reward": (
        kl_in_the_reward(0.1),
        1,
        "the expected reward J; and it holds down 0.1 times KL(π‖ref)",
    ),
    "RLOO and k3": (
        plus(grouped(rloo_advantages), penalty(kl_k3), 0.05),
        2,
        "J; and it holds down 0.05 times per-token KL(ref‖π) at fixed prefixes",
    ),
    "std": (
        grouped(lambda r: grpo_advantages(r, epsilon=0.0)),
        2,
        "it follows J's gradient with every group weighted by 1 / its sample standard deviation",
    ),
    "GRPO": (
        grouped(lambda r: grpo_advantages(r, epsilon=0.0), how="sequence-mean"),
        2,
        "standard deviation, and every response divided by its own length (GRPO)",
    ),
    "GRPO with its epsilon": (
        grouped(grpo_advantages, how="sequence-mean"),
        2,
        "nearly: it follows 0.9998",
    ),
    "length": (
        grouped(rloo_advantages, how="sequence-mean"),
        2,
        "every response divided by its own length",
    ),
    "micro-batch token mean": (
        grouped(rloo_advantages, how="token-mean"),
        2,
        "every group divided by its number of tokens",
    ),
    "first token": (with_mask(without_first), 1, "the first response token ignored"),
    "EOS": (with_mask(without_last), 1, "the last token (EOS) ignored"),
    "something else": (
        lambda logprobs, old, ref, r, mask: aggregate(
            -spread(r.square(), logprobs) * logprobs.exp(), mask, **ONE
        ),
        1,
        "none of the gradients known here",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_verdicts_in_words(name):
    loss, K, words = SAID[name]
    assert words in audit(loss, group=K).verdict


def test_variance_against_sampling_by_hand():
    """One state, two tokens: ∇L is known for each response, and so is its variance."""
    model = TabularLM([[0]], vocab_size=2, max_new_tokens=1)  # π = ½, ½
    found = audit(reinforce, model=model, rewards=torch.tensor([1.0, 0.0]).double())
    # ∇L = -(½, -½) with probability ½, else 0: E = -(¼, -¼), E|∇L|² = ¼, |E|² = 1/8
    torch.testing.assert_close(found.expected, torch.tensor([[-0.25, 0.25]]).double())
    assert found.variance == pytest.approx(1 / 8, abs=1e-12)


def test_a_baseline_lowers_the_variance_and_not_the_gradient():
    plain, rloo = audit(reinforce, group=2), audit(grouped(rloo_advantages), group=2)
    torch.testing.assert_close(plain.expected, rloo.expected, rtol=0, atol=1e-12)
    assert plain.variance != pytest.approx(rloo.variance, rel=0.01)


def test_off_policy_groups_need_the_ratio():
    model = default_model()
    old = nearby(model)

    def whole_ratio(logprobs, old, ref, rewards, mask):
        ratio = torch.where(mask, logprobs - old, 0.0).sum(dim=1).exp()
        return -(ratio * rloo_advantages(rewards[None])[0]).mean()

    def wide(logprobs, old, advantages, *, clip):
        return ppo_clip_loss(logprobs, old, advantages, clip=1e9)

    # K - 1 others were drawn by `old` too, so a mean over rows with a leave-one-out baseline of
    # other rows is still right; a ratio per token is not the ratio of the response
    right = audit(whole_ratio, group=2, old=old)
    assert right.bias["J"] < EXACT and right.scale["J"] == pytest.approx(1.0)
    assert audit(grouped(rloo_advantages, wide), group=2, old=old).bias["J"] > 0.01
    assert audit(reinforce, group=2, old=old).bias["J"] > 0.01


def test_several_prompts_and_fixed_length():
    generator = torch.Generator().manual_seed(4)
    model = TabularLM.fixed_length(generator, prompts=[[0], [1]], max_new_tokens=2)
    found = audit(grouped(rloo_advantages), model=model, group=2)
    assert found.bias["J"] < EXACT and found.groups == 2 * 9**2
    exact = policy_gradient(model, default_rewards(model))
    torch.testing.assert_close(-found.expected, exact, rtol=0, atol=1e-12)


def test_sets_of_responses_are_enough_where_rows_are_alike():
    """A loss that sees the rows' order goes through all M^K groups, and both ways agree."""
    model = default_model()
    groups = Groups(model, nearby(model), model, default_rewards(model), 2)
    loss = grouped(rloo_advantages)

    def ordered(logprobs, old, ref, rewards, mask):  # twice the first row's half, and not the other
        halves = rloo_advantages(rewards[None])[0] * torch.tensor([2.0, 0.0])
        losses = reinforce_loss(logprobs, spread(halves, logprobs))
        return aggregate(losses, mask, **ONE)

    assert groups._rows_are_alike(loss) and not groups._rows_are_alike(ordered)
    alike, one_sided = (groups.expected_gradient(f)[0] for f in (loss, ordered))
    torch.testing.assert_close(alike, one_sided, rtol=0, atol=1e-12)


def test_the_auditors_own_losses_treat_their_rows_alike():
    """So it goes through sets of responses without asking."""
    model = default_model()
    groups = Groups(model, nearby(model), model, default_rewards(model), 3)
    for words, loss in [*_mistakes(3), *_kl_losses().items()]:
        assert groups._rows_are_alike(loss), words


def test_enumeration_against_a_plain_loop():
    """E[∇L] by autograd of Σ π(group) · L over every ordered pair, with π held fixed."""
    model = TabularLM.with_eos(torch.Generator().manual_seed(3), max_new_tokens=2)
    ref, rewards = nearby(model), default_rewards(model)
    loss = grouped(lambda r: grpo_advantages(r, epsilon=0.1), how="token-mean")
    batch = enumerate_responses(model)
    expected = torch.zeros_like(model.table)
    for i, j in itertools.product(range(len(batch)), repeat=2):
        rows = [i, j]
        states, tokens, mask = (x[rows] for x in model.space.paths(torch.device("cpu")))
        logprobs = torch.log_softmax(model.table, dim=-1)[states, tokens]
        logprobs = torch.where(mask, logprobs, 0.0)
        value = loss(logprobs, logprobs.detach(), logprobs.detach(), rewards[rows], mask)
        gradient = torch.autograd.grad(value, model.table)[0]
        expected += float(logprobs.detach().sum().exp()) * gradient
    found = audit(loss, model=model, ref=ref, rewards=rewards, group=2)
    torch.testing.assert_close(found.expected, expected, rtol=0, atol=1e-12)


def test_pass_at_k_is_among_the_gradients():
    model = default_model()
    rewards = (default_rewards(model) == 1).double()

    def best_of_two(logprobs, old, ref, rewards, mask):  # REINFORCE with max(r) for both rows
        best = rewards.max().expand_as(rewards)
        return 2 * aggregate(reinforce_loss(logprobs, spread(best, logprobs)), mask, **ONE)

    found = audit(best_of_two, model=model, rewards=rewards, group=2)
    assert found.verdict == "it follows the gradient of pass@2"


def test_exact_gradients_by_finite_differences():
    """One logit moved by ±1e-6."""
    model, step = TabularLM.with_eos(torch.Generator().manual_seed(0)), 1e-6
    ref, rewards = nearby(model), default_rewards(model)
    exact = exact_gradients(model, ref, rewards, k=2)
    from rlbook.lm.exact import expected_reward, sequence_kl

    for name, value in {
        "J": lambda m: expected_reward(m, rewards),
        "KL(π‖ref)": lambda m: sequence_kl(m, ref),
        "KL(ref‖π)": lambda m: sequence_kl(ref, m),
    }.items():
        moved = []
        for sign in (1, -1):
            table = model.table.detach().clone()
            table[1, 0] += sign * step
            moved.append(float(value(model.like(table)).detach()))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert exact[name][1, 0].item() == pytest.approx(slope, abs=1e-8)


def test_it_prints_as_a_table():
    text = str(audit(reinforce))
    assert text.startswith("it follows the gradient of the expected reward J\n")
    assert "KL(ref‖π) at fixed prefixes" in text and "over all 14 groups of 1" in text
    assert isinstance(audit(reinforce), Audit)


def test_errors_name_the_group_and_the_remedy():
    with pytest.raises(ValueError, match="must be one number"):
        audit(lambda logprobs, *_: -logprobs)
    with pytest.raises(ValueError, match=r"of the responses \[0\].* is nan"):
        audit(lambda logprobs, *_: (logprobs * float("nan")).sum())
    with pytest.raises(ValueError, match=r"group=6: 7 responses make 7\^6 groups"):
        audit(reinforce, group=6)
    with pytest.raises(ValueError, match="group=0"):
        audit(reinforce, group=0)
