"""Four prompts and four answers of different lengths, padded as much as a test likes."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import torch
from small_models import EOS

from rlbook.lm.batch import Responses, pad_left, pad_right

EXACT = {"rtol": 1e-9, "atol": 1e-9}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15]]
ANSWERS = [[20, EOS], [21, 22, 23, EOS], [EOS], [24, 25, 26]]  # the last is cut before its end


def batch(prompts=PROMPTS, answers=ANSWERS, *, pad=EOS, extra=(0, 0)):
    """Responses, with ``extra`` columns of padding on the left and on the right; pad = EOS."""
    left, right = extra
    widest = max(map(len, prompts)), max(map(len, answers))
    prompt_ids, prompt_mask = pad_left([*prompts, [pad] * (widest[0] + left)], pad)
    response_ids, response_mask = pad_right([*answers, [pad] * (widest[1] + right)], pad)
    return Responses(
        prompt_ids[:-1], prompt_mask[:-1], response_ids[:-1], response_mask[:-1],
        torch.zeros(response_ids[:-1].shape), [""] * len(prompts),
    )  # fmt: skip


@contextmanager
def as_a_user() -> Iterator[None]:
    """Annotations that nobody checks, so that a function's own words are heard."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
