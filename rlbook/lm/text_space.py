"""All the texts that a few prompts and short responses can make: listed, and numbered.

A state is a prompt and a prefix: the response tokens written so far. No prefix holds an EOS, since
nothing follows one; so prefixes are written in A = V - 1 letters (A = V without an EOS), and there
are A^t of length t. States are numbered by prompt, then by length, then by the prefix read as a
number in base A:

    state = n·R + (1 + A + ... + A^(t-1)) + Σ_i digit_i · A^(t-1-i),    R = 1 + A + ... + A^(T-1)

Letters: B rows, L columns, N prompts, T response tokens at most, V vocabulary, S = N·R states,
M responses per prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlbook.lm.batch import pad_right, position_ids

LARGEST = 10**6  # responses; more are not "enumerable" on a laptop


class Paths(NamedTuple):
    """State, token and mask along every response [M, T] (or [N·M, T])."""

    states: Int[Tensor, "M T"]
    tokens: Int[Tensor, "M T"]
    mask: Bool[Tensor, "M T"]


@dataclass(frozen=True)
class TextSpace:
    """The texts of a ``TabularLM``. Two models with equal text spaces have comparable tables.

    Args:
        prompts: as token ids; none may begin with another, or a text would have two readings.
        vocab_size: V, at least 2; shared by prompts and responses.
        max_new_tokens: T, the length limit. Without an EOS every response has exactly T tokens.
        eos_id: the token that ends a response, or None.

    Raises:
        ValueError: no prompt, an empty one, one that begins with another; an id outside the
            vocabulary; more than a million responses.

    Book: 12_text_as_mdp.
    """

    prompts: tuple[tuple[int, ...], ...]
    vocab_size: int
    max_new_tokens: int
    eos_id: int | None = None

    def __post_init__(self) -> None:
        N, V, T = len(self.prompts), self.vocab_size, self.max_new_tokens
        if N < 1 or V < 2 or T < 1:
            raise ValueError(f"{N} prompts, vocab_size={V}, max_new_tokens={T}: at least 1, 2, 1")
        if N * V**T > LARGEST:
            raise ValueError(
                f"{N} prompts with up to {T} of {V} tokens have about {N * V**T} responses, more "
                f"than the {LARGEST} that can be enumerated: use fewer or shorter ones"
            )
        if self.eos_id is not None and not 0 <= self.eos_id < V:
            raise ValueError(f"eos_id={self.eos_id} is not a token: ids go from 0 to {V - 1}")
        _check_prompts(self.prompts, V)

    @cached_property
    def letters(self) -> tuple[int, ...]:
        """The tokens that a response can go on after: all but the EOS [A]."""
        return tuple(token for token in range(self.vocab_size) if token != self.eos_id)

    @cached_property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The prefixes of one prompt in the order of their states, the empty one first [R]."""
        lengths = range(self.max_new_tokens)
        return [prefix for t in lengths for prefix in product(self.letters, repeat=t)]

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """Every response to one prompt, sorted by its tokens [M]: those that end in the EOS, and
        those as long as the limit."""
        found = list(product(self.letters, repeat=self.max_new_tokens))
        if self.eos_id is not None:
            found += [(*prefix, self.eos_id) for prefix in self.prefixes]
        return sorted(found)

    def __len__(self) -> int:
        """S: number of states."""
        return len(self.prompts) * len(self.prefixes)

    def paths(self, device: torch.device) -> Paths:
        """State, token and mask along every response to every prompt [N·M, T]."""
        one = _paths_of_a_prompt(self)
        N, M = len(self.prompts), len(one.states)
        first = (torch.arange(N) * len(self.prefixes)).repeat_interleave(M)[:, None]
        tokens, mask = (x.repeat(N, 1).to(device) for x in one[1:])
        return Paths((one.states.repeat(N, 1) + first).to(device), tokens, mask)

    def states(
        self,
        ids: Int[Tensor, "B L"],
        mask: Tensor | None = None,
        positions: Int[Tensor, "#B Q"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """The state that each column of a text leads to: what the next token is chosen in.

        -1 where there is none: padding, an unfinished prompt, after an EOS or at the limit.

        Args:
            ids: prompt and response, padded on the left, the right, or both.
            mask: 1 or True for tokens [B, L]. Default: no padding.
            positions: of the last Q columns, to be checked against the mask. Default: no check.

        Raises:
            ValueError: a row that begins with none of the prompts, is longer than the limit, or
                holds an id outside the vocabulary; padding inside a text; positions that do not
                count the tokens; a mask of another shape.
        """
        mask = _checked_mask(torch.ones_like(ids) if mask is None else mask, ids, positions)
        ids = torch.where(mask, ids, 0)  # what stands under padding is never looked at
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"ids span {ids.min()}..{ids.max()}; the vocabulary is 0..{self.vocab_size - 1}"
            )
        start = mask.long().argmax(dim=1)
        prompt, length = self._which_prompt(ids, start)
        # Response tokens up to and with each column; below 0 before the prompt is complete.
        written = torch.arange(ids.shape[1], device=ids.device) - (start + length - 1)[:, None]
        in_response = mask & (written >= 1)
        is_eos = in_response & (ids == (-1 if self.eos_id is None else self.eos_id))
        ended = is_eos.cumsum(dim=1)
        self._check_limit(in_response & (ended - is_eos.long() == 0), written)
        number = self._row(torch.where(in_response, ids, -1), written)
        exists = mask & (ended == 0) & (written >= 0) & (written < self.max_new_tokens)
        return torch.where(exists, prompt[:, None] * len(self.prefixes) + number, -1)

    def _row(self, tokens: Int[Tensor, "B L"], written: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """The number of each prefix among those of one prompt; tokens outside responses are -1.

        Each digit counts for its place from the *front*, A^(T-1), A^(T-2), ..., so that one
        cumulative sum holds all prefixes of a text; dividing moves their last digit to place 1.
        """
        A, T = len(self.letters), self.max_new_tokens
        powers = torch.tensor([A**t for t in range(T + 1)], device=tokens.device)
        offsets = torch.cat([powers.new_zeros(1), powers[:-1].cumsum(0)])
        place = powers[(T - written).clamp(0, T)]
        digits = tokens if self.eos_id is None else tokens - (tokens > self.eos_id).long()
        number = torch.where(tokens >= 0, digits * place, 0).cumsum(dim=1) // place
        return offsets[written.clamp(0, T)] + number

    def _which_prompt(
        self, ids: Int[Tensor, "B L"], start: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Number and length of the prompt that each row begins with, from column ``start`` on."""
        prompts, real = (x.to(ids.device) for x in pad_right(self.prompts, 0))
        columns = start[:, None] + torch.arange(prompts.shape[1], device=ids.device)
        there = columns < ids.shape[1]
        begins = ids.gather(1, columns.clamp(max=ids.shape[1] - 1))
        equal = (begins[:, None] == prompts) & there[:, None]
        found = (equal | ~real).all(dim=2)
        if not found.any(dim=1).all():
            row = int((~found.any(dim=1)).nonzero()[0, 0])
            raise ValueError(
                f"row {row} reads {ids[row, start[row] :].tolist()} after its padding, but begins "
                f"with none of the prompts {[list(prompt) for prompt in self.prompts]}"
            )
        prompt = found.long().argmax(dim=1)
        return prompt, real.sum(dim=1)[prompt]

    def _check_limit(self, chosen: Bool[Tensor, "B L"], written: Int[Tensor, "B L"]) -> None:
        T = self.max_new_tokens
        if (chosen & (written > T)).any():
            raise ValueError(
                f"a response is longer than {T} tokens, which is all that this table has states "
                f"for: sample with max_new_tokens={T}, or build the model with a larger one"
            )


@lru_cache(maxsize=16)
def _paths_of_a_prompt(space: TextSpace) -> Paths:
    """The paths of the first prompt, by looking prefixes up in a list."""
    number = {prefix: row for row, prefix in enumerate(space.prefixes)}
    rows = [[number[y[:t]] for t in range(len(y))] for y in space.responses]
    states, mask = pad_right(rows, 0)
    return Paths(states, pad_right(space.responses, 0)[0], mask)


def _checked_mask(
    mask: Tensor, ids: Int[Tensor, "B L"], positions: Int[Tensor, "#B Q"] | None
) -> Bool[Tensor, "B L"]:
    """The mask as bools, once it covers every column and holds one run of tokens per row."""
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, but must be [B, L] = "
            f"{tuple(ids.shape)}, columns in the cache included"
        )
    mask = mask.bool()
    expected = position_ids(mask)
    columns = torch.arange(ids.shape[1], device=ids.device)
    gap = mask & (columns - mask.long().argmax(dim=1, keepdim=True) != expected)
    if gap.any():
        row = int(gap.nonzero()[0, 0])
        raise ValueError(f"row {row} has padding inside its text: pad on the left or right of it")
    if positions is not None:
        expected = expected[:, -positions.shape[1] :]
        wrong = mask[:, -positions.shape[1] :] & (positions != expected)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"row {row} has position_ids {positions.expand_as(wrong)[row].tolist()}, but its "
                f"tokens stand at {expected[row].tolist()}: count tokens, not padding"
            )
    return mask


def _check_prompts(prompts: Sequence[tuple[int, ...]], V: int) -> None:
    for i, prompt in enumerate(prompts):
        if not prompt or min(prompt) < 0 or max(prompt) >= V:
            raise ValueError(f"prompt {i} = {list(prompt)} needs one or more ids from 0 to {V - 1}")
        for j, other in enumerate(prompts):
            if i != j and other[: len(prompt)] == prompt:
                raise ValueError(
                    f"prompt {j} = {list(other)} begins with prompt {i} = {list(prompt)}, so that "
                    "what follows could answer either: end them with a token of their own"
                )
