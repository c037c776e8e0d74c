"""Preference pairs for dpo.py: from a policy's samples, as tensors, in micro-batches.

Letters: n pairs, b of a batch; N prompts with K samples each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlbook.lm.batch import Responses, concatenate, responses_from_texts
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Prompt
from rlbook.posttrain.experience import Experience
from rlbook.posttrain.reward_model import Preference


class Pairs(NamedTuple):
    """n pairs as tensors.

    Attributes:
        chosen, rejected: the responses, with their prompts.
        other: each prompt with the response to another one (chosen and rejected ones in turn),
            for KTO's estimate of a KL; or None.
    """

    chosen: Responses
    rejected: Responses
    other: Responses | None = None

    @property
    def lengths(self) -> Int[Tensor, "2 n"]:
        """Response tokens of chosen and rejected."""
        return torch.stack([self.chosen.lengths, self.rejected.lengths])


def best_and_worst(
    batch: Experience, *, pairs_per_prompt: int = 1, cut: bool = True
) -> Int[Tensor, "2 n"]:
    """Row numbers of pairs from K samples of each prompt: best and worst, second best and worst ...

    With rewards of 0 and 1 these are a correct and a wrong answer each; for K = 2 the better of
    two. Samples with equal rewards make no pair.

    Args:
        cut: whether responses cut at the length limit take part.

    Book: 19_dpo.
    """
    rewards, truncated = batch.rewards.tolist(), batch.responses.truncated.tolist()
    found = []
    for first in range(0, len(rewards), batch.K):
        rows = [i for i in range(first, first + batch.K) if cut or not truncated[i]]
        rows.sort(key=lambda i: -rewards[i])
        pairs = list(zip(rows, rows[::-1], strict=True))[:pairs_per_prompt]
        found += [(a, b) for a, b in pairs if rewards[a] > rewards[b]]
    return torch.tensor(found, dtype=torch.long).view(-1, 2).T


def preferences_of(batch: Experience, *, pairs_per_prompt: int = 1) -> list[Preference]:
    """``best_and_worst`` as preferences, to be kept or written to a file.

    Responses that were cut at the length limit take no part: a preference's texts are taken as
    finished, and an end that these do not have would be learnt.

    Book: 19_dpo.
    """
    texts = batch.responses.texts
    rows = best_and_worst(batch, pairs_per_prompt=pairs_per_prompt, cut=False).T.tolist()
    return [
        Preference(batch.problems[a].prompt, (texts[a], texts[b]))
        for a, b in rows
        if texts[a] != texts[b]
    ]


def encode_pairs(policy: Policy, pairs: Sequence[Preference], *, with_other: bool = False) -> Pairs:
    """Preferences as tensors. Raises ValueError for a text that does not fit (which).

    Book: 19_dpo.
    """
    prompts = [pair.prompt for pair in pairs]
    columns = ([pair.texts[which] for pair in pairs] for which in (0, 1))
    chosen, rejected = (responses_from_texts(policy, prompts, texts) for texts in columns)
    return paired(policy, prompts, chosen, rejected, with_other=with_other)


def paired(
    policy: Policy,
    prompts: Sequence[Prompt],
    chosen: Responses,
    rejected: Responses,
    *,
    with_other: bool,
) -> Pairs:
    """Responses as pairs. ``other`` is the next response to another prompt, as far as it fits."""
    if not with_other:
        return Pairs(chosen, rejected)
    n = len(prompts)
    ahead = ((j % n for j in range(i + 1, i + n)) for i in range(n))
    partner = [next((j for j in js if prompts[j] != prompts[i]), i) for i, js in enumerate(ahead)]
    rows = [j + n * (i % 2) for i, j in enumerate(partner)]  # a chosen, a rejected one in turn
    answers = concatenate([chosen, rejected]).select(rows)
    room = (policy.context - chosen.prompt_lengths)[:, None]
    fits = torch.arange(answers.response_ids.shape[1], device=room.device) < room
    other = replace(
        answers,
        prompt_ids=chosen.prompt_ids,
        prompt_mask=chosen.prompt_mask,
        response_mask=answers.response_mask & fits,
    )
    return Pairs(chosen, rejected, other)


def pair_logprobs(model: nn.Module, pairs: Pairs, rows: Int[Tensor, " b"]) -> Float[Tensor, "2 b"]:
    """log π of the chosen and the rejected responses, in one forward pass with gradient."""
    both = concatenate([pairs.chosen.select(rows), pairs.rejected.select(rows)])
    return response_logprobs(model, both).sum(dim=1).view(2, -1)


def pair_pieces(
    pairs: Pairs, rows: Int[Tensor, " b"], *, micro_tokens: int | None
) -> Iterator[Int[Tensor, " part"]]:
    """A batch of pairs in micro-batches, the longest first; a single pair may be over the limit."""
    T = pairs.lengths.amax(dim=0).cpu()
    P = pairs.chosen.prompt_lengths.cpu()
    rows = rows[(P + T)[rows].argsort(descending=True, stable=True)]
    while len(rows):
        cells = 2 * int(P[rows].max() + T[rows].max())
        size = len(rows) if micro_tokens is None else max(micro_tokens // cells, 1)
        yield rows[:size]
        rows = rows[size:]
