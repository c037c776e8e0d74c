"""Will it fit? What training a GPT-2 keeps in memory, estimated part by part.

Whatever the batch, a trained weight takes sixteen bytes (itself, its gradient, Adam's two means,
float32 each), a frozen one four. What depends on the batch comes and goes, and training and
sampling take turns:

    peak = trained + frozen + max( training, sampling )

Training keeps, per token of a micro-batch and per block, what the backward pass needs:

    float32    64 d        the block's input, two normalised copies (4 d each), queries, keys and
                           values (12 d), what attention collected (4 d), the stream between
                           attention and MLP (4 d), the MLP before and after its gelu (16 d each)
    bfloat16   36 d        the stream stays in float32 (twice 4 d), the rest halves

and 4 to 8 numbers per token besides (LayerNorm, attention's normaliser). ``bf16`` also keeps a
copy of the weights in 16 bits. ``recompute`` keeps a block's input alone, and the inside of one
block at a time. Attention is made in pieces, so its weights, a square of the text's length, are not
kept; nor are there logits of all tokens, which are made in pieces too (``rlbook.lm.logprobs``).

What it leaves out: what the CUDA context (about half a gigabyte) and fragmentation take; where 16
bits meet padding on the left, its mask, 2 bytes per token, block and token of the text's length;
gradients of the embedding that are on their way, some 8 bytes for each of its numbers. tests/
posttrain/test_memory.py compares the estimate with what autograd and the sampler really take.

Source: Korthikanti et al. (2022), section 4.1, does this count for another implementation.
"""

import itertools
from dataclasses import dataclass

from rlbook.lm.gpt2 import Size
from rlbook.lm.logprobs import PIECE

# Models that learn, and frozen ones: a value network learns; the reference does not.
MODELS = {"PPO": (2, 1), "GRPO": (1, 1), "DPO": (1, 1), "VinePPO": (1, 1)}
RESERVE = 1.0  # gigabytes of a card for the context and for fragmentation
MICRO_TOKENS = (16_384, 8_192, 4_096, 2_048, 1_024)  # what a plan may choose
FEWEST_ROWS = 16


@dataclass(frozen=True)
class Memory:
    """An estimate in gigabytes, 10⁹ bytes.

    Attributes:
        trained: models that learn, with gradients and Adam's means. frozen: models that do not.
        training: a micro-batch on its way forward and back. sampling: keys, values and logits.
    """

    trained: float
    frozen: float
    training: float
    sampling: float

    @property
    def peak(self) -> float:
        """The most at one time."""
        return self.trained + self.frozen + max(self.training, self.sampling)


@dataclass(frozen=True)
class Plan:
    """Settings with which a method fits a card, and its memory then."""

    micro_tokens: int
    recompute: bool
    rows: int
    memory: Memory


def memory_of(
    size: Size,
    *,
    trained: int,
    frozen: int,
    micro_tokens: int,
    rows: int = 0,
    length: int = 256,
    bf16: bool = True,
    recompute: bool = False,
    vocab_size: int = 50_257,
) -> Memory:
    """Estimate the memory of a training run.

    Args:
        size: of each model (``rlbook.lm.gpt2.SIZES``).
        trained, frozen: how many models learn, and how many do not (``MODELS``).
        micro_tokens: tokens of a micro-batch, padding included.
        rows, length: texts that are sampled at once, and the tokens of each; 0: none.
        bf16, recompute: as in ``PPOConfig``.

    Book: 17_ppo_gpt2.
    """
    n, d, heads = size.parameters(vocab_size), size.d, size.n_head
    wide = 2 if bf16 else 4  # bytes of a number that a matrix product makes
    block = micro_tokens * (8 * d + 14 * d * wide + 4 * heads + 16)
    inputs = micro_tokens * size.n_layer * 4 * d
    kept = inputs + block if recompute else size.n_layer * block
    copies = 2 * n if bf16 else 0
    logits = min(PIECE, micro_tokens * vocab_size) * (2 * wide + 3 * 4)
    cache = rows * length * size.n_layer * 2 * d * wide
    # Logits, in float32, their softmax; its sums in float64, which torch makes from a copy.
    choice = rows * vocab_size * (wide + 2 * 4 + 2 * 8)
    return Memory(
        trained=16 * n * trained / 1e9,
        frozen=4 * n * frozen / 1e9,
        training=(trained * (kept + copies) + logits) / 1e9,
        sampling=(cache + choice + (copies if rows else 0)) / 1e9,
    )


def plan(
    method: str, size: Size, gigabytes: float | int, *, rows: int = 256, length: int = 256
) -> Plan:
    """The first settings with which a method fits a card, from fast to frugal.

    Turned down first is ``micro_tokens``: the gradient stays the same, and the time nearly so.
    Then ``recompute``, for a third more time. Last the rows that are sampled at once: in VinePPO's
    rollouts that is memory alone (``rollout_rows``), elsewhere fewer responses per update.

    Args:
        method: one of ``MODELS``. gigabytes: of the card, of which RESERVE stays free.
        rows, length: as for ``memory_of``; DPO on given pairs samples nothing.

    Raises:
        ValueError: an unknown method, or nothing fits (what is left to try).

    Book: 17_ppo_gpt2.
    """
    if method not in MODELS:
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, MODELS))}")
    trained, frozen = MODELS[method]
    rows = 0 if method == "DPO" else rows
    while True:
        for recompute, micro_tokens in itertools.product((False, True), MICRO_TOKENS):
            memory = memory_of(
                size, trained=trained, frozen=frozen, micro_tokens=micro_tokens, rows=rows,
                length=length, recompute=recompute,
            )  # fmt: skip
            if memory.peak + RESERVE <= gigabytes:
                return Plan(micro_tokens, recompute, rows, memory)
        if rows // 2 < FEWEST_ROWS:
            break
        rows //= 2
    raise ValueError(
        f"{method} of this size needs {memory.peak + RESERVE:.1f} GB at least, the card has "
        f"{gigabytes:g}: share one body between policy and value network, or train an adapter "
        "(PEFT) instead of all weights"
    )
