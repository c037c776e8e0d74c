"""A train batch of responses of mixed length, for the tests of rlbook.posttrain."""

import torch

from rlbook.lm.batch import Responses, pad_left, pad_right
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.experience import Experience


def mixed_batch(policy, *, rewards=None, seed=0):
    """Four prompts with four random answers each, of 1 to 8 tokens; three are cut at the limit."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt for prompt in ("1+", "23=", "4", "5*6=") for _ in range(4)]
    lengths = [3, 1, 5, 2, 8, 8, 4, 6, 2, 7, 8, 1, 5, 8, 3, 2]
    cut = torch.tensor([i in (4, 10, 13) for i in range(16)])
    rows = [
        torch.randint(5, policy.vocab_size, (n - 1 + stopped,), generator=generator).tolist()
        + [policy.eos_id] * (1 - stopped)
        for n, stopped in zip(lengths, cut.int().tolist(), strict=True)
    ]
    prompt_ids, prompt_mask = pad_left(policy.encode(prompts), policy.pad_id)
    ids, mask = pad_right(rows, policy.pad_id)
    texts = [policy.decode(row) for row in rows]
    dtype = policy.model.dtype  # that of the log-probabilities computed later, too
    unknown = torch.zeros(ids.shape, dtype=dtype)
    responses = Responses(prompt_ids, prompt_mask, ids, mask, unknown, texts, cut)
    if rewards is None:
        rewards = torch.rand(16, generator=generator).where(~cut, 0.0)
    return Experience([Problem(prompt) for prompt in prompts], responses, rewards.to(dtype), 4)
