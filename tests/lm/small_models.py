"""Tiny random language models and a tokenizer of single characters, for all tests of lm."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

PAD, EOS = 0, 1
CHARACTERS = "0123456789+-*=;., abcdefghij\n"
VOCAB = 2 + len(CHARACTERS)  # 31: ids 0 and 1 are <pad> and <eos>
# Weights this wide make a random model's choices far from uniform.
SPREAD = 0.3

IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
# GPT-2's arguments are named differently from everyone else's.
ROTARY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": SPREAD, "tie_word_embeddings": True,
}  # fmt: skip


def char_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character of CHARACTERS; <pad> is 0, <eos> is 1."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {c: 2 + i for i, c in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>"
    )


def tiny_gpt2(*, seed: int = 0, vocab: int = VOCAB, context: int = 64, **config) -> GPT2LMHeadModel:
    """2 layers, 32 wide, 4 heads. Dropout stands at its default of 0.1; the model is in eval()."""
    settings = IDS | {"n_layer": 2, "n_embd": 32, "n_head": 4, "initializer_range": SPREAD}
    return _random(
        GPT2LMHeadModel,
        GPT2Config(**(settings | {"vocab_size": vocab, "n_positions": context} | config)),
        seed,
    )


def tiny_qwen2(*, seed: int = 0, vocab: int = VOCAB, context: int = 64) -> Qwen2ForCausalLM:
    """2 layers, 32 wide, 4 heads over 2 key-value heads."""
    settings = IDS | ROTARY | {"vocab_size": vocab, "max_position_embeddings": context}
    return _random(Qwen2ForCausalLM, Qwen2Config(**settings), seed)


def tiny_qwen3(*, seed: int = 0, vocab: int = VOCAB, context: int = 64) -> Qwen3ForCausalLM:
    """As tiny_qwen2, with head_dim 8."""
    settings = IDS | ROTARY | {"vocab_size": vocab, "max_position_embeddings": context}
    return _random(Qwen3ForCausalLM, Qwen3Config(**settings, head_dim=8), seed)


def tiny_llama(*, seed: int = 0, vocab: int = VOCAB, context: int = 64) -> LlamaForCausalLM:
    """As tiny_qwen2, with dropout in its attention when training."""
    settings = IDS | ROTARY | {"vocab_size": vocab, "max_position_embeddings": context}
    return _random(LlamaForCausalLM, LlamaConfig(**settings, attention_dropout=0.1), seed)


ARCHITECTURES = {
    "gpt2": tiny_gpt2, "qwen2": tiny_qwen2, "qwen3": tiny_qwen3, "llama": tiny_llama,
}  # fmt: skip


def _random(cls: type, config: object, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config).eval()
