"""The price β in DPO: what it does to pairs, to answers, and to the distance from the reference.

The imitator of biased demonstrators answers each prompt several times; right and wrong answers to
the same prompt are the pairs, fixed from then on. DPO learns from them with several β.

At the steps `x`, of samples on held-out chains: `accuracy`; `in form`, the share that works
through the operators and digits of the prompt in their order, whatever the results; `kl`, nats per
response to the imitator. On held-out pairs, made as those for training are: `chosen` and
`rejected`, by how much log π of the whole response has changed, in nats; `margin`, their
difference, not multiplied by β; `ordered`, the share of pairs with a margin above 0, a tie half.
"""

import re
from typing import Any

import torch

from rlbook.lm.evaluation import CORRECT
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic, parse_chain
from rlbook.lm.tasks.task import Problem
from rlbook.posttrain.dpo import DPOConfig, dpo, reference_logprobs
from rlbook.posttrain.experience import (
    Experience,
    gather_experience,
    kl_to_reference,
)
from rlbook.posttrain.pairs import Pairs, encode_pairs, preferences_of

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "betas": [0.03, 0.1, 0.3, 1.0],
    "x": [0, 20, 40, 60, 80, 100],
    "prompts": 512,
    "samples": 8,
    "pairs_per_prompt": 4,
    "training": {"batch_size": 32, "learning_rate": 1e-4},
    "problems": 256,
    "problem_samples": 2,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Make the pairs, and train with each β."""
    torch.set_num_threads(1)
    task, ref = Arithmetic(), load_policy(SETTINGS["model"], device="cpu")
    generator = torch.Generator().manual_seed(seed)
    batch = gather_experience(
        ref,
        task,
        prompts=SETTINGS["prompts"],
        rollouts_per_prompt=SETTINGS["samples"],
        temperature=1.0,
        generator=generator,
    )
    pairs = preferences_of(batch, pairs_per_prompt=SETTINGS["pairs_per_prompt"])
    problems = task.problems(SETTINGS["problems"], generator, split="test")
    unseen = preferences_of(answers(ref, task, problems, seed))
    held_out = encode_pairs(ref, unseen)
    counts = {"training": len(pairs), "held out": len(unseen)}
    measures: dict[str, dict[str, Any]] = {"pairs": counts}
    for beta in SETTINGS["betas"]:
        policy = load_policy(SETTINGS["model"], device="cpu")
        last = SETTINGS["x"][-1]
        config = DPOConfig(steps=last, beta=beta, seed=seed, **SETTINGS["training"])
        rows = [measure(policy, ref, task, problems, held_out, seed)]
        for report in dpo(policy, pairs, config):
            if report.update in SETTINGS["x"]:
                rows.append(measure(policy, ref, task, problems, held_out, seed))
        for name in rows[0]:
            measures.setdefault(name, {})[f"β = {beta:g}"] = [row[name] for row in rows]
    return measures


def answers(policy: Policy, task: Arithmetic, problems: list[Problem], seed: int) -> Experience:
    """Samples on these problems, with their rewards."""
    K = SETTINGS["problem_samples"]
    responses = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        samples_per_prompt=K,
        max_new_tokens=task.max_new_tokens,
        generator=torch.Generator().manual_seed(seed),
        stop=task.stop_ids(policy),
    )
    repeated = [problem for problem in problems for _ in range(K)]
    rewards = task.rewards(repeated, responses.texts, truncated=responses.truncated)
    return Experience(repeated, responses, rewards, K)


def measure(
    policy: Policy,
    ref: Policy,
    task: Arithmetic,
    problems: list[Problem],
    held_out: Pairs,
    seed: int,
) -> dict[str, float]:
    """Answers on held-out chains, and log-probabilities of held-out pairs."""
    batch = answers(policy, task, problems, seed)
    now, before = (reference_logprobs(p, held_out, DPOConfig()) for p in (policy, ref))
    change = now - before
    margin = change[0] - change[1]
    texts = zip(batch.problems, batch.responses.texts, strict=True)
    return {
        "accuracy": (batch.rewards >= CORRECT).float().mean().item(),
        "in form": sum(in_form(problem, text) for problem, text in texts) / len(batch.problems),
        "kl": kl_to_reference(policy, ref, batch.responses).mean().item(),
        "chosen": change[0].mean().item(),
        "rejected": change[1].mean().item(),
        "margin": margin.mean().item(),
        "ordered": ((margin > 0).float() + 0.5 * (margin == 0).float()).mean().item(),
    }


def in_form(problem: Problem, text: str) -> bool:
    """Whether a text works through the prompt's operators and digits, whatever the results."""
    _, chain = parse_chain(problem.prompt)
    steps = (rf"\d{re.escape(symbol)}{digit}=\d" for symbol, digit in chain)
    return re.fullmatch(";".join(steps) + r"\.", text) is not None
