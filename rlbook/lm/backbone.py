"""The two halves of a causal language model: a body that reads, a head that scores the next token.

    ids [B, L]  ── body ──▶  hidden states [B, L, d]  ── head ──▶  logits [B, L, V]

The body is cheap to keep at every position, the logits are not (V is 50 257 for GPT-2). Whoever
needs few of them, or something else than logits, starts from the hidden states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlbook.lm import gpt2

# The logits of these are head(hidden states) and nothing else; others scale them or cap them.
PLAIN_HEADS = {"gpt2", "llama", "mistral", "qwen2", "qwen3"}


def hidden_states(
    model: nn.Module,
    ids: Int[Tensor, "B L"],
    mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"],
    positions: Int[Tensor, "B L"],
) -> Float[Tensor, "B L d"]:
    """What a causal language model's head reads: its last layer's states, normalised.

    GPT-2 runs through the book's own forward (``gpt2.hidden_states``), others through theirs.

    Args:
        model: a causal language model of transformers, or one that PEFT has wrapped.
        ids: tokens, each row's padding on its left and right.
        mask: True for tokens [B, L]; or True where row i may look at column j [B, 1, L, L]
            (``gpt2.document_mask(...)[:, None]``). The states of padding mean nothing.
        positions: the place of each token in its own text (``batch.position_ids``).

    Raises ValueError for a model without hidden states, such as a table.

    Book: 13_sft.
    """
    inner = unwrapped(model)
    if gpt2.is_plain_gpt2(inner):
        seen = mask[:, 0] if mask.ndim == 4 else mask
        if mask.ndim == 2 and mask[:, 0].all():
            seen = None  # no padding on the left, and what stands right of a text is out of sight
        return gpt2.hidden_states(inner, ids, position_ids=positions, attention_mask=seen)
    body = getattr(inner, "base_model", inner)
    if body is inner:
        raise ValueError(
            f"{type(inner).__name__} has no hidden states: use a transformer of transformers"
        )
    seen = body_mask(mask, next(inner.parameters()).dtype)
    output = body(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=False)
    return output.last_hidden_state


def body_mask(
    mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"], dtype: torch.dtype
) -> Bool[Tensor, "B L"] | Float[Tensor, "B 1 L L"]:
    """A mask as the models of transformers want it: [B, L], or numbers to add [B, 1, L, L]."""
    if mask.ndim == 2:
        return mask
    seen = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return seen.masked_fill(~mask, torch.finfo(dtype).min)


def output_head(model: nn.Module) -> nn.Module | None:
    """The map from hidden states to logits, or None where logits are not just that."""
    inner = unwrapped(model)
    plain = getattr(inner.config, "model_type", None) in PLAIN_HEADS
    return inner.get_output_embeddings() if plain else None


def unwrapped(model: Any) -> Any:
    """The model of transformers inside a PEFT wrapper, its adapters in place.

    Raises ValueError for adapters that put virtual tokens before the prompt: they shift positions.
    """
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"{type(model.active_peft_config).__name__} puts virtual tokens before the prompt, "
            "which left padding cannot do: use an adapter of weights, such as LoRA"
        )
    return model.get_base_model()


@contextmanager
def recomputed_blocks(*models: nn.Module, on: bool = True) -> Iterator[None]:
    """Within it, a forward pass keeps only what enters each block, for models of transformers.

    The backward pass runs each block's forward again: a third more time for a fraction of the
    memory (gradient checkpointing). The numbers do not change. Only for scoring: to sample with a
    cache, leave it first.

    Raises ValueError for a model that has no blocks to recompute.

    Book: 17_ppo_gpt2. Source: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".
    """
    inner = [unwrapped(model) for model in models] if on else []
    for model in inner:
        if not hasattr(model, "gradient_checkpointing_enable"):
            raise ValueError(
                f"{type(model).__name__} has no blocks to recompute: leave recompute=False"
            )
    was_training = [model.training for model in inner]
    try:
        for model in inner:
            # Renamed within transformers 5; and it recomputes in training mode alone. A policy
            # has no dropout, so this mode changes nothing else.
            name = "activation_checkpointing_enable"
            enable = getattr(model, name, model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
            model.train()
        yield
    finally:
        for model, training in zip(inner, was_training, strict=True):
            name = "activation_checkpointing_disable"
            getattr(model, name, model.gradient_checkpointing_disable)()
            model.train(training)
