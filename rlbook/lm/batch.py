"""Prompts and responses as tensors: padding, masks, choosing rows.

    prompt_ids    [B, P]   · · a b c      left-padded: the last column is the last prompt token
    response_ids  [B, T]   d e ∎ · ·      right-padded: column t is the t-th action

so the two side by side are one piece of text per row, with padding outside it only. Masks go
by position and never by comparing with the pad id: GPT-2's pad *is* its EOS, and the EOS that a
policy chose is an action like any other. What stands under a False mask is never looked at.

Letters: B responses, P prompt tokens, T response tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.policy import Policy


@dataclass(frozen=True, eq=False)
class Responses:
    """B responses with their prompts; the K samples of one prompt stand next to one another.

    Attributes:
        prompt_ids, prompt_mask: left-padded [B, P]; every prompt has at least one token, since
            the first response token is predicted from the last token of the prompt.
        response_ids: right-padded [B, T].
        response_mask: True where the policy chose the token, EOS included [B, T].
        sampler_logprobs: log-probability of each token when it was drawn, in nats; set to 0 where
            the mask is False, and never with a gradient [B, T].
        texts: the responses decoded, without EOS.
        truncated: True where the length limit cut the response before its end [B]. Default: none.

    Raises:
        ValueError: shapes that differ; ids that are no integers, masks that are no bools; padding
            on the wrong side or inside the text (which row).

    Book: 11_generation.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    response_ids: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    sampler_logprobs: Float[Tensor, "B T"]
    texts: list[str]
    truncated: Bool[Tensor, " B"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.truncated is None:
            none = torch.zeros(len(self.texts), dtype=torch.bool, device=self.response_ids.device)
            object.__setattr__(self, "truncated", none)
        _check_shapes(self)
        _check_prefix(self.prompt_mask.flip(1), "prompt_mask", "on the left, at least one token")
        _check_prefix(self.response_mask, "response_mask", "on the right", may_be_empty=True)
        clean = self.sampler_logprobs.detach().masked_fill(~self.response_mask, 0.0)
        object.__setattr__(self, "sampler_logprobs", clean)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.response_ids.device

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Number of response tokens, EOS included."""
        return self.response_mask.sum(dim=1)

    @property
    def prompt_lengths(self) -> Int[Tensor, " B"]:
        """Number of prompt tokens."""
        return self.prompt_mask.sum(dim=1)

    @property
    def sequence_ids(self) -> Int[Tensor, "B L"]:
        """Prompt and response side by side: what a model reads."""
        return torch.cat([self.prompt_ids, self.response_ids], dim=1)

    @property
    def sequence_mask(self) -> Bool[Tensor, "B L"]:
        """True for the tokens of prompt and response."""
        return torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def select(self, rows: slice | Sequence[int] | Tensor) -> "Responses":
        """Some of the rows, in the order given; columns that none of them uses are cut off.

        Args:
            rows: a slice, a list of numbers, or a tensor of numbers or of bools [B].

        Raises ValueError if no row is chosen.
        """
        every = torch.arange(len(self), device=self.device)
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.device)
            rows = rows if rows.numel() else rows.long()  # an empty list makes a float tensor
        index = every[rows]
        if not len(index):
            raise ValueError(f"no row is chosen from these {len(self)} responses: choose some")
        P = int(self.prompt_lengths[index].max())
        T = max(int(self.lengths[index].max()), 1)
        first = self.prompt_ids.shape[1] - P
        return Responses(
            prompt_ids=self.prompt_ids[index, first:],
            prompt_mask=self.prompt_mask[index, first:],
            response_ids=self.response_ids[index, :T],
            response_mask=self.response_mask[index, :T],
            sampler_logprobs=self.sampler_logprobs[index, :T],
            texts=[self.texts[i] for i in index.tolist()],
            truncated=self.truncated[index],
        )

    def to(self, device: torch.device | str) -> "Responses":
        """The same responses on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "texts"}
        return replace(self, **{name: x.to(device) for name, x in tensors.items()})


def position_ids(mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """The place of each token in its own text, 0 for its first, whatever padding stands before it.

    A bare forward numbers the *columns* instead, so that a left-padded prompt is read as if it
    began in the middle of a text.

    Book: 11_generation.
    """
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def pad_left(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Rows of different lengths as one tensor, all ending in its last column; and the mask."""
    ids, mask = pad_right([row[::-1] for row in rows], pad_id)
    return ids.flip(1), mask.flip(1)


def pad_right(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Rows of different lengths as one tensor, all beginning in its first column; and the mask."""
    if not len(rows):
        raise ValueError("there is nothing to pad: no rows were given")
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, pad_id, dtype=torch.long)
    ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    return ids, mask


def responses_from_texts(
    policy: Policy,
    prompts: Sequence[str | Sequence[int]],
    texts: Sequence[str | Sequence[int]],
    *,
    end: bool = True,
) -> Responses:
    """Given answers as ``Responses``: demonstrations, preferred replies, texts to score.

    Args:
        prompts, texts: one text per prompt, each as a string or as token ids. Prompt and text are
            tokenised apart, as they are when the policy writes; no token straddles the two.
        end: append the policy's EOS to every text that does not end in it.

    Returns:
        Responses with sampler_logprobs 0, none of them truncated, on the policy's device.

    Raises:
        ValueError: numbers that differ; a text without tokens; a pair longer than the context; no
            EOS to append.

    Book: 13_sft.
    """
    if len(prompts) != len(texts):
        raise ValueError(f"{len(prompts)} prompts and {len(texts)} texts: give one text per prompt")
    if end and policy.eos_id is None:
        raise ValueError("this policy has no EOS to append: pass end=False")
    prompt_rows = policy.encode(prompts)
    rows = [_response_ids(policy, text, end) for text in texts]
    for i, (prompt, row) in enumerate(zip(prompt_rows, rows, strict=True)):
        if not row:
            raise ValueError(f"text {i} has no tokens: give it some, or pass end=True")
        if len(prompt) + len(row) > policy.context:
            raise ValueError(
                f"prompt {i} has {len(prompt)} tokens and its text {len(row)}, but the model's "
                f"context holds {policy.context}: shorten one of them"
            )
    prompt_ids, prompt_mask = pad_left(prompt_rows, policy.pad_id)
    response_ids, response_mask = pad_right(rows, policy.pad_id)
    return Responses(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(response_ids.shape),
        texts=[
            text if isinstance(text, str) else policy.decode(row)
            for text, row in zip(texts, rows, strict=True)
        ],
    ).to(policy.device)


def concatenate(batches: Iterable[Responses]) -> Responses:
    """The rows of several batches, one after the other, padded to the longest of them."""
    batches = list(batches)
    if not batches:
        raise ValueError("there is nothing to concatenate: no batches were given")
    P = max(batch.prompt_ids.shape[1] for batch in batches)
    T = max(batch.response_ids.shape[1] for batch in batches)

    def join(name: str) -> Tensor:
        parts = [getattr(batch, name) for batch in batches]
        if name == "truncated":
            return torch.cat(parts)
        left = name.startswith("prompt")
        width = P if left else T
        missing = [width - x.shape[1] for x in parts]
        pads = [(n, 0) if left else (0, n) for n in missing]
        return torch.cat(
            [torch.nn.functional.pad(x, pad) for x, pad in zip(parts, pads, strict=True)]
        )

    names = [f.name for f in fields(Responses) if f.name != "texts"]
    texts = [text for batch in batches for text in batch.texts]
    return Responses(texts=texts, **{name: join(name) for name in names})


def micro_batches(
    responses: Responses, *, max_rows: int | None = None, max_tokens: int | None = None
) -> Iterator[Int[Tensor, " rows"]]:
    """Cut a batch into pieces that fit in memory: row numbers for ``select``, every row once.

    Rows are sorted by length, the longest first, so that little padding is left in a piece, and
    a piece that is too large fails at once. Losses are ``aggregate``d with the denominator of the
    whole batch, so the pieces' gradients add up to that of the batch.

    Args:
        max_rows: most rows in a piece.
        max_tokens: most cells in a piece, padding included; a single row may have more.

    Book: 18_grpo.
    """
    for name, limit in (("max_rows", max_rows), ("max_tokens", max_tokens)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name}={limit} must be at least 1")
    P, T = responses.prompt_lengths.tolist(), responses.lengths.tolist()
    order = sorted(range(len(responses)), key=lambda i: -P[i] - T[i])
    piece: list[int] = []
    for i in order:
        grown = [*piece, i]
        cells = len(grown) * (max(P[j] for j in grown) + max(T[j] for j in grown))
        over = max_tokens is not None and cells > max_tokens
        if piece and (over or len(piece) == max_rows):
            yield torch.tensor(piece, device=responses.device)
            grown = [i]
        piece = grown
    yield torch.tensor(piece, device=responses.device)


def _response_ids(policy: Policy, text: str | Sequence[int], end: bool) -> list[int]:
    if not isinstance(text, str):
        ids = [int(token) for token in text]
    elif policy.tokenizer is None:
        ids = [int(word) for word in text.split()]
    else:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, policy.eos_id] if end and ids[-1:] != [policy.eos_id] else ids


def _check_shapes(responses: Responses) -> None:
    prompt, response = responses.prompt_ids.shape, responses.response_ids.shape
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "sampler_logprobs"):
        x, shape = getattr(responses, name), prompt if name.startswith("prompt") else response
        if x.ndim != 2 or x.shape != shape or not x.numel() or len(x) != len(responses.texts):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, with prompt_ids {tuple(prompt)}, response_ids "
                f"{tuple(response)} and {len(responses.texts)} texts: [B, P] and [B, T] are needed"
            )
        if name.endswith("mask") and x.dtype != torch.bool:
            raise ValueError(f"{name} holds {x.dtype}, but must hold bools: use {name}.bool()")
        if name.endswith("ids") and (x.is_floating_point() or x.dtype == torch.bool):
            raise ValueError(f"{name} holds {x.dtype}, but must hold token ids: use {name}.long()")
    if responses.truncated.shape != response[:1]:
        raise ValueError(
            f"truncated has shape {tuple(responses.truncated.shape)} for {response[0]} responses"
        )


def _check_prefix(
    mask: Bool[Tensor, "B L"], name: str, where: str, *, may_be_empty: bool = False
) -> None:
    """Every row must be True up to some column and False from there on."""
    wrong = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if not may_be_empty:
        wrong |= ~mask[:, 0]
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"{name}: row {row} is not one run of True with its padding {where}")
