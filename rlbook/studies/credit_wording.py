"""Where rollout values begin to pay: few responses per update, and texts with idle wording.

`credit-comparison` found the methods alike, with 128 responses per update and a model that is
sure of nearly every token: there is little to blame wrongly. Here an update has eight responses
(four prompts, two to each), chains have five steps, and a step may end with an *aside*: so many
signs, drawn at random, that change nothing.

    3+5-4=    no asides    3+5=8;8-4=4.
              asides       3+5=8+=*-;8-4=4.

The start without asides is `arithmetic-sft`; with asides it is `arithmetic-base` after imitating
biased people who write them. From there every arm practises the same fixed problems, with one
optimiser step per update; arms are "setting, method". "GRPO, 64 responses" has 32 prompts, and
about as many generated tokens per update as VinePPO with K = 3.

Learning rates were tried on seeds that are not recorded: on one, with asides and whitened
advantages, 1e-4, 3e-4 and 1e-3 for GRPO, PPO and VinePPO with K = 3, and the last two for K = 9 and
64 responses; on another the last two for every arm, without whitening. In `rates` stands what was
best, or not told from it. At 1e-3 with eight responses GRPO, PPO and K = 9 each collapsed on a
seed. Advantages are not whitened: where the rewards of a small batch are all the same, whitening
blows a critic's errors up to size 1 (without asides, at 1e-3, PPO fell to 0.1 on one of two seeds).

At the updates `x`, `accuracy` is that on held-out problems, one sample each at temperature 1;
`tokens` generated so far, in thousands, rollouts for values included; `seconds` of processor
time, tests not counted. `kl` is the distance to the start at the end, in nats per response.

`noise` is measured before training, on the same responses for all (arms "setting, method"): the
variance of the gradient of one group of two responses, E|g - E[g]|², with each method's
advantages, in units of that of "reward less mean", which is what a value network gives at λ = 1
that knows nothing of the text. (Chapter 20's exact noise is a standard deviation.) `entropy` is
that of the policy, in nats per response.
"""

import copy
import time
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.credit import step_advantages, token_advantages
from rlbook.functional.group_advantages import rloo_advantages
from rlbook.lm.evaluation import evaluate
from rlbook.lm.logprobs import response_logprobs, response_logprobs_and_entropy
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Task
from rlbook.posttrain.experience import Experience, gather_experience, kl_to_reference
from rlbook.posttrain.grpo import VARIANTS, GRPOConfig, grpo
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.posttrain.sft import SFTConfig, sft
from rlbook.posttrain.step_values import rollout_values, states_of, steps_of
from rlbook.posttrain.vineppo import VinePPOConfig, vineppo
from rlbook.report import StepReport

SEEDS = 8
SETTINGS: dict[str, Any] = {
    "first_seed": 200,
    "start": {"no asides": "arithmetic-sft", "asides": "arithmetic-base"},
    "steps": 5,
    "asides": {"no asides": 0, "asides": 4},
    "imitation": {"texts": 8_000, "steps": 200, "batch_size": 32, "learning_rate": 2e-3},
    "noise": {"prompts": 32, "samples": 2, "K": [1, 3, 9]},
    "practised": 256,
    "problems": 128,
    "x": [0, 10, 20, 30, 40],
    "shared": {"train_batch_size": 4, "rollouts_per_prompt": 2, "mini_batch_size": 4, "epochs": 1},
    "value_rate": 2e-3,
    "rates": {
        "GRPO": 3e-4, "PPO": 3e-4, "VinePPO, K = 1": 3e-4, "VinePPO, K = 3": 3e-4,
        "VinePPO, K = 9": 3e-4, "GRPO, 64 responses": 1e-3,
    },
    "methods": {
        "no asides": ["GRPO", "PPO", "VinePPO, K = 3", "VinePPO, K = 9"],
        "asides": [
            "GRPO", "PPO", "VinePPO, K = 1", "VinePPO, K = 3", "VinePPO, K = 9",
            "GRPO, 64 responses",
        ],
    },
}  # fmt: skip
SIGNS = "+-*="


class WithAsides(Arithmetic):
    """Chains whose demonstrators end every step but the last with so many random signs.

    The reward does not look at them: the answer is still the last digit.
    """

    signs = 0

    @classmethod
    def of(cls, steps: int, signs: int) -> "WithAsides":
        """``horizon(steps)``, with asides of so many signs."""
        task = cls.horizon(steps)
        task.signs = signs
        task.max_new_tokens += signs * (steps - 1)
        return task

    def demonstrations(
        self, n: int, generator: torch.Generator, *, clean: bool = False
    ) -> list[tuple[str, str]]:
        pairs = super().demonstrations(n, generator, clean=clean)
        drawn = torch.randint(len(SIGNS), (n, self.steps[1], self.signs), generator=generator)
        return [
            (prompt, with_asides(response, signs))
            for (prompt, response), signs in zip(pairs, drawn.tolist(), strict=True)
        ]


def with_asides(response: str, signs: list[list[int]]) -> str:
    """Write a row of signs, by number, before each ``;``."""
    *inner, last = response.split(";")
    written = [
        step + "".join(SIGNS[i] for i in row) for step, row in zip(inner, signs, strict=False)
    ]
    return ";".join([*written, last])


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Every arm, without and with asides."""
    torch.set_num_threads(1)
    seed += SETTINGS["first_seed"]
    measures: dict[str, dict[str, Any]] = {"noise": {}, "entropy": {}}
    for setting, signs in SETTINGS["asides"].items():
        task = WithAsides.of(SETTINGS["steps"], signs)
        policy = start(setting, task, seed)
        found, measures["entropy"][setting] = noise(policy, task, seed)
        measures["noise"] |= {f"{setting}, {method}": x for method, x in found.items()}
        for method in SETTINGS["methods"][setting]:
            for measure, value in learn(method, policy, task, seed).items():
                measures.setdefault(measure, {})[f"{setting}, {method}"] = value
    return measures


def start(setting: str, task: Task, seed: int) -> Policy:
    """The model to set out from; with asides it must learn to write them first."""
    policy, ways = load_policy(SETTINGS["start"][setting], device="cpu"), SETTINGS["imitation"]
    if SETTINGS["asides"][setting]:
        pairs = task.demonstrations(ways["texts"], torch.Generator().manual_seed(seed))
        config = SFTConfig(
            steps=ways["steps"], batch_size=ways["batch_size"], seed=seed,
            learning_rate=ways["learning_rate"],
        )  # fmt: skip
        for _ in sft(policy, pairs, config):
            pass
    return policy


def learn(method: str, start: Policy, task: Task, seed: int) -> dict[str, Any]:
    """One arm, from a copy of the start, on a fixed set of the task's problems."""
    policy, generator = copy.deepcopy(start), torch.Generator().manual_seed(1_000 + seed)
    practised = task.fixed(SETTINGS["practised"], generator)
    problems = task.problems(SETTINGS["problems"], generator, split="test")

    def accuracy() -> float:
        draws = torch.Generator().manual_seed(2_000 + seed)
        return evaluate(policy, task, problems=problems, generator=draws).accuracy

    found: dict[str, list[float]] = {"accuracy": [accuracy()], "tokens": [0.0], "seconds": [0.0]}
    spent, before = 0.0, time.process_time()
    for report in updates(method, policy, practised, seed):
        spent += time.process_time() - before
        if report.update in SETTINGS["x"]:
            found["accuracy"].append(accuracy())
            found["tokens"].append(report.samples / 1_000)
            found["seconds"].append(spent)
        before = time.process_time()
    replies = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        max_new_tokens=task.max_new_tokens,
        generator=torch.Generator().manual_seed(3_000 + seed),
    )
    return {**found, "kl": kl_to_reference(policy, start, replies).mean().item()}


def updates(method: str, policy: Policy, task: Task, seed: int) -> Iterator[StepReport]:
    """The loop of a method."""
    name, _, setting = method.partition(", ")
    ways = SETTINGS["shared"] | {
        "updates": max(SETTINGS["x"]), "learning_rate": SETTINGS["rates"][method], "seed": seed,
    }  # fmt: skip
    raw = {"normalise": False}
    if name == "PPO":
        config = PPOConfig(**ways, lam=1.0, value_learning_rate=SETTINGS["value_rate"], **raw)
        return ppo(policy, task, config)
    if name == "VinePPO":
        K = int(setting.removeprefix("K = "))
        return vineppo(policy, task, VinePPOConfig(**ways, value_rollouts=K, **raw))
    if setting:
        prompts = int(setting.removesuffix(" responses")) // ways["rollouts_per_prompt"]
        ways |= {"train_batch_size": prompts, "mini_batch_size": prompts}
    return grpo(policy, task, GRPOConfig(**VARIANTS[name], **ways))


# --- how noisy the gradient is -----------------------------------------------------------------


def noise(policy: Policy, task: Task, seed: int) -> tuple[dict[str, float], float]:
    """E|g - E[g]|² by method, in units of that of "reward less mean"; and the entropy."""
    ways, generator = SETTINGS["noise"], torch.Generator().manual_seed(4_000 + seed)
    batch = gather_experience(
        policy,
        task,
        prompts=ways["prompts"],
        rollouts_per_prompt=ways["samples"],
        temperature=1.0,
        generator=generator,
    )
    found = variances(policy, batch, by_method(policy, task, batch, generator))
    with torch.no_grad():
        _, entropy = response_logprobs_and_entropy(policy.model, batch.responses)
    unit = found["reward less mean"]
    return {name: x / unit for name, x in found.items()}, entropy.sum(dim=1).mean().item()


def by_method(
    policy: Policy, task: Task, batch: Experience, generator: torch.Generator
) -> dict[str, Float[Tensor, "B T"]]:
    """The advantage of each token by every method, not whitened."""
    mask, index = batch.responses.response_mask, steps_of(policy, task, batch)
    states, exists = states_of(batch, index)
    rloo = rloo_advantages(batch.grouped_rewards).flatten()
    found = {
        "reward less mean": (batch.rewards - batch.rewards.mean())[:, None] * mask,
        "RLOO": rloo[:, None] * mask,
    }
    for K in SETTINGS["noise"]["K"]:
        drawn = rollout_values(policy, task, states, rollouts=K, generator=generator).values
        values = drawn.new_zeros(exists.shape).masked_scatter(exists, drawn)
        by_step = step_advantages(values, batch.rewards, exists)
        found[f"VinePPO, K = {K}"] = token_advantages(by_step, index, mask)
    return found


def variances(
    policy: Policy, batch: Experience, advantages: dict[str, Float[Tensor, "B T"]]
) -> dict[str, float]:
    """The variance of the gradient of one group, summed over all parameters."""
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    gradients: dict[str, list[Tensor]] = {name: [] for name in advantages}
    for rows in torch.arange(len(batch.rewards)).split(batch.K):
        logprobs = response_logprobs(policy.model, batch.responses.select(rows), temperature=1.0)
        for name, A in advantages.items():
            total = (A[rows, : logprobs.shape[1]] * logprobs).sum() / batch.K
            parts = torch.autograd.grad(total, weights, retain_graph=True)
            gradients[name].append(torch.cat([part.flatten() for part in parts]))
    return {name: torch.stack(rows).var(dim=0).sum().item() for name, rows in gradients.items()}
