"""GPT-2 from the inside: the forward pass of chapter 10, over the parameters of transformers.

    x = W_te[token] + W_pe[position]             token and position embeddings: the residual stream
    x = x + Attention(LayerNorm(x))              each of n_layer blocks reads the stream and adds
    x = x + MLP(LayerNorm(x))                    to it, twice
    logits = LayerNorm(x) W_teᵀ                  the embedding again, as the head ("tied")

Nothing is copied: the functions below take a ``GPT2LMHeadModel`` and use its tensors where they
are, so gradients, optimisers, saving and loading are those of the model itself. What is added to
transformers' own forward: a cache that is allocated once, logits only where they are wanted, and
masks for packed texts.

Letters: B sequences, L tokens read now, S tokens attended to (L, and the cache before them),
V vocabulary, d width, n_head heads of width d / n_head.

Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners"; the block
with its LayerNorm first: section 2.3 there; attention: Vaswani et al. (2017), section 3.2.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Size:
    """One size of GPT-2: blocks, heads, width of the residual stream."""

    n_layer: int
    n_head: int
    d: int

    def parameters(self, vocab_size: int = 50_257, context: int = 1_024) -> int:
        """How many numbers the model learns: about 12 n_layer d² + vocab_size d.

        Per block d (3d) + d² of attention, 2 · d (4d) of the MLP, and 13 d of biases and
        LayerNorms; the two embeddings and the last LayerNorm.
        """
        block = 12 * self.d**2 + 13 * self.d
        return self.n_layer * block + (vocab_size + context) * self.d + 2 * self.d


# Radford et al. (2019), table 2. The paper's own counts are too low; these names are the usual.
SIZES = {
    "124M": Size(n_layer=12, n_head=12, d=768),
    "355M": Size(n_layer=24, n_head=16, d=1_024),
    "774M": Size(n_layer=36, n_head=20, d=1_280),
    "1.5B": Size(n_layer=48, n_head=25, d=1_600),
}


# Below this many multiplications, torch's product of small matrices is a plain loop.
FEW = 400


class Cache:
    """Keys and values of the tokens read so far, in memory that is allocated once.

    Attributes:
        keys, values: one tensor [B, n_head, slots, d / n_head] per block.
        length: how many slots are filled; they are the same for all rows.
    """

    def __init__(self, model: GPT2LMHeadModel, B: int, slots: int) -> None:
        config, weight = model.config, model.transformer.wte.weight
        shape = (B, config.n_head, slots, config.n_embd // config.n_head)
        kind = weight.device.type  # under autocast keys and values come in 16 bits
        reduced = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if reduced else weight.dtype
        make = {"dtype": dtype, "device": weight.device}
        self.keys = [torch.empty(shape, **make) for _ in range(config.n_layer)]
        self.values = [torch.empty(shape, **make) for _ in range(config.n_layer)]
        self.length = 0

    def add(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the next slots of one block; return its filled part [B, n_head, S, d / n_head]."""
        first, end = self.length, self.length + key.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, first:end] = key
        values[:, :, first:end] = value
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows: to drop finished ones, or, repeating one, for several samples of it."""
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = old.new_empty(len(rows), *old.shape[1:])
                filled = slice(None), slice(None), slice(0, self.length)
                new[filled] = old[filled].index_select(0, rows)
                tensors[layer] = new


def forward(
    model: GPT2LMHeadModel,
    input_ids: Int[Tensor, "B L"],
    *,
    position_ids: Int[Tensor, "B L"] | None = None,
    attention_mask: Bool[Tensor, "B *L S"] | None = None,
    cache: Cache | None = None,
    keep: slice | Tensor | None = None,
) -> Float[Tensor, "... V"]:
    """Logits of the next token at each position.

        logits = h W_teᵀ,    h the last hidden states

    Args:
        position_ids: the place of each token in its text. Default: 0, 1, 2, ... in every row,
            going on from the cache. With left padding: ``batch.position_ids(mask)``.
        attention_mask: [B, S] True for tokens and False for padding; the causal mask is added.
            Or [B, L, S]: what each position may look at, causal or not (``document_mask``);
            transformers' way to write the same, [B, 1, L, S], is understood too.
            Default: causal, no padding.
        cache: keys and values of the tokens before these; these are added to it.
        keep: positions whose logits are wanted: a slice or numbers, giving [B, kept, V], or bools
            [B, L], giving [kept, V]. Default: all, [B, L, V]. The head is the largest matrix of
            a small GPT-2, and most positions are often not needed.

    Book: 10_gpt2.
    """
    h = hidden_states(
        model, input_ids, position_ids=position_ids, attention_mask=attention_mask, cache=cache
    )
    if keep is not None:
        is_mask = isinstance(keep, Tensor) and keep.dtype == torch.bool
        h = h[keep] if is_mask else h[:, keep]
    return model.lm_head(h)


def hidden_states(
    model: GPT2LMHeadModel,
    input_ids: Int[Tensor, "B L"],
    *,
    position_ids: Int[Tensor, "B L"] | None = None,
    attention_mask: Bool[Tensor, "B *L S"] | None = None,
    cache: Cache | None = None,
) -> Float[Tensor, "B L d"]:
    """The residual stream after the last block and LayerNorm: what the head reads.

        x_0 = W_te[token] + W_pe[position],    h = LayerNorm(x_n),    x_i = block_i(x_{i-1})

    Arguments as for ``forward``. Book: 10_gpt2.
    """
    gpt2 = model.transformer
    past = 0 if cache is None else cache.length
    if position_ids is None:
        position_ids = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)
    mask = _who_sees_whom(input_ids.shape[1], past, attention_mask, gpt2.wte.weight)
    x = gpt2.wte(input_ids) + gpt2.wpe(position_ids)
    for layer, block in enumerate(gpt2.h):
        x = x + attention(block.attn, block.ln_1(x), mask, layer, cache)
        x = x + mlp(block.mlp, block.ln_2(x))
    if cache is not None:
        cache.length += input_ids.shape[1]
    return gpt2.ln_f(x)


def attention(
    weights: nn.Module,
    x: Float[Tensor, "B L d"],
    mask: Tensor | str | None,
    layer: int = 0,
    cache: Cache | None = None,
) -> Float[Tensor, "B L d"]:
    """Each position collects the values of earlier ones, weighted by query times key.

        Attention(Q, K, V) = softmax( Q Kᵀ / √(d / n_head) + mask ) V      in each head

    Q, K, V = x W_qkv + b are cut into n_head parts each; the heads' results stand side by side
    and go through one more matrix. ``mask`` is "causal", None for no mask, or numbers to add.

    Book: 10_gpt2.
    """
    B, L, d = x.shape
    head_width = weights.head_dim
    parts = linear(weights.c_attn, x).view(B, L, 3, d // head_width, head_width)
    query, key, value = parts.permute(2, 0, 3, 1, 4)  # [B, n_head, L, head_width] each
    if cache is not None:
        key, value = cache.add(layer, key, value)
    collected = _collect(query, key, value, mask)
    return linear(weights.c_proj, collected.transpose(1, 2).reshape(B, L, d))


def _collect(
    query: Float[Tensor, "B n_head L width"],
    key: Float[Tensor, "B n_head S width"],
    value: Float[Tensor, "B n_head S width"],
    mask: Tensor | str | None,
) -> Float[Tensor, "B n_head L width"]:
    """softmax( Q Kᵀ / √width + mask ) V in every head."""
    added = mask if isinstance(mask, Tensor) else None
    L, width = query.shape[2:]
    if L == 1 and query.device.type == "cpu" and key.shape[2] * width >= FEW:
        # Written out: torch's kernel is made for many queries, and this is 1.5 times as fast.
        scores = query @ key.transpose(2, 3) / math.sqrt(width)
        scores = scores if added is None else scores + added
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=added, is_causal=isinstance(mask, str)
    )


def mlp(weights: nn.Module, x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
    """Two layers at each position by itself, four times as wide in between.

        MLP(x) = gelu(x W_1 + b_1) W_2 + b_2
        gelu(z) = ½ z ( 1 + tanh( √(2/π) (z + 0.044715 z³) ) )

    Book: 10_gpt2. Source: Hendrycks and Gimpel (2016) for gelu and this approximation.
    """
    return linear(weights.c_proj, F.gelu(linear(weights.c_fc, x), approximate="tanh"))


def linear(weights: Conv1D, x: Float[Tensor, "*B d_in"]) -> Float[Tensor, "*B d_out"]:
    """x W + b. GPT-2 stores W as [d_in, d_out], the other way round from ``nn.Linear``."""
    flat = torch.addmm(weights.bias, x.reshape(-1, x.shape[-1]), weights.weight)
    return flat.view(*x.shape[:-1], -1)


def document_mask(documents: Int[Tensor, "B L"]) -> Bool[Tensor, "B L L"]:
    """Several texts packed into one row: each position sees earlier ones of its own text only.

        mask[b, i, j] = (j ≤ i) and documents[b, i] = documents[b, j]

    Args:
        documents: the number of the text that each token belongs to; padding has a number of its
            own. Positions start anew with each text, too: pass ``position_ids``.

    Book: 13_sft.
    """
    L = documents.shape[1]
    causal = torch.ones(L, L, dtype=torch.bool, device=documents.device).tril()
    return causal & (documents[:, :, None] == documents[:, None, :])


def is_plain_gpt2(model: nn.Module) -> bool:
    """Whether the functions above compute what ``model.forward`` would.

    True for a GPT2LMHeadModel as OpenAI built it. False for other architectures and for what
    changes GPT-2's forward: adapters, quantised layers, hooks, another activation, checkpointing.
    """
    if type(model) is not GPT2LMHeadModel:
        return False
    config = model.config
    usual = (
        config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.reorder_and_upcast_attn
        and not config.add_cross_attention
    )
    layers = (Conv1D, nn.LayerNorm, nn.Embedding, nn.Dropout)
    inner = [m for m in model.transformer.modules() if next(m.children(), None) is None]
    plain = type(model.lm_head) is nn.Linear and all(
        type(m) in layers or type(m).__name__ in ACTIVATIONS for m in inner
    )
    changed = any(
        m._forward_hooks or m._forward_pre_hooks or getattr(m, "gradient_checkpointing", False)
        for m in model.modules()
    )
    still = not any(m.training and m.p > 0 for m in inner if isinstance(m, nn.Dropout))
    return usual and plain and still and not changed


ACTIVATIONS = ("NewGELUActivation", "PytorchGELUTanh", "GELUTanh")


def _who_sees_whom(
    L: int, past: int, attention_mask: Tensor | None, like: Tensor
) -> Tensor | str | None:
    """The mask of all blocks: "causal", None, or 0 where position i may look and -inf where not.

    Every position may look at itself, padding too: a row of nothing but -inf would be NaN, and
    would spread through the gradient, although nobody asks for its result.
    """
    if attention_mask is None:
        if past == 0 or L == 1:
            return "causal" if past == 0 else None
        attention_mask = torch.ones(1, past + L, dtype=torch.bool, device=like.device)
    itself = torch.eye(L, dtype=torch.bool, device=like.device)
    itself = F.pad(itself, (past, 0))  # [L, S]
    if attention_mask.ndim == 4:
        attention_mask = attention_mask[:, 0]
    if attention_mask.ndim == 2:
        S = past + L
        earlier = torch.ones(L, S, dtype=torch.bool, device=like.device).tril(past)
        attention_mask = earlier & attention_mask[:, None, :]
    may_look = attention_mask | itself
    return torch.zeros(may_look.shape, dtype=like.dtype, device=like.device).masked_fill(
        ~may_look, float("-inf")
    )[:, None]
