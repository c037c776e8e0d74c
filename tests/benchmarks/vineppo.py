"""VinePPO: seconds until it solves 95% of held-out problems, and what sharing prefixes saves.

    python tests/benchmarks/vineppo.py --json [--seeds 0 1 2 3 4] [--threads 2] [--only WHAT]

    seconds_to_095          from `arithmetic-sft` on the book's task (2 to 4 operators), per seed:
                            wall-clock seconds of training (sampling, rollouts, updates), not those
                            of the tests in between (512 held-out problems, sampled once each at
                            temperature 1, after every third update). "Reached" means 0.95 in two
                            tests in a row; the time is that of the first. cpu_seconds likewise
    shared_prefix_speedup   seconds of one batched call without sharing over those of
                            `rollout_values`, for the states before each step of a train batch (16
                            prompts, 8 responses each) on chains of eight steps, K rollouts each

Without sharing, every state of every response is rolled out, though others may equal it, and each
of its K rollouts reads the whole text again, though the next state begins with it; the engine is
the same, and so is the number of rollouts that each state's value comes from. `sorted_speedup` is
against the same work in the order and the portions of `rollout_values` (states of one length side
by side), which leaves sharing as the only difference. Medians of alternating repeats; `tokens` has
those generated and prefilled by each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from rlbook.lm.batch import pad_left
from rlbook.lm.decoding import decode
from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import draw
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Task
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.step_values import State, rollout_values, states_of, steps_of
from rlbook.posttrain.vineppo import VinePPOConfig, vineppo

GOAL, EVERY, PROBLEMS = 0.95, 3, 512
CONFIG = VinePPOConfig(updates=60, value_rollouts=3, learning_rate=1e-3)
STEPS, PROMPTS, SAMPLES, ROLLOUTS, REPEATS, ROWS = 8, 16, 8, 3, 5, 2048


def seconds_to_goal(seed: int) -> tuple[tuple[float, float] | None, list[tuple[float, float]]]:
    """Seconds by the clock and of the processor, or None; and the curve (seconds, accuracy)."""
    policy, task = load_policy("arithmetic-sft", device="cpu"), Arithmetic()
    clocks = time.perf_counter, time.process_time
    spent, before = [0.0, 0.0], [clock() for clock in clocks]
    tests: list[tuple[float, float, float]] = []
    for report in vineppo(policy, task, replace(CONFIG, seed=seed)):
        spent = [s + clock() - b for s, clock, b in zip(spent, clocks, before, strict=True)]
        if report.update % EVERY == 0:
            generator = torch.Generator().manual_seed(10_000 + seed)
            problems = task.problems(PROBLEMS, generator, split="test")
            accuracy = evaluate(policy, task, problems=problems, generator=generator).accuracy
            tests.append((*spent, accuracy))
            if len(tests) > 1 and min(tests[-1][2], tests[-2][2]) >= GOAL:
                return tests[-2][:2], [(wall, accuracy) for wall, _, accuracy in tests]
        before = [clock() for clock in clocks]
    return None, [(wall, accuracy) for wall, _, accuracy in tests]


@torch.no_grad()
def unshared(
    policy: Policy, task: Task, states: Sequence[State], generator: torch.Generator
) -> tuple[torch.Tensor, int, int]:
    """Values of states in one call of the engine, a prompt for every rollout of every state.

    Returns the values, and the tokens generated and prefilled.
    """
    rows = [state for state in states for _ in range(ROLLOUTS)]
    written = [len(state.written) for state in rows]
    limits = torch.tensor([task.max_new_tokens - n for n in written])
    uniforms = torch.rand(int(limits.max()), len(rows), generator=generator, dtype=torch.float64)

    def choose(
        logits: torch.Tensor, t: int, left: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = draw(logits, uniforms[t] if left is None else uniforms[t, left])
        return tokens, logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]

    ids, mask = pad_left([state.prompt + state.written for state in rows], policy.pad_id)
    ends = torch.tensor([policy.eos_id])
    own = torch.arange(len(rows))
    found, _ = decode(policy.model, ids, mask, own, choose, limits=limits, ends=ends)
    within = torch.arange(found.shape[1]) < limits[:, None]
    ended = torch.isin(found, ends) & within
    lengths = ((ended.cumsum(dim=1) - ended.long() == 0) & within).sum(dim=1)
    texts = [
        policy.decode((*state.written, *tokens[:length]))
        for state, tokens, length in zip(rows, found.tolist(), lengths.tolist(), strict=True)
    ]
    rewards = task.rewards([s.problem for s in rows], texts, truncated=~ended.any(dim=1))
    return rewards.view(-1, ROLLOUTS).mean(dim=1), int(lengths.sum()), int(mask.sum())


def sharing(seed: int) -> dict[str, Any]:
    """The states of one train batch, valued by turns with and without sharing."""
    policy, task = load_policy("arithmetic-sft", device="cpu"), Arithmetic.horizon(STEPS)
    generator = torch.Generator().manual_seed(seed)
    batch = gather_experience(
        policy, task, prompts=PROMPTS, rollouts_per_prompt=SAMPLES, temperature=1.0,
        generator=generator,
    )  # fmt: skip
    states, _ = states_of(batch, steps_of(policy, task, batch))
    by_length = sorted(states, key=lambda state: -len(state.written))
    portion = ROWS // ROLLOUTS

    def shared() -> tuple[torch.Tensor, int, int]:
        found = rollout_values(
            policy, task, states, rollouts=ROLLOUTS, generator=generator, most_rows=ROWS
        )
        return found.values, found.generated, found.prefilled

    def in_portions() -> tuple[torch.Tensor, int, int]:
        parts = [by_length[i : i + portion] for i in range(0, len(states), portion)]
        values, generated, prefilled = zip(
            *(unshared(policy, task, part, generator) for part in parts), strict=True
        )
        return torch.cat(values), sum(generated), sum(prefilled)

    ways: dict[str, Callable[[], tuple[torch.Tensor, int, int]]] = {
        "shared": shared,
        "one call": lambda: unshared(policy, task, states, generator),
        "sorted": in_portions,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, dict[str, int]] = {}
    for _ in range(REPEATS):
        for name, value in ways.items():
            before = time.perf_counter()
            values, generated, prefilled = value()
            seconds[name].append(time.perf_counter() - before)
            tokens[name] = {"generated": generated, "prefilled": prefilled}
            assert len(values) == len(states)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "shared_prefix_speedup": round(medians["one call"] / medians["shared"], 3),
        "sorted_speedup": round(medians["sorted"] / medians["shared"], 3),
        "states": len(states),
        "distinct": len(set(states)),
        "rollouts": ROLLOUTS,
        "seconds": {name: round(median, 3) for name, median in medians.items()},
        "tokens": tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["training", "sharing"], help="one of the two parts")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {}
    if arguments.only != "training":
        result = sharing(arguments.seeds[0])
        for name, counts in result["tokens"].items():
            print(f"{name:9}{result['seconds'][name]:7.2f} s, tokens {counts}", flush=True)
        print(
            f"{result['states']} states, {result['distinct']} distinct: sharing is "
            f"{result['shared_prefix_speedup']:.2f} times as fast as one call without, "
            f"{result['sorted_speedup']:.2f} times as fast as portions by length"
        )
    if arguments.only != "sharing":
        reached = []
        for seed in arguments.seeds:
            found, curve = seconds_to_goal(seed)
            reached.append(found)
            shown = "not reached" if found is None else f"{found[0]:.1f} s, {found[1]:.1f} s of CPU"
            path = "  ".join(f"{t:.0f} s {accuracy:.3f}" for t, accuracy in curve)
            print(f"seed {seed}: {shown:28} {path}", flush=True)
        result["seconds_to_095"] = [None if r is None else round(r[0], 2) for r in reached]
        result["cpu_seconds_to_095"] = [None if r is None else round(r[1], 2) for r in reached]
    if arguments.json:
        print(json.dumps(result | {"seeds": arguments.seeds, "threads": arguments.threads}))


if __name__ == "__main__":
    main()
