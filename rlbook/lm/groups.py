"""Every group of K responses of a TabularLM, and what a loss of such groups follows on average.

    E[∇L] = Σ_groups π(y_1) ... π(y_K) ∇L(y_1, ..., y_K)

A loss is a function (logprobs, old_logprobs, ref_logprobs [K, T], rewards [K], mask [K, T]) →
one number. Letters: N prompts with M responses each, K responses of a group, T tokens, S states.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.exact import enumerate_responses, enumerated_logprobs, response_states
from rlbook.lm.tabular_lm import TabularLM

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
LARGEST = 10**5  # groups
PIECE = 1000  # groups whose losses are in memory at once
ORDER_TRIALS = 32  # groups on which a loss is asked whether the order of its rows matters


class Groups:
    """All groups of K responses to one prompt, drawn independently from a policy.

    Args:
        model: π, whose table the gradients are in. ref: π_ref. old: the policy that draws.
        rewards: one per response, in the order of ``enumerate_responses``.
        K: responses of a group.

    Raises ValueError for more than 10⁵ groups.

    Book: 18_grpo.
    """

    def __init__(
        self, model: TabularLM, ref: TabularLM, old: TabularLM, rewards: Tensor, K: int
    ) -> None:
        N, M = len(model.space.prompts), len(model.space.responses)
        if K < 1 or M**K > LARGEST:
            raise ValueError(
                f"group={K}: {M} responses make {M}^{K} groups; at least one response, and at most "
                f"{LARGEST} groups, can be enumerated"
            )
        responses = enumerate_responses(model)
        self.model, self.K, self.N, self.M = model, K, N, M
        self.mask = responses.response_mask
        self.states = response_states(model, responses)
        self.tokens = responses.response_ids
        with torch.no_grad():
            self.logprobs, self.ref, self.old = (enumerated_logprobs(m) for m in (model, ref, old))
        self.rewards = rewards.to(self.logprobs)

    def expected_gradient(
        self, loss_fn: Loss, *, alike: bool = False
    ) -> tuple[Float[Tensor, "S V"], float, int]:
        """E[∇L], the sum of the variances of ∇L, and the number of groups behind them.

        Where the loss treats its rows alike (``alike`` says that it is known to; otherwise it is
        asked on random groups), each set of responses is gone through once, and counted for all
        its orders.

        Raises ValueError for a loss that is not one finite number (of which group).
        """
        alike = alike or self._rows_are_alike(loss_fn)
        first = torch.zeros_like(self.model.table).flatten()
        second = 0.0
        for piece in self._pieces(alike):
            index = torch.tensor(piece)
            probability = self.old.sum(dim=1)[index].sum(dim=1).exp() / self.N
            if alike:
                probability *= torch.tensor([_orders(group) for group in piece])
            gradients = self._gradients(index, self._slopes(loss_fn, index))
            first += probability @ gradients
            second += float(probability @ gradients.square().sum(dim=1))
        variance = max(second - float(first.square().sum()), 0.0)
        return first.view_as(self.model.table), variance, self.N * self.M**self.K

    def _pieces(self, alike: bool) -> Iterator[list[tuple[int, ...]]]:
        """Groups of response numbers, PIECE at a time."""
        every = itertools.combinations_with_replacement if alike else _ordered
        prompts = (range(n * self.M, (n + 1) * self.M) for n in range(self.N))
        groups = itertools.chain.from_iterable(every(rows, self.K) for rows in prompts)
        while piece := list(itertools.islice(groups, PIECE)):
            yield piece

    def _slopes(self, loss_fn: Loss, index: Int[Tensor, "G K"]) -> Float[Tensor, "G K T"]:
        """∂L/∂logprobs of each group: every loss by itself, and one backward pass for all."""
        logprobs = self.logprobs[index].requires_grad_()
        total = logprobs.sum() * 0.0
        for own, group in zip(logprobs.unbind(), index, strict=True):
            loss = loss_fn(
                own.clone(), self.old[group], self.ref[group], self.rewards[group], self.mask[group]
            )
            self._check(loss, group)
            total = total + loss.squeeze()
        return torch.autograd.grad(total, logprobs)[0]

    def _check(self, loss: Tensor, group: Int[Tensor, " K"]) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(
                "the loss must be one number, a tensor of one element: reduce it (aggregate)"
            )
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss of the responses {group.tolist()} with rewards "
                f"{self.rewards[group].tolist()} is {loss.item()}: guard it against equal rewards"
            )

    def _gradients(
        self, index: Int[Tensor, "G K"], slopes: Float[Tensor, "G K T"]
    ) -> Float[Tensor, "G SV"]:
        """The chain rule: Σ slope · ∇ log π(a|s); in row s, ∇ log π(a|s) = onehot(a) - π(·|s)."""
        S, V = self.model.table.shape
        mask: Bool[Tensor, "G K T"] = self.mask[index]
        weights, tokens = slopes[mask], self.tokens[index][mask]
        states = self.states[index][mask]
        rows = -weights[:, None] * self.model.table.detach().softmax(dim=-1)[states]
        rows[torch.arange(len(tokens)), tokens] += weights
        group = torch.arange(len(index))[:, None, None].expand(mask.shape)[mask]
        return (
            rows.new_zeros(len(index) * S, V).index_add(0, group * S + states, rows).view(-1, S * V)
        )

    def _rows_are_alike(self, loss_fn: Loss) -> bool:
        """Whether permuting a group's rows permutes its slopes, on random groups."""
        if self.K == 1:
            return True
        generator = torch.Generator().manual_seed(0)
        for _ in range(ORDER_TRIALS):
            n = int(torch.randint(self.N, (1,), generator=generator))
            index = n * self.M + torch.randint(self.M, (self.K,), generator=generator)
            order = torch.randperm(self.K, generator=generator)
            if self.K == 2:
                order = torch.tensor([1, 0])
            there, back = self._slopes(loss_fn, torch.stack([index, index[order]]))
            there = there[order]
            if not torch.allclose(there, back, rtol=1e-10, atol=1e-12):
                return False
        return True


def _ordered(rows: range, K: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(rows, repeat=K)


def _orders(group: tuple[int, ...]) -> int:
    """In how many orders the members of a group can stand: K! / Π (how often each occurs)!"""
    count = math.factorial(len(group))
    for member in set(group):
        count //= math.factorial(group.count(member))
    return count
