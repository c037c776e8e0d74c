"""The few lines that every training loop shares."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def minibatches(
    count: int, parts: int, *, generator: torch.Generator
) -> Iterator[Int[Tensor, " size"]]:
    """Shuffle 0 ... count-1 and cut it into ``parts`` equal pieces.

    Raises:
        ValueError: count is not divisible by parts.
    """
    if parts < 1 or count % parts:
        raise ValueError(
            f"{count} samples cannot be cut into {parts} equal minibatches: choose a number that "
            f"divides {count}"
        )
    yield from torch.randperm(count, generator=generator).view(parts, -1)


def optimiser_step(
    optimiser: torch.optim.Optimizer,
    loss: Float[Tensor, ""],
    *,
    max_grad_norm: float | None = None,
) -> float:
    """One step down the gradient of ``loss``; returns the gradient's norm before clipping.

    Args:
        max_grad_norm: the gradient of all parameters together is scaled down to at most this
            length; None does not clip.

    Raises:
        ValueError: the loss or its gradient is not finite; no parameter has moved then.
    """
    return accumulated_step(optimiser, [loss], max_grad_norm=max_grad_norm)[1]


def accumulated_step(
    optimiser: torch.optim.Optimizer,
    losses: Iterable[Float[Tensor, ""]],
    *,
    max_grad_norm: float | None = None,
) -> tuple[float, float]:
    """One step down the gradient of the *sum* of ``losses``: a batch in micro-batches.

    The losses are asked for one after another, each after the backward pass of the one before,
    so a generator that computes them keeps the memory of one micro-batch at a time. They add up
    to the loss of the whole batch where each is divided by the whole batch's count
    (``aggregate(..., denominator=)``); a mean over micro-batches would be another loss.

    Returns:
        The sum of the losses, and the gradient's norm before clipping.

    Raises:
        ValueError: as ``optimiser_step``; also where there are no losses.
    """
    optimiser.zero_grad(set_to_none=True)
    total = None
    for loss in losses:
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()}: lower the learning rate, or look for NaN in the inputs"
            )
        loss.backward()
        total = loss.item() + (total or 0.0)
    if total is None:
        raise ValueError("a step needs a loss: there is none")
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    limit = float("inf") if max_grad_norm is None else max_grad_norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
    if not math.isfinite(norm):
        raise ValueError(
            f"the loss is {total}, but its gradient is {norm}: look for a root, a log or a "
            "division at 0, or for overflow in masked cells"
        )
    optimiser.step()
    return total, norm


def bfloat16_forward(device: torch.device, *, on: bool = True) -> torch.autocast:
    """Within it, matrix products run in bfloat16, with weights, norms and losses in float32.

    Half the memory of activations, and several times the speed on a recent GPU. A log-probability
    is then good to some 10⁻² only, so whatever is compared must come from the same precision:
    sample and score inside it.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=on)


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def cosine_schedule(step: int, steps: int, *, warmup: int = 0, floor: float = 0.0) -> float:
    """The learning rate as a share of its peak: up a line, then down half a cosine.

        (step + 1) / warmup                                  while step < warmup, then
        floor + (1 - floor) · (1 + cos(π·progress)) / 2      from progress 0 to 1

    Args:
        step: 0, 1, ... steps - 1, the optimiser steps already made. steps: how many in all.
        warmup: steps of the line; the first of them is not at rate 0. floor: the share at the end.

    Book: 10_gpt2. Source: Loshchilov and Hutter (2017), equation 5, without restarts.
    """
    _check_schedule(step, steps, warmup)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def warmup_stable_decay(step: int, steps: int, *, warmup: int = 0, decay: int = 0) -> float:
    """The learning rate as a share of its peak: up a line, level, and down a line at the end.

        min( 1,  (step + 1) / warmup,  (steps - step) / decay )

    Unlike a cosine the level part does not know how long the run will be: a longer run goes on
    from any point of it, and only the last ``decay`` steps are spent on ending. With warmup=0
    and decay=0 the rate is constant.

    Args:
        step: 0, 1, ... steps - 1, the optimiser steps already made. steps: how many in all.
        warmup, decay: steps of the two lines.

    Book: 10_gpt2. Source: Hu et al. (2024, MiniCPM), section 4.2, with a line as the decay.
    """
    _check_schedule(step, steps, warmup + decay)
    up = (step + 1) / warmup if warmup else 1.0
    down = max(steps - step, 0) / decay if decay else 1.0
    return min(1.0, up, down)


def _check_schedule(step: int, steps: int, lines: int) -> None:
    if step < 0 or steps < 1 or lines > steps:
        raise ValueError(
            f"step={step} of steps={steps} with {lines} steps of warm-up and decay: warm-up and "
            "decay must fit into the steps"
        )


def mean_metrics(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the steps of one update."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


class LoopState:
    """What a training loop needs, besides the weights, to go on bit for bit on a CPU.

    A loop given a fresh state keeps its optimiser, its random numbers and its counters in it;
    whenever the loop has yielded a report, ``save`` writes a point to go on from. Given a loaded
    state and the weights saved at the same time, the loop continues there.

        state = LoopState()
        for report in sft(policy, examples, config, state=state):
            if report.update == 100:
                policy.save("half-way"), state.save("half-way/state.pt")
                break

    Attributes:
        step: optimiser steps, or updates, finished. samples: what ``StepReport.samples`` counts.
        generator: of the loop's random numbers. optimiser: the loop's. None before ``start``.
        extra: more of a loop's own, tensors and numbers by name: the order of the data, the
            coefficient of an adaptive penalty.
    """

    def __init__(self) -> None:
        self.step = 0
        self.samples = 0
        self.extra: dict[str, Tensor | float] = {}
        self.optimiser: torch.optim.Optimizer | None = None
        self.generator: torch.Generator | None = None
        self._loaded: dict[str, Any] = {}

    def start(self, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Take the loop's optimiser and generator; put them where a loaded state had them."""
        self.optimiser, self.generator = optimiser, generator
        if self._loaded:
            optimiser.load_state_dict(self._loaded["optimiser"])
            generator.set_state(self._loaded["generator"])
            self._loaded = {}

    def next_examples(self, count: int, size: int) -> list[int]:
        """Numbers of the next ``size`` of ``count`` examples, which come in shuffled passes.

        What is left of a pass waits in ``extra["order"]``, so that it is saved with the rest.
        """
        if self.generator is None:
            raise ValueError("this LoopState has not started: its loop calls start first")
        order = self.extra.get("order", torch.empty(0, dtype=torch.long))
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=self.generator)])
        self.extra["order"] = order[size:]
        return order[:size].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text alone, so that ``torch.load(weights_only=True)`` reads it.

        Raises ValueError before the loop has started: there is nothing to keep yet.
        """
        if self.optimiser is None or self.generator is None:
            raise ValueError("this LoopState has not run: give it to a loop, and save at a report")
        return {
            "step": self.step,
            "samples": self.samples,
            "extra": dict(self.extra),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave; the loop that starts next goes on from there."""
        missing = {"step", "samples", "extra", "optimiser", "generator"} - set(state)
        if missing:
            raise ValueError(
                f"this is not the state of a loop: {', '.join(sorted(missing))} missing"
            )
        self.step, self.samples = state["step"], state["samples"]
        self.extra = dict(state["extra"])
        self.optimiser = self.generator = None
        self._loaded = {name: state[name] for name in ("optimiser", "generator")}

    def save(self, path: str | Path) -> None:
        """Write the state to a file, in one step: an older file there stays until this is whole."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.part")
        torch.save(self.state_dict(), temporary)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "LoopState":
        """Read a file of ``save``; nothing in it is executed (``weights_only``)."""
        state = cls()
        state.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return state
