"""Seconds until PPO from `arithmetic-sft` solves 90% of held-out problems, seed by seed.

    python tests/benchmarks/ppo.py --json [--seeds 0 1 2 3 4] [--threads 2]

The shipped imitator begins at about 0.44. Counted is the wall-clock time of training (sampling,
scoring, updates), not that of the tests between updates: 512 held-out problems, sampled once each
at temperature 1, after every third update. "Reached" means 0.90 in two tests in a row, and the
time is that of the first. The seed draws problems, samples and mini-batches.
"""

import argparse
import json
import statistics
import time

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.ppo import PPOConfig, ppo

GOAL = 0.90
EVERY = 3  # updates between two tests
PROBLEMS = 512
CONFIG = PPOConfig(
    updates=90, train_batch_size=64, rollouts_per_prompt=4, mini_batch_size=32, epochs=2,
    learning_rate=1e-3, value_learning_rate=2e-3,
)  # fmt: skip


def seconds_to_goal(seed: int) -> tuple[float | None, list[tuple[float, float]]]:
    """The time, or None, and the curve: (seconds of training, held-out accuracy)."""
    policy, task = load_policy("arithmetic-sft", device="cpu"), Arithmetic()
    settings = CONFIG.__dict__ | {"seed": seed}
    spent, curve, before = 0.0, [], time.perf_counter()
    for update, _ in enumerate(ppo(policy, task, PPOConfig(**settings)), start=1):
        spent += time.perf_counter() - before
        if update % EVERY == 0:
            generator = torch.Generator().manual_seed(10_000 + seed)
            problems = task.problems(PROBLEMS, generator, split="test")
            curve.append(
                (spent, evaluate(policy, task, problems=problems, generator=generator).accuracy)
            )
            if len(curve) > 1 and min(curve[-1][1], curve[-2][1]) >= GOAL:
                return curve[-2][0], curve
        before = time.perf_counter()
    return None, curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for seed in arguments.seeds:
        seconds, curve = seconds_to_goal(seed)
        found.append(seconds)
        shown = "not reached" if seconds is None else f"{seconds:.1f} s"
        path = "  ".join(f"{t:.0f} s {accuracy:.3f}" for t, accuracy in curve)
        print(f"seed {seed}: {shown:12} {path}", flush=True)
    reached = [seconds for seconds in found if seconds is not None]
    if reached:
        print(
            f"{len(reached)} of {len(found)} reached it, median {statistics.median(reached):.1f} s"
        )
    if arguments.json:
        result = {"seconds_to_090": [None if s is None else round(s, 2) for s in found]}
        print(json.dumps(result | {"seeds": arguments.seeds, "threads": arguments.threads}))


if __name__ == "__main__":
    main()
