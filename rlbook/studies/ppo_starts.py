"""Elicited or learnt: the same PPO from four models that know and do different things.

    base            `arithmetic-base`: clean pretraining, and it answers as it was taught
    clean           the base model after imitating flawless demonstrators
    biased          `arithmetic-sft`: the base model after imitating biased demonstrators
    novice, biased  a model of a seventh of the pretraining, which imitates the same biased ones

`accuracy` is that on held-out problems, sampled at temperature 1, before training and at the
updates `x`; `pass16` the share of problems that one of 16 samples solves, `greedy` the accuracy
of greedy decoding and `harder` the sampled accuracy on the harder setting (longer chains, which
no arm practises), each before and after; `kl` nats per response from the start to the end.
"""

import copy
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.experience import kl_to_reference
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.posttrain.sft import SFTConfig, sft
from rlbook.studies.pretraining import new_policy

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "x": [0, 3, 6, 9, 12, 15, 20, 25, 30],
    "problems": 256,
    "ppo": {
        "updates": 30, "train_batch_size": 64, "rollouts_per_prompt": 4, "mini_batch_size": 32,
        "epochs": 2, "learning_rate": 5e-4, "value_learning_rate": 2e-3,
    },
    "imitation": {"steps": 150, "batch_size": 64, "learning_rate": 1e-3, "warmup": 10},
    "novice": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 160},
        "operators": [1, 8],
        "training": {
            "steps": 700, "batch_size": 32, "learning_rate": 5e-3, "warmup": 50,
            "betas": (0.9, 0.98), "mask_prompt": False,
        },
    },
    "arms": ["base", "clean", "biased", "novice, biased"],
}  # fmt: skip


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Make the four models and train each."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {}
    for arm in SETTINGS["arms"]:
        for measure, value in train(start(arm, seed), seed).items():
            measures.setdefault(measure, {})[arm] = value
    return measures


def start(arm: str, seed: int) -> Policy:
    """The model that an arm begins with."""
    if arm == "base":
        return load_policy("arithmetic-base", device="cpu")
    if arm == "biased":
        return load_policy("arithmetic-sft", device="cpu")
    generator = torch.Generator().manual_seed(seed)
    imitation = SFTConfig(seed=seed, **SETTINGS["imitation"])
    shown = imitation.steps * imitation.batch_size
    if arm == "clean":
        policy = load_policy("arithmetic-base", device="cpu")
        pairs = Arithmetic().demonstrations(shown, generator, clean=True)
        return imitated(policy, pairs, imitation)
    novice = SETTINGS["novice"]
    policy = new_policy(Arithmetic.characters, novice["size"], seed)
    reading = SFTConfig(seed=seed, **novice["training"])
    texts = reading.steps * reading.batch_size
    clean = Arithmetic(tuple(novice["operators"])).demonstrations(texts, generator, clean=True)
    imitated(policy, clean, reading)
    return imitated(policy, Arithmetic().demonstrations(shown, generator), imitation)


def imitated(policy: Policy, pairs: list[tuple[str, str]], config: SFTConfig) -> Policy:
    """The policy after imitating the pairs."""
    for _ in sft(policy, pairs, config):
        pass
    return policy


def train(policy: Policy, seed: int) -> dict[str, Any]:
    """PPO with a verified reward, and what it changed."""
    task = Arithmetic()
    first = copy.deepcopy(policy)
    problems = task.problems(
        SETTINGS["problems"], torch.Generator().manual_seed(1_000 + seed), split="test"
    )
    before = tested(policy, seed)
    curve = [before["accuracy"]]
    for report in ppo(policy, task, PPOConfig(seed=seed, **SETTINGS["ppo"])):
        if report.update in SETTINGS["x"]:
            generator = torch.Generator().manual_seed(2_000 + seed)
            curve.append(evaluate(policy, task, problems=problems, generator=generator).accuracy)
    after = tested(policy, seed)
    pairs = {name: [before[name], after[name]] for name in ("pass16", "greedy", "harder")}
    return {"accuracy": curve, "kl": kl(policy, first, seed)} | pairs


def tested(policy: Policy, seed: int) -> dict[str, float]:
    """Accuracies on held-out problems: those of the curve, and on longer chains."""
    task, hard = Arithmetic(), Arithmetic.harder()
    problems = task.problems(
        SETTINGS["problems"], torch.Generator().manual_seed(1_000 + seed), split="test"
    )
    generator = torch.Generator().manual_seed(2_000 + seed)
    sampled = evaluate(policy, task, problems=problems, generator=generator)
    many = evaluate(
        policy, task, problems=problems, samples_per_prompt=16, ks=(16,), generator=generator
    )
    greedy = evaluate(policy, task, problems=problems, temperature=0, generator=generator)
    longer = evaluate(policy, hard, problems=SETTINGS["problems"], generator=generator)
    return {
        "accuracy": sampled.accuracy,
        "pass16": many.pass_at[16],
        "greedy": greedy.accuracy,
        "harder": longer.accuracy,
    }


def kl(policy: Policy, ref: Policy, seed: int) -> float:
    """Nats per response from the reference, by k1 on held-out problems."""
    task = Arithmetic()
    generator = torch.Generator().manual_seed(3_000 + seed)
    problems = task.problems(SETTINGS["problems"], generator, split="test")
    responses = sample_responses(
        policy, [p.prompt for p in problems], max_new_tokens=task.max_new_tokens,
        generator=generator,
    )  # fmt: skip
    return kl_to_reference(policy, ref, responses).mean().item()
