"""Bias and noise of policy gradients that give credit in different ways, exactly.

Every response of a small TabularLM is gone through; what is random besides (the rest of a group,
the rollouts behind a value) is averaged in closed form. A response meets no row of parameters
twice, so the squared length of its gradient is a sum over tokens:

    |g(y)|² = Σ_t A_t² |∇ log π(y_t|s_t)|²,    |∇ log π(a|s)|² = |onehot(a) - π(·|s)|²

The gradient of a group is the mean over G responses to one prompt, drawn uniformly.

Letters: N prompts with M responses each, B = N·M; T tokens; V vocabulary; S states; G responses
of a group; K rollouts behind a value.
"""

from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlbook.functional.credit import step_advantages
from rlbook.functional.group_advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlbook.lm.exact import prefix_probabilities, prefix_values, sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM

GROUP_METHODS = {"RLOO": rloo_advantages, "GRPO": grpo_advantages, "Dr. GRPO": dr_grpo_advantages}
KINDS = ("one step decides", "every step counts")


@dataclass(frozen=True)
class GradientNoise:
    """What the gradient of one group is like.

    Attributes:
        expected: E[g], one row per row of parameters.
        variance: E|g - E[g]|². tokens: generated per group, on average.
        scale, bias: against ∇J; ``bias`` is the share of E[g] that the best multiple of ∇J,
            ``scale`` · ∇J, leaves over.
    """

    expected: Float[Tensor, "D V"]
    variance: float
    tokens: float
    scale: float
    bias: float

    @property
    def deviation(self) -> float:
        """Standard deviation once the mean is as long as ∇J: what a step size cannot change."""
        return self.variance**0.5 / self.scale


class Enumerated:
    """A model, its rewards, and everything that the methods' gradients are made of.

    Args:
        model: π. rewards: one per response, in the order of ``enumerate_responses``.
        tied: one row of parameters per prompt and *place*, which the states there share, as states
            share a network; the table must be equal in them. False: one per state, the table's.

    Raises ValueError for a table that differs where it is tied.
    """

    def __init__(self, model: TabularLM, rewards: Float[Tensor, " B"], *, tied: bool) -> None:
        space = model.space
        self.model, self.N = model, len(space.prompts)
        self.rewards = rewards.to(model.table.detach())
        self.states, self.tokens, self.mask = space.paths(model.table.device)
        self.place = torch.tensor([len(prefix) for prefix in space.prefixes] * self.N)
        prompt = torch.arange(self.N).repeat_interleave(len(space.prefixes))
        longest = space.max_new_tokens
        self.row: Int[Tensor, " S"] = torch.arange(len(space))
        if tied:
            self.row = prompt * longest + self.place
        self.rows = int(self.row.max()) + 1
        with torch.no_grad():
            self.chance = sequence_logprobs(model).exp()  # of y, its prompt given [B]
            self.V, _ = prefix_values(model, self.rewards)
            self.reach = prefix_probabilities(model) * self.N  # of s, its prompt given [S]
            pi = model.table.softmax(dim=-1)
        if not torch.allclose(pi, pi[self._first_of_row()[self.row]], rtol=1e-9):
            raise ValueError("tied: the table must be equal in all states of one prompt and place")
        onehot = torch.eye(space.vocab_size, dtype=pi.dtype)[self.tokens]
        self.scores = torch.where(self.mask[..., None], onehot - pi[self.states], 0.0)  # [B, T, V]
        self.lengths = self.scores.square().sum(dim=2)  # |∇ log π|² of each token [B, T]
        self.gradient = self._mean(self.rewards[:, None].expand(self.mask.shape)) / self.N

    def along(self, per_state: Float[Tensor, " S"]) -> Float[Tensor, "B T"]:
        """A number per state, read before each token."""
        return torch.where(self.mask, per_state[self.states], 0.0)

    def after(self, per_state: Float[Tensor, " S"]) -> Float[Tensor, "B T"]:
        """A number per state, read after each token; 0 after the last."""
        found = self.along(per_state)
        return torch.cat([found[:, 1:], torch.zeros_like(found[:, :1])], dim=1)

    def noise(
        self,
        advantages: Float[Tensor, "B T"],
        *,
        group: int,
        second: Float[Tensor, "B T"] | None = None,
        joint: float | None = None,
        extra_tokens: float = 0.0,
    ) -> GradientNoise:
        """Put the moments of a group's gradient together.

        Args:
            advantages: E[A_t | y]. second: E[A_t² | y]; default: A is certain.
            joint: Σ_x E[g_i · g_j | x] of two responses of a group; default: independent.
        """
        mean = self._mean(advantages)
        second = advantages.square() if second is None else second
        alone = float((self.chance[:, None] * second * self.lengths).sum())
        joint = float(mean.square().sum()) if joint is None else joint
        expected = mean / self.N
        square = (alone / group + (1 - 1 / group) * joint) / self.N
        tokens = group * float((self.chance * self.mask.sum(dim=1)).sum()) / self.N
        dot = float((expected * self.gradient).sum())
        size = float(expected.norm())
        scale = dot / float(self.gradient.square().sum())
        return GradientNoise(
            expected=expected,
            variance=max(square - size**2, 0.0),
            tokens=tokens + extra_tokens,
            scale=scale,
            bias=float((expected - scale * self.gradient).norm()) / size,
        )

    def _mean(self, advantages: Float[Tensor, "B T"]) -> Float[Tensor, "D V"]:
        """Σ_x E[g | x]: prompts have rows of their own, so one table holds them all."""
        shares = (self.chance[:, None] * advantages)[..., None] * self.scores
        out = shares.new_zeros(self.rows, shares.shape[2])
        return out.index_add(0, self.row[self.states][self.mask], shares[self.mask])

    def _first_of_row(self) -> Int[Tensor, " D"]:
        first = torch.full((self.rows,), len(self.row), dtype=torch.long)
        return first.scatter_reduce(0, self.row, torch.arange(len(self.row)), "amin")


# --- the methods -----------------------------------------------------------------------------


def with_values(
    world: Enumerated, values: Float[Tensor, " S"], *, lam: float, group: int
) -> GradientNoise:
    """PPO's first step: GAE over tokens, with a value for each state that somebody claims.

    Values of 0 and λ = 1 are REINFORCE; the true values and λ = 0 are VinePPO with K = ∞.
    """
    advantages = step_advantages(world.along(values), world.rewards, world.mask, lam=lam)
    return world.noise(advantages, group=group)


def with_rollouts(world: Enumerated, *, rollouts: int, group: int) -> GradientNoise:
    """VinePPO: K fresh rollouts of every state that one of the group's responses passes.

        E[A_t² | y] = (ΔV)² + (σ²(s_t) + σ²(s_{t+1})) / K,    σ²(s) = Var(R | s): V(1 - V) for 0/1

    Responses that pass through one state share its value, and so its error.
    """
    squares, _ = prefix_values(world.model, world.rewards.square())
    error = (squares - world.V.square()).detach().clamp(min=0.0) / rollouts  # of V̂(s)
    advantages = step_advantages(world.along(world.V), world.rewards, world.mask)
    second = advantages.square() + world.along(error) + world.after(error)
    # two responses that both go from s to s' have the error of V̂(s') in common; that of V̂(s)
    # multiplies E[∇ log π] = 0 in each of them
    both = world.chance[:, None] * world.after(world.reach * error) * world.lengths
    joint = float(world._mean(advantages).square().sum() + both.sum())
    left, _ = prefix_values(world.model, world.mask.sum(dim=1).to(world.V))
    met = 1 - (1 - world.reach) ** group
    cost = rollouts * float((met * (left.detach() - world.place)).sum()) / world.N
    return world.noise(advantages, group=group, second=second, joint=joint, extra_tokens=cost)


def with_group(world: Enumerated, method: str, *, group: int) -> GradientNoise:
    """The others of the group as baseline, for rewards of 0 and 1; one advantage per response.

    Given y, the number of right ones among the others is binomial.

    Raises ValueError for other rewards, and for a method that is not in GROUP_METHODS.
    """
    if method not in GROUP_METHODS:
        raise ValueError(f"{method!r} is not one of {', '.join(GROUP_METHODS)}")
    R = world.rewards
    if not ((R == 0) | (R == 1)).all():
        raise ValueError("groups are averaged in closed form for rewards of 0 and 1 only")
    weights = torch.zeros(2, len(R), dtype=R.dtype)  # E[A | y] and E[A² | y]
    joint = 0.0
    prompts = torch.arange(len(R)).view(world.N, -1)
    for own in prompts:
        p = float((world.chance[own] * R[own]).sum())
        A = _advantages_by_count(method, group)
        chance = torch.tensor([_binomial(c, group - 1, p) for c in range(group)], dtype=R.dtype)
        for r in (0, 1):  # c others are right: c + r in all
            seen = A[r, torch.arange(group) + r]
            weights[0, own[R[own] == r]] = float(chance @ seen)
            weights[1, own[R[own] == r]] = float(chance @ seen.square())
        slope = torch.zeros_like(R)
        slope[own] = R[own]
        length = float(world._mean(slope[:, None].expand(world.mask.shape)).square().sum())
        # Σ_y π(y) u(y) is ∇p over right responses, and -∇p over wrong ones
        for i in (0, 1):
            for j in (0, 1):
                others = range(group - 1)  # right ones among the G - 2 left
                mean = sum(
                    _binomial(c, group - 2, p) * float(A[i, c + i + j] * A[j, c + i + j])
                    for c in others
                )
                joint += (1 if i == j else -1) * mean * length
    first, second = (w[:, None] * world.mask for w in weights)
    return world.noise(first, group=group, second=second, joint=joint)


def _advantages_by_count(method: str, group: int) -> Float[Tensor, "2 counts"]:
    """A of a wrong and of a right response, by the number of right ones in the group."""
    found = torch.zeros(2, group + 1, dtype=torch.float64)
    for right in range(group + 1):
        row = (torch.arange(group) < right).double()[None]
        A = GROUP_METHODS[method](row)[0]
        found[0, right], found[1, right] = A[-1], A[0]  # the wrong ones stand last
    return found


def _binomial(c: int, n: int, p: float) -> float:
    return comb(n, c) * p**c * (1 - p) ** (n - c)


# --- small worlds ----------------------------------------------------------------------------


def world(
    steps: int, kind: str = "one step decides", *, solved: tuple[float, float] = (0.1, 0.6)
) -> Enumerated:
    """Responses of so many tokens, each a step of its own: 1 or 0. The reward is 0 or 1.

        "one step decides"    the middle step must be 1; the others are fair coins, mere wording
        "every step counts"   all steps must be 1; each is, with probability p^(1/T)

    Args:
        solved: p of each of two prompts.

    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {KINDS}")
    model = TabularLM([[0], [1]], vocab_size=2, max_new_tokens=steps)
    responses = torch.tensor(model.space.responses)
    middle = (steps - 1) // 2
    table = torch.zeros(len(model.space), 2, dtype=torch.float64)
    R = len(model.space.prefixes)
    for n, p in enumerate(solved):
        for s, prefix in enumerate(model.space.prefixes):
            if kind == "one step decides":
                right = p if len(prefix) == middle else 0.5
            else:
                right = p ** (1 / steps)
            table[n * R + s] = torch.tensor([1 - right, right]).log()
    right = responses[:, middle] == 1 if kind == "one step decides" else responses.all(dim=1)
    return Enumerated(model.like(table), right.double().repeat(2), tied=True)


def critic_of(world: Enumerated, error: float) -> Float[Tensor, " S"]:
    """The true values, and an error that looks at the last token alone: + after a 1, - after a 0.

    Its mean absolute error is ``error`` but for the prompts, where there is none. It does not
    average out over states: a network that is fooled by a look is fooled everywhere.
    """
    last = [0.0 if not prefix else (1.0 if prefix[-1] == 1 else -1.0)
            for prefix in world.model.space.prefixes]  # fmt: skip
    return world.V + error * torch.tensor(last * world.N, dtype=world.V.dtype)


def compared(world: Enumerated, *, group: int = 8, error: float = 0.11) -> dict[str, GradientNoise]:
    """The methods of the book, each with the same number of responses."""
    critic, zero = critic_of(world, error), torch.zeros_like(world.V)
    found = {"REINFORCE": with_values(world, zero, lam=1.0, group=group)}
    for lam in (1.0, 0.95, 0.0):
        found[f"PPO, λ = {lam:g}"] = with_values(world, critic, lam=lam, group=group)
    found |= {name: with_group(world, name, group=group) for name in GROUP_METHODS}
    for K in (1, 3, 9):
        found[f"VinePPO, K = {K}"] = with_rollouts(world, rollouts=K, group=group)
    found["VinePPO, K = ∞"] = with_values(world, world.V, lam=0.0, group=group)
    return found
