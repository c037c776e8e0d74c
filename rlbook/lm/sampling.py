"""Sampling from a language model: many responses at once, each token computed once.

Which token comes next is decided here; rlbook/lm/decoding.py runs the model, with a cache.
A token is chosen by inverting the cumulative distribution at one uniform number. These numbers
are drawn before anything else, one per row and step, so the text of a row depends neither on the
other rows nor on when they end.

Letters: N prompts, K samples of each, B = N·K rows, P prompt tokens, T response tokens, V.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.batch import Responses, pad_left
from rlbook.lm.decoding import decode, read_within
from rlbook.lm.policy import Policy


def sample_responses(
    policy: Policy,
    prompts: Sequence[str | Sequence[int] | Tensor],
    *,
    samples_per_prompt: int = 1,
    max_new_tokens: int | Sequence[int],
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    generator: torch.Generator | None = None,
    stop: Sequence[int] | None = None,
) -> Responses:
    """Draw K responses to each prompt, token by token, until EOS or the limit.

        a_t ~ softmax( z_t / τ ),    z_t: the model's logits after the prompt and a_<t

    Args:
        prompts: N strings or lists of token ids, of any lengths.
        samples_per_prompt: K. Row n·K + k of the result is sample k of prompt n.
        max_new_tokens: T at most, one number or one per prompt; a response that reaches it without
            an end is ``truncated`` (but where no token ends a response, T tokens are a whole one).
        temperature: τ. 0 is greedy: the likeliest token each time.
        top_k: choose among the k likeliest only (and those as likely as the k-th).
        top_p: choose among the fewest tokens that together have at least this probability.
        generator: draws the tokens; needed unless greedy. The same one with the same seed gives
            the same text. It may live on another device than the model.
        stop: token ids that end a response as EOS does (a chat model may have several).

    Returns:
        Responses with gradient nowhere. Their ``sampler_logprobs`` are those of the temperature τ
        *before* top-k and top-p, as ``response_logprobs(..., temperature=τ)`` gives them; of
        greedy responses, those of temperature 1.

    Raises:
        ValueError: no prompts, or an empty one; a prompt that does not fit the model's context
            together with max_new_tokens (which); an argument outside its range; sampling without
            a generator; logits that are not numbers.

    Book: 11_generation. Source of top-p: Holtzman et al. (2020), section 3.1.
    """
    rows = policy.encode(prompts)
    limits = _limits(max_new_tokens, rows)
    T = max(limits, default=1)
    _check_arguments(
        samples_per_prompt, min(limits, default=1), temperature, top_k, top_p, generator
    )
    _check_prompts(policy, rows, limits)
    B = len(rows) * samples_per_prompt
    uniforms = _uniforms(T, B, generator, policy.device) if temperature else None
    choose = _Choice(temperature, top_k, top_p, uniforms)
    ends = [token for token in (policy.eos_id, *(stop or ())) if token is not None]
    if not all(0 <= token < policy.vocab_size for token in ends):
        wrong = next(token for token in ends if not 0 <= token < policy.vocab_size)
        raise ValueError(
            f"stop holds the token id {wrong}, but the model has ids 0 to {policy.vocab_size - 1}"
        )
    ends = torch.tensor(ends, dtype=torch.long, device=policy.device)
    prompt_ids, prompt_mask = (x.to(policy.device) for x in pad_left(rows, policy.pad_id))
    within = read_within(policy.model, rows)
    texts = {n: i for i, n in enumerate(sorted(set(within)))}  # those that are read, numbered
    nested = any(len(rows[n]) > len(row) for n, row in zip(within, rows, strict=True))
    text_of_row, row_limits, lengths = (
        torch.tensor(numbers, device=policy.device).repeat_interleave(samples_per_prompt)
        for numbers in ([texts[n] for n in within], limits, [len(row) for row in rows])
    )
    ids, logprobs = decode(
        policy.model,
        prompt_ids[list(texts)],
        prompt_mask[list(texts)],
        text_of_row,
        choose,
        limits=row_limits,
        ends=ends,
        lengths=lengths if nested else None,
    )
    prompt_ids, prompt_mask = (
        x.repeat_interleave(samples_per_prompt, dim=0) for x in (prompt_ids, prompt_mask)
    )
    return _as_responses(policy, prompt_ids, prompt_mask, ids, logprobs, ends, row_limits)


def restrict(
    logits: Float[Tensor, "*B V"], *, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "*B V"]:
    """Rule out unlikely tokens: their logits become -inf. First top-k, then top-p.

        top-k: keep the k largest logits
        top-p: keep token v if the tokens likelier than v have less than p together

    Both keep the likeliest token. Tokens as likely as the k-th stay.

    Book: 11_generation. Source: Fan et al. (2018) for top-k; Holtzman et al. (2020) for top-p.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None and top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        likelier = p.cumsum(dim=-1) - p
        out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, likelier >= top_p)
        logits = logits.masked_fill(out, float("-inf"))
    return logits


def draw(logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """One token per row from softmax(logits), by inverting the cumulative distribution.

        a = the first token with  Σ_{v ≤ a} π(v) > u

    Args:
        uniforms: u in [0, 1), one per row; with u uniform, token a has probability π(a).

    Book: 11_generation.
    """
    sums = logits.softmax(dim=-1).cumsum(dim=-1, dtype=uniforms.dtype)
    reached = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)[:, 0]
    return reached.clamp(max=logits.shape[-1] - 1)  # beyond the last: only where sums are NaN


# --- in and out ---


def _uniforms(T: int, B: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """One number in [0, 1) per step and row. The first steps are the same whatever T is."""
    u = torch.rand(T, B, generator=generator, device=generator.device, dtype=torch.float64)
    precise = torch.float32 if device.type == "mps" else torch.float64
    # Below 1 also after rounding: u = 1 would lie beyond the last token.
    return u.clamp_(max=1 - 2**-24).to(device, precise)


@dataclass(frozen=True)
class _Choice:
    """Picks a token per row; also its log-probability before top-k and top-p."""

    temperature: float | int
    top_k: int | None
    top_p: float | int | None
    uniforms: Float[Tensor, "T B"] | None

    def __call__(
        self, logits: Float[Tensor, "b V"], t: int, rows: Int[Tensor, " b"] | None
    ) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.uniforms is None:
            tokens = logits.argmax(dim=-1)
        else:
            logits = logits / self.temperature
            allowed = restrict(logits, top_k=self.top_k, top_p=self.top_p)
            tokens = draw(allowed, self.uniforms[t] if rows is None else self.uniforms[t, rows])
        return tokens, logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]


def _as_responses(
    policy: Policy,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    ids: Int[Tensor, "B T"],
    logprobs: Float[Tensor, "B T"],
    ends: Int[Tensor, " E"],
    limits: Int[Tensor, " B"],
) -> Responses:
    """Cut each row after its first end or at its limit, and all of them after the longest."""
    within = torch.arange(ids.shape[1], device=ids.device) < limits[:, None]
    is_end = torch.isin(ids, ends) & within
    mask = (is_end.cumsum(dim=1) - is_end.long() == 0) & within
    wrong = (mask & logprobs.isnan()).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"the model's logits for response {int(wrong.nonzero()[0])} are not numbers: its "
            "weights have diverged"
        )
    T = int(mask.sum(dim=1).max())
    ids, mask, logprobs = ids[:, :T], mask[:, :T], logprobs[:, :T]
    ids = ids.masked_fill(~mask, policy.pad_id)
    lengths = mask.sum(dim=1).tolist()
    texts = [policy.decode(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
    return Responses(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=ids.contiguous(),
        response_mask=mask.contiguous(),
        sampler_logprobs=logprobs.contiguous(),
        texts=texts,
        # Without any token that ends a response, T tokens are what a response is.
        truncated=~is_end.any(dim=1) & (len(ends) > 0),
    )


def _check_arguments(
    samples_per_prompt: int,
    max_new_tokens: int,
    temperature: float | int,
    top_k: int | None,
    top_p: float | int | None,
    generator: torch.Generator | None,
) -> None:
    for name, count in (
        ("samples_per_prompt", samples_per_prompt),
        ("max_new_tokens", max_new_tokens),
        ("top_k", 1 if top_k is None else top_k),
    ):
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
    if temperature > 0 and generator is None:
        raise ValueError(
            "sampling needs generator=torch.Generator().manual_seed(...); temperature=0 is greedy"
        )


def _limits(max_new_tokens: int | Sequence[int], rows: list[list[int]]) -> list[int]:
    """The length limit of each prompt's responses."""
    if isinstance(max_new_tokens, int):
        return [max_new_tokens] * len(rows)
    if len(max_new_tokens) != len(rows):
        raise ValueError(
            f"max_new_tokens has {len(max_new_tokens)} limits for {len(rows)} prompts: give one "
            "number, or one per prompt"
        )
    return [int(limit) for limit in max_new_tokens]


def _check_prompts(policy: Policy, rows: list[list[int]], limits: list[int]) -> None:
    if not rows:
        raise ValueError("there are no prompts: give at least one")
    for i, (row, limit) in enumerate(zip(rows, limits, strict=True)):
        if not row:
            raise ValueError(
                f"prompt {i} is empty: the first token is predicted from a last prompt token; "
                "give at least one, such as the EOS"
            )
        if len(row) + limit > policy.context:
            raise ValueError(
                f"prompt {i} has {len(row)} tokens, and max_new_tokens={limit} more do "
                f"not fit the model's context of {policy.context}: shorten one of them"
            )
