"""What reinforcement learning sharpens, and what it adds: pass@k on harder chains.

Three models answer the same held-out problems of ``Arithmetic.harder()``, chains of 5 to 7
operators, many times over: the base model; its imitator of biased demonstrators; and this imitator
after GRPO on that task. `pass@k` at the k of `x`. For "RL" against "SFT", as shares of the
problems: `gained`, solved in at least one sample by the first and in none by the second; `lost`,
the other way round. The same for "RL" against "base". `majority` is the accuracy of the commonest
answer.
"""

from typing import Any

import torch

from rlbook.lm.evaluation import Evaluation, evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.grpo import GRPOConfig, grpo
from rlbook.studies.group_training import held_out

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "models": {"base": "arithmetic-base", "SFT": "arithmetic-sft"},
    "start": "arithmetic-sft",
    "problems": 64,
    "x": [1, 2, 4, 8, 16, 32, 64],
    "training": {
        "updates": 40,
        "train_batch_size": 32,
        "rollouts_per_prompt": 8,
        "learning_rate": 3e-4,
    },
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once; ask all three models."""
    torch.set_num_threads(1)
    task = Arithmetic.harder()
    policies = {
        name: load_policy(model, device="cpu") for name, model in SETTINGS["models"].items()
    }
    policies["RL"] = load_policy(SETTINGS["start"], device="cpu")
    for _ in grpo(policies["RL"], task, GRPOConfig(seed=seed, **SETTINGS["training"])):
        pass
    found = {name: answers(policy, task, seed) for name, policy in policies.items()}
    solved = {name: (answered.rewards >= 1).any(dim=1) for name, answered in found.items()}
    measures: dict[str, dict[str, Any]] = {
        "pass@k": {n: [a.pass_at[k] for k in SETTINGS["x"]] for n, a in found.items()},
        "majority": {name: answered.majority for name, answered in found.items()},
        "gained": {},
        "lost": {},
    }
    for other in SETTINGS["models"]:
        measures["gained"][other] = (solved["RL"] & ~solved[other]).float().mean().item()
        measures["lost"][other] = (~solved["RL"] & solved[other]).float().mean().item()
    return measures


def answers(policy: Policy, task: Arithmetic, seed: int) -> Evaluation:
    """As many samples to each problem as the largest k asks for."""
    return evaluate(
        policy,
        task,
        problems=held_out(task, SETTINGS["problems"], seed),
        samples_per_prompt=SETTINGS["x"][-1],
        ks=SETTINGS["x"],
        generator=torch.Generator().manual_seed(seed),
    )
