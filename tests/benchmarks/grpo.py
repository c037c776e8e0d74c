"""GRPO against trl's GRPOTrainer, and how long ours takes to solve 95% of held-out problems.

    python tests/benchmarks/grpo.py --json [--seeds 0 1 2] [--threads 1] [--without-trl]

Both train `arithmetic-sft` on the same prompts in the same order: 32 prompts, 8 rollouts each, one
optimiser step, AdamW (fused) at the same constant rate, gradients clipped at 1, float32, no KL,
temperature 1, the group's standard deviation, no gradient checkpointing. They take turns, one
after another in one process, in several rounds; trl samples with transformers' generate, its
default. All prompts of the comparison have one length (3 operators): with GPT-2's positions trl
scores left-padded prompts at the wrong places, and would not learn the same.

Counted is the time of training (sampling, rewards, updates), not that of the tests between
updates: 512 held-out problems, sampled once each, after every third update. "Reached" means 0.95
in two tests in a row, and the time is that of the first.

    step_vs_trl      steps per second, ours over trl's, the same steps (after two of warm-up)
    to_095_vs_trl    trl's seconds to 0.95 over ours; updates_to_095 has the counts of both
    seconds_to_095   ours on the book's task (2 to 4 operators), per seed; cpu_seconds likewise

Ours differentiates no response whose advantage is 0, so it is faster the better the policy is:
seconds per step at the start and at the end are in the details.
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.grpo import GRPOConfig, grpo

GOAL, EVERY, PROBLEMS = 0.95, 3, 512
CONFIG = GRPOConfig(updates=45)  # of the comparison; the rest are the defaults
ROUNDS = 3
WARM_UP, TIMED = 2, 24  # steps not timed, and up to which


class Listed(Arithmetic):
    """The problems of a list, one train batch after another."""

    def __init__(self, listed: Sequence[Problem]) -> None:
        super().__init__((3, 3))
        self.listed = list(listed)

    def problems(
        self, n: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Problem]:
        if split == "test":
            return super().problems(n, generator, split=split)
        found, self.listed = self.listed[:n], self.listed[n:]
        return found


class Clock:
    """Time of training, step by step, and the tests in between, whose time does not count."""

    def __init__(self, policy: Policy, task: Arithmetic, seed: int) -> None:
        self.policy, self.task, self.seed = policy, task, seed
        self.steps: list[float] = []
        self.curve: list[tuple[int, float, float, float]] = []
        self.cpu = 0.0
        self.begin()

    def begin(self) -> None:
        self.since, self.cpu_since = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """A step is over: note its time, and test now and then."""
        self.steps.append(time.perf_counter() - self.since)
        self.cpu += time.process_time() - self.cpu_since
        if len(self.steps) % EVERY == 0:
            generator = torch.Generator().manual_seed(10_000 + self.seed)
            accuracy = evaluate(
                self.policy, self.task, problems=PROBLEMS, generator=generator
            ).accuracy
            self.curve.append((len(self.steps), sum(self.steps), self.cpu, accuracy))
        self.begin()

    @property
    def reached(self) -> tuple[int, float, float] | None:
        """Updates, seconds and processor seconds to the goal, once it has been held."""
        for (*first, a), (*_, b) in zip(self.curve, self.curve[1:], strict=False):
            if min(a, b) >= GOAL:
                return first[0], first[1], first[2]
        return None


def ours(policy: Policy, problems: list[Problem], seed: int) -> Clock:
    task = Listed(problems)
    clock = Clock(policy, task, seed)
    for _ in grpo(policy, task, replace(CONFIG, seed=seed)):
        clock.step()
    return clock


class Ticks(TrainerCallback):
    """Tells a clock when a step of trl's trainer begins and ends."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.policy.model.eval()
        self.clock.step()
        self.clock.policy.model.train()


def trl(policy: Policy, problems: list[Problem], seed: int) -> Clock:
    from datasets import Dataset, disable_progress_bars
    from trl import GRPOConfig as Config
    from trl import GRPOTrainer

    disable_progress_bars()
    task = Arithmetic((3, 3))
    clock = Clock(policy, task, seed)

    def reward(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        return task.score([Problem("", right) for right in answer], completions)

    N, K = CONFIG.train_batch_size, CONFIG.rollouts_per_prompt
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Config(
            output_dir=folder, max_steps=CONFIG.updates, per_device_train_batch_size=N * K,
            gradient_accumulation_steps=1, num_generations=K, num_iterations=1, beta=0.0,
            max_completion_length=task.max_new_tokens, temperature=1.0, top_p=1.0, top_k=0,
            loss_type="grpo", scale_rewards="group", epsilon=CONFIG.clip, shuffle_dataset=False,
            learning_rate=CONFIG.learning_rate, lr_scheduler_type="constant",
            optim="adamw_torch_fused", weight_decay=0.0, max_grad_norm=CONFIG.max_grad_norm,
            gradient_checkpointing=False, bf16=False, seed=seed, use_cpu=True, report_to=[],
            logging_strategy="no", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_dict(
            {"prompt": [p.prompt for p in problems], "answer": [p.answer for p in problems]}
        )
        GRPOTrainer(
            model=policy.model, reward_funcs=reward, args=config, train_dataset=data,
            processing_class=policy.tokenizer, callbacks=[Ticks(clock)],
        ).train()  # fmt: skip
    return clock


CONTENDERS: dict[str, Callable[[Policy, list[Problem], int], Clock]] = {"ours": ours, "trl": trl}


def compare(seed: int) -> dict[str, list[Clock]]:
    """The clocks of both, over the rounds."""
    clocks: dict[str, list[Clock]] = {name: [] for name in CONTENDERS}
    for turn in range(ROUNDS):
        generator = torch.Generator().manual_seed(1000 * turn + seed)
        problems = Arithmetic((3, 3)).problems(CONFIG.updates * CONFIG.train_batch_size, generator)
        for name, train in CONTENDERS.items():
            clock = train(load_policy("arithmetic-sft", device="cpu"), problems, seed + turn)
            clocks[name].append(clock)
            steps, curve = clock.steps[WARM_UP:TIMED], clock.curve
            reached = clock.reached
            print(
                f"seed {seed} round {turn} {name:<5}{1000 * statistics.median(steps):>7.0f} ms a "
                f"step, {curve[0][3]:.3f} -> {curve[-1][3]:.3f}, "
                + (f"0.95 after {reached[0]} updates, {reached[1]:.1f} s" if reached else "not"),
                flush=True,
            )
            assert curve[-1][3] > 0.9, f"{name} did not learn"
    return clocks


def alone(seed: int) -> tuple[int, float, float] | None:
    """Ours on the book's task, with the defaults."""
    policy, task = load_policy("arithmetic-sft", device="cpu"), Arithmetic()
    clock = Clock(policy, task, seed)
    for _ in grpo(policy, task, GRPOConfig(updates=90, seed=seed)):
        clock.step()
        if clock.reached:
            break
    return clock.reached


def summary(found: dict[int, dict[str, list[Clock]]]) -> dict[str, Any]:
    """Ratios over all seeds and rounds, by their geometric mean."""

    def mean(ratios: list[float]) -> float:
        return math.exp(statistics.fmean(map(math.log, ratios)))

    steps, times, updates, details = [], [], [], []
    for seed, clocks in found.items():
        for mine, theirs in zip(clocks["ours"], clocks["trl"], strict=True):
            a, b = (statistics.fmean(c.steps[WARM_UP:TIMED]) for c in (mine, theirs))
            steps.append(b / a)
            ends = {name: c.reached for name, c in (("ours", mine), ("trl", theirs))}
            if all(ends.values()):
                times.append(ends["trl"][1] / ends["ours"][1])
                updates.append(ends["ours"][0] / ends["trl"][0])
            row: dict[str, Any] = {"seed": seed}
            for name, c in (("ours", mine), ("trl", theirs)):
                row[name] = {
                    "reached": c.reached,
                    "ms_first_steps": 1000 * statistics.fmean(c.steps[WARM_UP : WARM_UP + 5]),
                    "ms_last_steps": 1000 * statistics.fmean(c.steps[-5:]),
                    "curve": [(n, round(accuracy, 3)) for n, *_, accuracy in c.curve],
                }
            details.append(row)
    return {
        "step_vs_trl": mean(steps),
        "to_095_vs_trl": mean(times) if times else None,
        "updates_to_095_ours_over_trl": mean(updates) if updates else None,
        "details": details,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-trl", action="store_true", help="seconds_to_095 alone")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()

    result: dict[str, Any] = {}
    if not arguments.without_trl:
        result = summary({seed: compare(seed) for seed in arguments.seeds})
    own = []
    for seed in arguments.seeds:
        reached = alone(seed)
        own.append(reached)
        shown = "not reached"
        if reached is not None:
            shown = f"after {reached[0]} updates, {reached[1]:.1f} s, {reached[2]:.1f} s of CPU"
        print(f"seed {seed}: ours alone, 2 to 4 operators: {shown}", flush=True)
    result["seconds_to_095"] = [None if r is None else round(r[1], 2) for r in own]
    result["cpu_seconds_to_095"] = [None if r is None else round(r[2], 2) for r in own]
    result |= {"seeds": arguments.seeds, "threads": torch.get_num_threads()}
    for name in ("step_vs_trl", "to_095_vs_trl", "updates_to_095_ours_over_trl"):
        if result.get(name):
            print(f"{name}: {result[name]:.2f}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
