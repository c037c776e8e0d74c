"""Texts of different lengths in one tensor: several in a row, or one in a row with padding.

    one in a row        a a a a a a        several in a row      a a a a a a
                        b b b · · ·                              b b b c c ·
                        c c · · · ·

The texts of a row do not see one another: positions begin again at 0 with each, and attention is
block-diagonal. So losses and gradients are those of the unpacked texts, with fewer cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlbook.lm.gpt2 import document_mask
from rlbook.lm.policy import Policy

Pair = tuple[str | Sequence[int], str | Sequence[int]]  # prompt and response


@dataclass(frozen=True, eq=False)
class Example:
    """A text to learn: its token ids, and how many at its beginning are not to be learnt."""

    ids: tuple[int, ...]
    given: int

    @property
    def learnt(self) -> int:
        """How many tokens a loss counts: nothing predicts the first token of a text."""
        return len(self.ids) - max(self.given, 1)


@dataclass(frozen=True, eq=False)
class Rows:
    """R rows of L cells.

    Attributes:
        ids: the tokens, padding at the end of a row [R, L].
        text: which text of its row a cell belongs to, 0, 1, ...; -1 in padding [R, L].
        position_ids: the place of a token in its own text [R, L].
        learnt: True for the tokens that the loss counts; never the first of a text [R, L].
    """

    ids: Int[Tensor, "R L"]
    text: Int[Tensor, "R L"]
    position_ids: Int[Tensor, "R L"]
    learnt: Bool[Tensor, "R L"]

    @property
    def mask(self) -> Bool[Tensor, "R L"] | Bool[Tensor, "R 1 L L"]:
        """What attention may look at: the tokens, or, where texts share a row, one's own text."""
        if (self.text > 0).any():
            return document_mask(self.text)[:, None]
        return self.text >= 0

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on another device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


def encode_examples(
    policy: Policy, examples: Sequence[Pair], *, mask_prompt: bool = True
) -> list[Example]:
    """Prompts and responses as token ids, with EOS.

    The two are tokenised apart, as they are when the policy answers the prompt: no token
    straddles them. Raises ValueError as ``sft`` does.

    Book: 13_sft.
    """
    if not examples:
        raise ValueError("there are no examples: give (prompt, response) pairs")
    prompts = policy.encode([prompt for prompt, _ in examples])
    responses = _response_ids(policy, [response for _, response in examples])
    found = []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if mask_prompt and not prompt:
            raise ValueError(
                f"example {i} has an empty prompt, so nothing predicts its first token: for "
                "whole texts set mask_prompt=False"
            )
        example = Example((*prompt, *response), len(prompt) if mask_prompt else 0)
        if example.learnt < 1 or len(example.ids) > policy.context:
            raise ValueError(
                f"example {i} has {len(example.ids)} tokens with EOS, but must have 2 to "
                f"{policy.context}, the model's context: drop or shorten it"
            )
        found.append(example)
    return found


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which texts share a row: first-fit decreasing, the longest texts first.

    Args:
        lengths: of the texts, in tokens. capacity: of a row.

    Returns:
        The texts of each row, by number. No more than 11/9 of the fewest rows possible, plus one.

    Raises ValueError for a text longer than a row (which).

    Book: 13_sft.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > capacity:
            raise ValueError(
                f"text {i} has {lengths[i]} tokens and a row {capacity}: shorten the text"
            )
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def micro_batches(
    examples: Sequence[Example], *, capacity: int | None, cells: int, pad_id: int
) -> Iterator[Rows]:
    """The texts of one optimiser step as rows, in pieces that fit in memory; every text once.

    Rows are sorted, the fullest first, so that little padding is left in a piece, and a piece
    that is too large for the memory fails at once.

    Args:
        capacity: tokens of a packed row; None puts one text in a row.
        cells: most cells in a piece, padding included; a single row may have more.

    Raises ValueError for a text longer than ``capacity``.

    Book: 13_sft.
    """
    lengths = [len(example.ids) for example in examples]
    packed = [[i] for i in range(len(lengths))] if capacity is None else pack(lengths, capacity)
    packed.sort(key=lambda row: -sum(lengths[i] for i in row))
    rows = [[examples[i] for i in row] for row in packed]
    while rows:
        width = sum(len(example.ids) for example in rows[0])
        size = max(cells // width, 1)
        yield rows_of(rows[:size], pad_id=pad_id)
        rows = rows[size:]


def rows_of(texts: Sequence[Sequence[Example]], *, pad_id: int) -> Rows:
    """The texts of each row, one after the other, as tensors; L is the fullest row.

    Book: 13_sft.
    """
    L = max(sum(len(example.ids) for example in row) for row in texts)
    ids, text, position_ids, learnt = [], [], [], []
    for row in texts:
        ends = [len(example.ids) for example in row]
        padding = L - sum(ends)
        ids += [token for example in row for token in example.ids] + [pad_id] * padding
        text += [number for number, end in enumerate(ends) for _ in range(end)] + [-1] * padding
        position_ids += [place for end in ends for place in range(end)] + [0] * padding
        for example in row:
            first = max(example.given, 1)
            learnt += [False] * first + [True] * (len(example.ids) - first)
        learnt += [False] * padding
    shaped = (torch.tensor(x).view(-1, L) for x in (ids, text, position_ids, learnt))
    return Rows(*shaped)


def _response_ids(policy: Policy, responses: Sequence[str | Sequence[int]]) -> list[list[int]]:
    """Token ids of texts that continue a prompt, ending in EOS."""
    if policy.eos_id is None:
        raise ValueError("this policy has no EOS, so its responses would not learn to end")
    texts = [i for i, response in enumerate(responses) if isinstance(response, str)]
    rows = [[] if isinstance(r, str) else [int(token) for token in r] for r in responses]
    if texts and policy.tokenizer is None:
        raise ValueError(f"response {texts[0]} is a string, but the policy has no tokenizer")
    if texts:
        ids = policy.tokenizer([responses[i] for i in texts], add_special_tokens=False)
        for i, row in zip(texts, ids["input_ids"], strict=True):
            rows[i] = row
    return [row if row[-1:] == [policy.eos_id] else [*row, policy.eos_id] for row in rows]
