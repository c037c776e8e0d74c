"""Small random policies for the tests of rlbook.posttrain: characters in, characters out."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlbook.lm.policy import Policy
from rlbook.lm.tokenizers import character_tokenizer

CHARACTERS = "0123456789+-*=;."
SPREAD = 0.3  # of the weights: wide enough that a random model's choices are far from uniform
ROTARY = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": SPREAD,
}  # fmt: skip
ARCHITECTURES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_layer": 2, "n_embd": 16, "n_head": 2}),
    "llama": (LlamaForCausalLM, LlamaConfig, ROTARY),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, ROTARY),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, ROTARY | {"head_dim": 8}),
}


def small_policy(
    architecture: str = "gpt2",
    *,
    seed: int = 0,
    context: int = 64,
    dtype: torch.dtype | None = None,
) -> Policy:
    """2 layers, 16 wide, 2 heads, over digits and a few signs; float32 unless told otherwise."""
    tokenizer = character_tokenizer(CHARACTERS, context=context)
    cls, config, size = ARCHITECTURES[architecture]
    places = {"n_positions": context, "initializer_range": SPREAD}
    if architecture != "gpt2":
        places = {"max_position_embeddings": context}
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config(vocab_size=len(tokenizer), **size, **places, **ids))
    return Policy(model.to(dtype or torch.float32), tokenizer)
