"""What tells GRPO and its kin apart: the table of methods, and the settings of grpo.py.

    advantage     what a response is compared with          rlbook.functional.group_advantages
    ratio         of a token, or of the whole response      functional.policy_losses.sequence_level
    aggregation   what the loss is divided by               functional.masked.aggregate
    loss, clip    what bounds a step                        functional.policy_losses
    kl_in         where the price of KL is paid             functional.kl

Any combination is allowed; those with a name are in ``VARIANTS``.
"""

from dataclasses import dataclass
from typing import Any

from rlbook.lm.policy import Policy
from rlbook.posttrain.experience import check_same_vocabulary

# A method is a choice in each column, and its usual ε (CISPO's paper leaves it to be tuned; 4 is
# a bound of 5 on the ratio). Where its paper has no KL, kl_in is None.
VARIANTS: dict[str, dict[str, Any]] = {
    "GRPO": {
        "advantage": "grpo", "ratio": "token", "aggregation": "sequence-mean",
        "loss": "ppo", "clip": 0.2, "clip_high": 0.2, "kl_in": "loss",
    },
    "Dr. GRPO": {
        "advantage": "dr_grpo", "ratio": "token", "aggregation": "fixed-length",
        "loss": "ppo", "clip": 0.2, "clip_high": 0.2, "kl_in": None,
    },
    "DAPO": {
        "advantage": "grpo", "ratio": "token", "aggregation": "token-mean",
        "loss": "ppo", "clip": 0.2, "clip_high": 0.28, "kl_in": None,
        "informative_only": True, "overlong": "penalty",
    },
    "RLOO": {
        "advantage": "rloo", "ratio": "response", "aggregation": "sequence-mean",
        "loss": "ppo", "clip": 0.2, "clip_high": 0.2, "kl_in": "reward",
    },
    "GSPO": {
        "advantage": "grpo", "ratio": "geometric-mean", "aggregation": "sequence-mean",
        "loss": "ppo", "clip": 3e-4, "clip_high": 4e-4, "kl_in": "loss",
    },
    "CISPO": {
        "advantage": "grpo", "ratio": "token", "aggregation": "token-mean",
        "loss": "cispo", "clip": None, "clip_high": 4.0, "kl_in": None,
    },
}  # fmt: skip
CHOICES = {
    "advantage": ("grpo", "dr_grpo", "rloo", "global"),
    "ratio": ("token", "response", "geometric-mean"),
    "aggregation": ("sequence-mean", "token-mean", "fixed-length"),
    "loss": ("ppo", "cispo"),
    "kl_in": ("loss", "reward", None),
    "overlong": ("keep", "mask", "penalty"),
}


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of GRPO and its kin. The defaults are GRPO, one optimiser step per train batch.

    Attributes:
        updates: train batches in all.
        train_batch_size: N, prompts per update. rollouts_per_prompt: K, responses to each.
        mini_batch_size: prompts per optimiser step; K responses of each go with them.
        micro_tokens: most cells of one forward pass, padding included; None: a whole mini-batch.
            Memory alone depends on it.
        epochs: passes over each train batch.
        learning_rate: of AdamW, without weight decay. 3e-4 suits the book's small models, 1e-6
            large ones.
        advantage: "grpo", "dr_grpo", "rloo" or "global" (``rlbook.functional.group_advantages``).
        ratio: of each "token"; of the whole "response"; or the "geometric-mean" of its tokens'.
        loss: "ppo", a clipped objective; or "cispo", REINFORCE with a clipped weight.
        clip, clip_high: ε below and above (None: as below). clip=None, for "cispo" alone: only the
            upper side is clipped (one-sided).
        dual_clip: c > 1, for "ppo": bounds the loss where A < 0 too (two-sided clipping).
        aggregation: "sequence-mean", "token-mean" of the whole optimiser step, or "fixed-length".
        beta: β, price of a nat of KL to the reference, in units of reward. 0: none.
        kl_in: "loss" (k3 per token), "reward" (k1, summed over the response); None: no KL.
        informative_only: draw prompts until N groups have spread, and learn from these alone.
        max_draws: most train batches drawn for it in one update.
        overlong: what becomes of responses cut at the length limit: "keep"; "mask", out of the
            loss; or "penalty", and a price on the last fifth of the limit before.
        refresh_every: updates between two refreshes of the policy that samples. Above 1 it lags
            behind, and ratios are to *it*: they are not 1 at the first step any more.
        temperature: of the sampling, and so of all log-probabilities.
        max_grad_norm: longest gradient; None does not clip.
        bf16, recompute: as in ``PPOConfig``.
        seed: of problems, samples and mini-batches.
    """

    updates: int = 50
    train_batch_size: int = 32
    rollouts_per_prompt: int = 8
    mini_batch_size: int = 32
    micro_tokens: int | None = None
    epochs: int = 1
    learning_rate: float = 3e-4
    advantage: str = "grpo"
    ratio: str = "token"
    loss: str = "ppo"
    clip: float | None = 0.2
    clip_high: float | None = None
    dual_clip: float | None = None
    aggregation: str = "sequence-mean"
    beta: float = 0.0
    kl_in: str | None = "loss"
    informative_only: bool = False
    max_draws: int = 4
    overlong: str = "keep"
    refresh_every: int = 1
    temperature: float | int = 1.0
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    recompute: bool = False
    seed: int = 0


def check_settings(config: GRPOConfig, policy: Policy, ref: Policy | None) -> None:
    """ValueError for settings that mean nothing, alone or together.

    Book: 18_grpo.
    """
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            known = ", ".join(map(repr, allowed))
            raise ValueError(f"{name}={getattr(config, name)!r} is unknown: use one of {known}")
    for name in (
        "updates", "train_batch_size", "mini_batch_size", "epochs", "max_draws", "refresh_every",
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    if config.rollouts_per_prompt < 2:
        raise ValueError(
            f"rollouts_per_prompt={config.rollouts_per_prompt}: responses are compared with others "
            "to the same prompt, so at least 2 are needed"
        )
    if config.loss == "ppo" and config.clip is None:
        raise ValueError('clip=None leaves the lower side open: that is for loss="cispo" alone')
    if config.loss == "cispo" and (config.ratio != "token" or config.dual_clip is not None):
        raise ValueError('loss="cispo" has a ratio per token and no dual_clip: leave these')
    if config.loss == "cispo" and config.clip is None and config.clip_high is None:
        raise ValueError("clip=None and clip_high=None: cispo needs an upper bound, clip_high")
    if not config.beta >= 0 or (config.beta > 0 and config.kl_in is None):
        raise ValueError(
            f"beta={config.beta} with kl_in={config.kl_in!r}: beta must not be negative, and a "
            'price needs a place, kl_in="loss" or "reward"'
        )
    if ref is None and config.beta > 0:
        raise ValueError(f"beta={config.beta} needs a reference: pass ref=, or set beta=0")
    if ref is not None:
        check_same_vocabulary(policy, ref)
