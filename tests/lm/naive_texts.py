"""TabularLMs to test with, and what is true of them, by plain loops over prefixes and responses."""

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from rlbook.lm.tabular_lm import TabularLM

Text = tuple[int, ...]

TWO_PROMPTS = ((0,), (1, 2))
# prompts, vocab_size, max_new_tokens, eos_id
SPACES = {
    "fixed": (((0,),), 3, 3, None),
    "eos": (((0,),), 3, 3, 2),
    "fixed-two-prompts": (TWO_PROMPTS, 3, 2, None),
    "eos-two-prompts": (((2, 2), (0,), (1, 0, 1)), 3, 3, 2),
    "eos-first": (TWO_PROMPTS, 3, 3, 0),
    "eos-in-the-middle": (((0, 1, 0), (3,)), 4, 2, 1),
    "one-letter": (((0,),), 2, 4, 1),  # A = 1: how long to go on is all there is to choose
    "one-token": (TWO_PROMPTS, 3, 1, None),
}


def build(name: str, seed: int = 0, **options) -> TabularLM:
    """The model of SPACES[name] with random logits, the same for the same seed."""
    prompts, V, T, eos = SPACES[name]
    g = torch.Generator().manual_seed(seed)
    return TabularLM(prompts, vocab_size=V, max_new_tokens=T, eos_id=eos, generator=g, **options)


def random_rewards(model: TabularLM, seed: int = 7) -> Tensor:
    """One number in N(0, 1) per response."""
    g = torch.Generator().manual_seed(seed)
    B = len(model.space.prompts) * len(list(naive_responses(model)))
    return torch.randn(B, generator=g, dtype=torch.float64)


def naive_rows(model: TabularLM) -> dict[tuple[Text, Text], int]:
    """(prompt, prefix) -> row of the table: by prompt, then by length, then in dictionary order."""
    eos, V = model.config.eos_token_id, model.config.vocab_size
    rows: dict[tuple[Text, Text], int] = {}
    for prompt in model.space.prompts:
        for t in range(model.space.max_new_tokens):
            for prefix in product(range(V), repeat=t):
                if eos not in prefix:
                    rows[prompt, prefix] = len(rows)
    return rows


def naive_responses(model: TabularLM, begin: Text = ()) -> Iterator[Text]:
    """Every response that begins with ``begin``, depth first, tokens in order."""
    over = begin and begin[-1] == model.config.eos_token_id
    if over or len(begin) == model.space.max_new_tokens:
        yield begin
        return
    for token in range(model.config.vocab_size):
        yield from naive_responses(model, (*begin, token))


def all_texts(model: TabularLM) -> list[tuple[Text, Text]]:
    """(prompt, response) in the order of ``enumerate_responses``."""
    return [(prompt, y) for prompt in model.space.prompts for y in naive_responses(model)]


def token_probability(model: TabularLM, prompt: Text, prefix: Text, token: int) -> float:
    """π(token | prompt, prefix) from one row of the table, with math.exp."""
    logits = model.table[naive_rows(model)[prompt, prefix]].tolist()
    return math.exp(logits[token]) / sum(map(math.exp, logits))


def probability(model: TabularLM, prompt: Text, response: Text, given: int = 0) -> float:
    """π(response | prompt), or of what follows its first ``given`` tokens."""
    total = 1.0
    for t in range(given, len(response)):
        total *= token_probability(model, prompt, response[:t], response[t])
    return total
