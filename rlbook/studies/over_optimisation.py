"""Reward against KL: how far to follow a learned reward, with one and two preference rounds.

InstructGPT's three steps on the replies task, per seed. Round 1: simulated labellers compare pairs
of `replies-sft`'s own replies, the reward model `replies-reward` learns from them, and PPO follows
its score at several prices β of a nat, and with the price adapted so that the KL stays at a target.
Round 2: the same people compare pairs of replies by the policy of round 1 (the arm `again`),
`replies-reward` learns from all comparisons, and PPO starts again from `replies-sft`.

Arms are "round, β" and "round 1, KL held". At the updates `x`, on held-out requests: `kl` nats
per response to `replies-sft`; `learned` mean score of the round's reward model; `gold` mean score
of the hidden preference. `best of n` has the same three for the best of `ns` of the imitator's
replies by each round's reward model, with log n - (n-1)/n as its `kl`. `accuracy` is that of the
reward models on held-out pairs of the imitator's replies (round 2 also: of the policy's, "on its
policy"), beside the `ceiling` that the labellers' noise sets.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.lm.heads import load_scalar_model
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.labellers import Comparison, noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.experience import kl_to_reference
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.posttrain.reward_model import (
    LearnedReward,
    Preference,
    RewardModelConfig,
    centre,
    judge,
    train_reward_model,
)

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "comparisons": [2000, 1000],  # drawn in each round
    "held_out_pairs": 200,
    "judge": "replies-reward",
    "reward_model": {
        "steps": 150, "batch_size": 16, "learning_rate": 5e-4, "warmup": 10, "betas": [0.9, 0.98],
    },
    "ppo": {
        "updates": 40, "train_batch_size": 32, "rollouts_per_prompt": 2, "mini_batch_size": 32,
        "epochs": 2, "learning_rate": 2e-4, "value_learning_rate": 2e-3, "lam": 0.95,
    },
    "betas": {"1": [0.0, 0.05, 0.2], "2": [0.0, 0.05]},
    "held": {"beta": 0.05, "target_kl": 3.0, "kl_horizon": 100.0},  # one more arm of round 1
    "again": 0.05,  # the arm of round 1 whose policy the people of round 2 see
    "x": [0, 5, 10, 15, 20, 30, 40],
    "problems": 100,
    "ns": [1, 2, 4, 8, 16, 32, 64],
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Both rounds."""
    torch.set_num_threads(1)
    task, generator = Replies(), torch.Generator().manual_seed(seed)
    imitator = load_policy("replies-sft", device="cpu")
    problems = task.problems(SETTINGS["problems"], generator, split="test")
    measures: dict[str, dict[str, Any]] = {"accuracy": {}, "ceiling": {}}
    shown = compared(task, imitator, SETTINGS["comparisons"][0], generator)
    source = imitator
    for number, betas in SETTINGS["betas"].items():
        if number == "2":
            shown = shown + compared(task, source, SETTINGS["comparisons"][1], generator)
        reward = learned_reward(task, imitator, shown, generator)
        for name, policy in {"": imitator, ", on its policy": source}.items():
            held_out = compared(task, policy, SETTINGS["held_out_pairs"], generator, split="test")
            arm = f"round {number}{name}"
            measures["accuracy"][arm] = judge(reward.model, preferences(held_out)).accuracy
            measures["ceiling"][arm] = noise_ceiling(held_out)
        found = {f"best of n, round {number}": best_of_n(task, reward, imitator, problems, seed)}
        for beta in betas:
            policy = copy.deepcopy(imitator)
            arm = f"round {number}, β = {beta}"
            found[arm] = train(policy, reward, problems, {"beta": beta}, seed)
            if number == "1" and beta == SETTINGS["again"]:
                source = policy
        if number == "1":
            policy = copy.deepcopy(imitator)
            found["round 1, KL held"] = train(policy, reward, problems, SETTINGS["held"], seed)
        for arm, curves in found.items():
            for measure, values in curves.items():
                measures.setdefault(measure, {})[arm] = values
    return measures


def compared(
    task: Replies, policy: Policy, n: int, generator: torch.Generator, *, split: str = "train"
) -> list[Comparison]:
    """About n comparisons of a policy's own replies; requests with two equal ones drop out."""
    problems = task.problems(n, generator, split=split)
    texts = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        samples_per_prompt=2,
        max_new_tokens=task.max_new_tokens,
        generator=generator,
    ).texts
    pairs = zip(problems, texts[::2], texts[1::2], strict=True)
    different = [(problem, a, b) for problem, a, b in pairs if a != b]
    requests, first, second = map(list, zip(*different, strict=True))
    return task.compare(requests, first, second, generator)


def preferences(comparisons: Sequence[Comparison]) -> list[Preference]:
    """Comparisons as a learner sees them."""
    return [Preference(c.prompt, (c.chosen, c.rejected)) for c in comparisons]


def learned_reward(
    task: Replies, imitator: Policy, shown: Sequence[Comparison], generator: torch.Generator
) -> LearnedReward:
    """The judge after learning from the comparisons, with mean 0 on the imitator's replies."""
    model = load_scalar_model(SETTINGS["judge"], device="cpu")
    settings = SETTINGS["reward_model"] | {"betas": tuple(SETTINGS["reward_model"]["betas"])}
    config = RewardModelConfig(seed=int(generator.initial_seed()), **settings)
    for _ in train_reward_model(model, preferences(shown), config):
        pass
    problems = task.problems(256, generator)
    responses = sample_responses(
        imitator,
        [problem.prompt for problem in problems],
        max_new_tokens=task.max_new_tokens,
        generator=generator,
    )
    centre(model, responses)
    return LearnedReward(task, model)


def train(
    policy: Policy,
    reward: LearnedReward,
    problems: Sequence[Problem],
    price: dict[str, float],
    seed: int,
) -> dict[str, list[float]]:
    """PPO on the learned reward; learned and gold score and KL on the held-out requests."""
    imitator = copy.deepcopy(policy)
    curves: dict[str, list[float]] = {"kl": [], "learned": [], "gold": []}

    def test() -> None:
        responses = sample_responses(
            policy,
            [problem.prompt for problem in problems],
            max_new_tokens=reward.max_new_tokens,
            generator=torch.Generator().manual_seed(2_000 + seed),
        )
        for name, task in (("learned", reward), ("gold", reward.task)):
            scores = task.rewards(problems, responses.texts, truncated=responses.truncated)
            curves[name].append(scores.mean().item())
        curves["kl"].append(kl_to_reference(policy, imitator, responses).mean().item())

    test()
    config = PPOConfig(seed=seed, **price, **SETTINGS["ppo"])
    for report in ppo(policy, reward, config, ref=imitator):
        if report.update in SETTINGS["x"]:
            test()
    return curves


def best_of_n(
    task: Replies,
    reward: LearnedReward,
    imitator: Policy,
    problems: Sequence[Problem],
    seed: int,
) -> dict[str, list[float]]:
    """The same three numbers for the best of n of the imitator's replies."""
    K = SETTINGS["ns"][-1]
    responses = sample_responses(
        imitator,
        [problem.prompt for problem in problems],
        samples_per_prompt=K,
        max_new_tokens=task.max_new_tokens,
        generator=torch.Generator().manual_seed(3_000 + seed),
    )
    repeated = [problem for problem in problems for _ in range(K)]
    ways = {"truncated": responses.truncated}
    learned = reward.rewards(repeated, responses.texts, **ways).view(-1, K)
    gold = task.rewards(repeated, responses.texts, **ways).view(-1, K)
    chosen = [best(learned, gold, n) for n in SETTINGS["ns"]]
    return {
        "kl": [math.log(n) - (n - 1) / n for n in SETTINGS["ns"]],
        "learned": [scores for scores, _ in chosen],
        "gold": [scores for _, scores in chosen],
    }


def best(learned: Float[Tensor, "N K"], gold: Float[Tensor, "N K"], n: int) -> tuple[float, float]:
    """Mean learned and gold score of the best of n by the learned one, over all K/n draws."""
    rows = learned.view(-1, n)
    chosen = rows.argmax(dim=1, keepdim=True)
    return (
        rows.gather(1, chosen).mean().item(),
        gold.view(-1, n).gather(1, chosen).mean().item(),
    )
