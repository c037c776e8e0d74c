"""What is a loss's gradient a gradient *of*? Exactly, by enumeration on a TabularLM.

A loss looks right, its curve falls, and it may still follow something else than was meant: only
a part of a KL divergence, an objective that weights prompts by their difficulty, a reward without
the first token. On a model whose texts can be listed the expected gradient is a finite sum,

    E[∇L] = Σ_groups π(group) ∇L(group),

so ``audit`` computes it and compares it with the exact gradients of what might have been meant,
and with those of known mistakes.

    print(audit(my_loss, group=2))

where ``my_loss(logprobs, old_logprobs, ref_logprobs, rewards, mask)`` is anybody's: one number
for a group of K responses to one prompt, all but rewards [K] of shape [K, T], right-padded.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlbook.functional.kl import kl_k2, kl_k3
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.lm.exact import (
    expected_pass_at_k,
    expected_reward,
    fixed_prefix_kl,
    sequence_entropy,
    sequence_kl,
)
from rlbook.lm.groups import Groups, Loss
from rlbook.lm.tabular_lm import TabularLM

SAME = 1e-8  # relative: float64 sums over 20,000 groups keep ten digits and more
NEARLY = 1e-2  # an ε of 1e-4 beside a standard deviation leaves some 1e-4

# What might have been meant, as directions of ascent. KL without "at fixed prefixes" is that of
# the whole response.
OBJECTIVE = "the expected reward J"
KL_NAMES = {
    "KL(π‖ref)": "KL(π‖ref)",
    "KL(ref‖π)": "KL(ref‖π)",
    "KL(π‖ref) at fixed prefixes": "per-token KL(π‖ref) at fixed prefixes: a partial gradient",
    "KL(ref‖π) at fixed prefixes": "per-token KL(ref‖π) at fixed prefixes: a partial gradient",
}


@dataclass(frozen=True)
class Audit:
    """What a loss's expected gradient is a gradient of. ``print`` it.

    All comparisons are with the direction that gradient descent takes, d = -E[∇L].

    Attributes:
        verdict: in words.
        cosine: name → cos of d and the exact gradient.
        scale: name → the c for which c · gradient comes nearest to d.
        bias: name → what is left of d then, |d - c · gradient| / |d|: 0 is exact, 1 unrelated.
        variance: E|∇L - E[∇L]|² of one group: the sum over all parameters.
        expected: E[∇L] [S, V]. gradients: name → exact gradient [S, V].
        group: K. groups: how many groups were enumerated.
    """

    verdict: str
    cosine: dict[str, float]
    scale: dict[str, float]
    bias: dict[str, float]
    variance: float
    expected: Float[Tensor, "S V"] = field(repr=False)
    gradients: dict[str, Float[Tensor, "S V"]] = field(repr=False)
    group: int = 1
    groups: int = 0

    def __str__(self) -> str:
        head = f"{'against the gradient of':31}{'cosine':>9}{'scale':>10}{'left over':>11}"
        rows = [
            f"{name:31}{self.cosine[name]:9.4f}{self.scale[name]:10.4f}{self.bias[name]:11.2e}"
            for name in self.cosine
        ]
        size = float(self.expected.norm())
        noise = f"|E[∇L]| = {size:.4g}, standard deviation of ∇L = {math.sqrt(self.variance):.4g}"
        count = f"over all {self.groups:,} groups of {self.group}"
        return "\n".join([self.verdict, "", head, *rows, "", f"{noise} ({count})"])


def audit(
    loss_fn: Loss,
    *,
    model: TabularLM | None = None,
    ref: TabularLM | None = None,
    old: TabularLM | None = None,
    rewards: Float[Tensor, " B"] | None = None,
    group: int = 1,
) -> Audit:
    """Compare E[∇loss] with the exact gradients of what the loss may have been meant to follow.

    Args:
        loss_fn: (logprobs, old_logprobs, ref_logprobs [K, T], rewards [K], mask [K, T]) → one
            number. It must be differentiable in ``logprobs`` alone; the others are constants.
        model: π; default ``default_model()``, small and random.
        ref: π_ref; default a random one not far from π.
        old: the policy that draws the groups; default π itself, on-policy.
        rewards: one per response, in the order of ``enumerate_responses``; default 0, ½ or 1.
        group: K, responses of a group, drawn independently. All M^K groups are gone through; where
            the loss treats its rows alike (tried on random groups), each set of rows once.

    Raises:
        ValueError: a loss that is not one finite number (which group), does not depend on
            logprobs, or changes its inputs; more than 10⁵ groups.

    Book: 12_text_as_mdp, 16_kl, 18_grpo, 20_vineppo.
    """
    model = default_model() if model is None else model
    ref = nearby(model) if ref is None else ref
    rewards = default_rewards(model) if rewards is None else rewards
    groups = Groups(model, ref, model if old is None else old, rewards, group)
    expected, variance, count = groups.expected_gradient(loss_fn)
    found = exact_gradients(model, ref, rewards, k=group)
    d = -expected
    compared = {name: _compare(d, gradient) for name, gradient in found.items()}
    return Audit(
        verdict=_verdict(d, math.sqrt(variance), found, groups),
        cosine={name: c for name, (c, _, _) in compared.items()},
        scale={name: s for name, (_, s, _) in compared.items()},
        bias={name: b for name, (_, _, b) in compared.items()},
        variance=variance,
        expected=expected,
        gradients=found,
        group=group,
        groups=count,
    )


def default_model() -> TabularLM:
    """A random model of two prompts with 7 responses each: V = 3 with an EOS, at most 2 tokens.

    Two prompts, because with one alone ∇pass@k is a multiple of ∇J; an EOS, because responses of
    one length hide what a loss does with lengths.
    """
    generator = torch.Generator().manual_seed(0)
    return TabularLM.with_eos(generator, prompts=[[0], [1]], max_new_tokens=2)


def nearby(model: TabularLM) -> TabularLM:
    """A reference that is not the model: its logits plus noise of standard deviation ½."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(model.table.shape, generator=generator, dtype=torch.float64)
    return model.like(model.table.detach() + 0.5 * noise.to(model.table))


def default_rewards(model: TabularLM) -> Float[Tensor, " B"]:
    """0, ½ or 1, drawn evenly. With 0 and 1 alone all groups of two or three have the same
    spread, and a division by it could not be seen."""
    B = len(model.space.prompts) * len(model.space.responses)
    generator = torch.Generator().manual_seed(2)
    return torch.randint(3, (B,), generator=generator).to(model.table.dtype) / 2


def exact_gradients(
    model: TabularLM, ref: TabularLM, rewards: Float[Tensor, " B"], *, k: int = 1
) -> dict[str, Float[Tensor, "S V"]]:
    """Name → exact gradient in the table: J, the KL divergences, entropy, and for k > 1 pass@k
    (a reward of 1 is a pass).

    Each is autograd through a finite sum (``rlbook.lm.exact``).
    """
    values: dict[str, Tensor] = {
        "J": expected_reward(model, rewards),
        "KL(π‖ref)": sequence_kl(model, ref),
        "KL(ref‖π)": sequence_kl(ref, model),
        "KL(π‖ref) at fixed prefixes": fixed_prefix_kl(model, ref),
        "KL(ref‖π) at fixed prefixes": fixed_prefix_kl(ref, model, drawn_by=model),
        "entropy": sequence_entropy(model),
    }
    if k > 1:
        correct = (rewards >= 1).to(rewards.dtype)
        values[f"pass@{k}"] = expected_pass_at_k(model, correct, k=k)
    return {name: torch.autograd.grad(x, model.table)[0] for name, x in values.items()}


# --- known mistakes, as losses -----------------------------------------------------------------


def _policy_loss(advantages: Tensor, logprobs: Tensor, weights: Tensor) -> Tensor:
    """The mean over the group of Σ_t w_t · (-A log π)."""
    losses = reinforce_loss(logprobs, advantages[:, None].expand_as(logprobs))
    return torch.where(weights > 0, weights * losses, 0.0).sum() / len(logprobs)


def _baselines(K: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """The ways to turn rewards [K] into advantages [K] that leave J's gradient unbiased."""
    if K == 1:
        return {"": lambda r: r}
    return {
        "": lambda r: r,
        " (with the group's mean as baseline)": lambda r: dr_grpo_advantages(r[None])[0],
        " (with the others' mean as baseline)": lambda r: rloo_advantages(r[None])[0],
    }


def _mistakes(K: int) -> Iterator[tuple[str, Loss]]:
    """Losses that are often written instead of the policy gradient's, and what is said of them."""

    def every(mask: Tensor) -> Tensor:
        return mask.double()

    def by_length(mask: Tensor) -> Tensor:
        return mask.double() / mask.sum(dim=1, keepdim=True)

    def by_tokens_of_the_batch(mask: Tensor) -> Tensor:
        return mask.double() / mask.sum() * len(mask)

    def without_first(mask: Tensor) -> Tensor:
        return mask.double() * (torch.arange(mask.shape[1]) > 0)

    def without_last(mask: Tensor) -> Tensor:
        left = mask.flip(1).cumsum(1).flip(1)
        return (mask & (left > 1)).double()

    weightings = {
        "every response divided by its own length": by_length,
        "every group divided by its number of tokens": by_tokens_of_the_batch,
        "the first response token ignored": without_first,
        "the last token (EOS) ignored": without_last,
    }
    for words, weigh in weightings.items():
        for which, advantages in _baselines(K).items():
            yield words + which, _loss(advantages, weigh)
    if K > 1:
        for which, sample in (("sample", True), ("population", False)):
            by_std = f"every group weighted by 1 / its {which} standard deviation"

            def by_spread(r: Tensor, sample: bool = sample) -> Tensor:
                return grpo_advantages(r[None], sample_std=sample, epsilon=0.0)[0]

            yield by_std, _loss(by_spread, every)
            by_tokens = f"{by_std}, and every group divided by its number of tokens"
            yield by_tokens, _loss(by_spread, by_tokens_of_the_batch)
            words = f"{by_std}, and every response divided by its own length (GRPO)"
            yield words, _loss(by_spread, by_length)


def _loss(advantages: Callable[[Tensor], Tensor], weigh: Callable[[Tensor], Tensor]) -> Loss:
    def loss(logprobs, old_logprobs, ref_logprobs, rewards, mask):
        return _policy_loss(advantages(rewards), logprobs, weigh(mask))

    return loss


def _kl_losses() -> dict[str, Loss]:
    """KL penalties whose gradient is none of the exact ones: per token, or divided by lengths."""

    def per_length(estimate):
        def loss(logprobs, old_logprobs, ref_logprobs, rewards, mask):
            kl = torch.where(mask, estimate(logprobs, ref_logprobs), 0.0).sum(dim=1)
            return (kl / mask.sum(dim=1)).mean()

        return loss

    return {
        "per-token k2, each response divided by its own length": per_length(kl_k2),
        "per-token k3, each response divided by its own length": per_length(kl_k3),
    }


# --- the verdict -------------------------------------------------------------------------------


def _verdict(d: Tensor, noise: float, exact: dict[str, Tensor], groups: Groups) -> str:
    """The first explanation that leaves nothing over."""
    if d.norm() <= SAME * max(noise, 1e-12):
        return "no gradient in expectation: it only adds noise"
    goals, penalties = _goals(exact), {words: exact[name] for name, words in KL_NAMES.items()}
    found = list(_explanations(d, goals, penalties))
    if not found or min(found)[0] > SAME:
        # None of these losses looks at the order of its rows.
        own = functools.partial(groups.expected_gradient, alike=True)
        wrong = {f"J's gradient with {w}": -own(f)[0] for w, f in _mistakes(groups.K)}
        penalties |= {w: own(f)[0] for w, f in _kl_losses().items()}
        found += _explanations(d, wrong, penalties)
        found += _explanations(d, goals, penalties)
    exactly = [words for left, words in found if left <= SAME]
    if exactly:
        return exactly[0]
    if found:
        least = min(found)[0]  # two may tie: 1/std with K or K-1 is a factor for equal K
        left, words = next(f for f in found if f[0] <= 1.01 * least)
        return f"nearly: {words} ({left:.1g} of it is left over)"
    cosines = {name: _compare(d, gradient)[0] for name, gradient in exact.items()}
    best = max(cosines, key=lambda name: abs(cosines[name]))
    return (
        "none of the gradients known here: a biased loss, or one meant for something else "
        f"(nearest: {best}, cosine {cosines[best]:.3f})"
    )


def _goals(exact: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a loss may honestly be meant to raise."""
    goals = {f"the gradient of {OBJECTIVE}": exact["J"]}
    goals |= {f"the gradient of {name}": g for name, g in exact.items() if name.startswith("pass")}
    return goals | {"the gradient of the entropy of the response": exact["entropy"]}


def _explanations(
    d: Tensor, goals: dict[str, Tensor], penalties: dict[str, Tensor]
) -> Iterator[tuple[float, str]]:
    """What adds up to d, and the share left over: a goal, a KL penalty, or one of each."""
    for words, gradient in goals.items():
        if found := _solve(d, [gradient]):
            yield found[0], _signed(found[1][0], words)
    for words, kl in penalties.items():
        if found := _solve(d, [kl]):
            yield found[0], _penalty(found[1][0], words)
    for (words, gradient), (kl_words, kl) in itertools.product(goals.items(), penalties.items()):
        if found := _solve(d, [gradient, kl]):
            left, (c, beta) = found
            yield left, f"{_signed(c, words)}; and {_penalty(beta, kl_words)}"


def _signed(c: float, words: str) -> str:
    times = "" if abs(abs(c) - 1) < 1e-6 else f"{abs(c):.4g} times "
    if c < 0:
        return f"the sign is turned: it goes down {times}{words}"
    return f"it follows {times}{words}"


def _penalty(c: float, words: str) -> str:
    times = "" if abs(abs(c) - 1) < 1e-6 else f"{abs(c):.4g} times "
    if c > 0:
        return f"the sign is turned: it pays for leaving the reference, by {times}{words}"
    return f"it holds down {times}{words}"


def _compare(d: Tensor, gradient: Tensor) -> tuple[float, float, float]:
    """Cosine, best scale, and the share of d that is left over."""
    size, other = float(d.norm()), float(gradient.norm())
    if size == 0.0 or other == 0.0:
        return 0.0, 0.0, 0.0 if size == 0.0 else 1.0
    dot = float((d * gradient).sum())
    scale = dot / other**2
    return dot / (size * other), scale, float((d - scale * gradient).norm()) / size


def _solve(d: Tensor, gradients: list[Tensor]) -> tuple[float, list[float]] | None:
    """What share of d is left over, and the factors with which the gradients come nearest to it.

    None where too much is left, or where one of two gradients adds nothing.
    """
    columns = torch.stack([g.flatten() for g in gradients], dim=1)
    factors = torch.linalg.lstsq(columns, d.flatten()[:, None]).solution[:, 0]
    left = float((d.flatten() - columns @ factors).norm() / d.norm())
    parts = [abs(float(c)) * float(g.norm()) for c, g in zip(factors, gradients, strict=True)]
    if left > NEARLY or min(parts) <= max(10 * left, SAME) * max(parts):
        return None
    return left, factors.tolist()
