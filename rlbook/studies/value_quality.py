"""Value estimates beside the truth: how wrong a value network is, and how wrong a few rollouts are.

PPO (a separate value network, λ = 1) trains `arithmetic-sft` on chains of eight steps. At the
updates `x` it pauses, and states are valued by three ways, which all mean the policy of that
moment:

    truth            the mean reward of 256 rollouts
    critic           PPO's value network, at the state's first token
    critic, fitted   at update 10 alone: a copy of it, taught further on 1024 fresh responses
    MC, K = 1, 3, 9  the mean reward of K rollouts that are not among the truth's

Accuracy: the states are those before each step of fresh responses to practised problems.
`error` is the mean of |estimate - truth| over them, and `error_by_depth` that before each step 0
... 7 (a list for each update of `x`). The truth is an estimate too: the arm "truth" has what its
own error E|mean - V| is about, √(2/π · V(1 - V)/256), which the other arms contain. The arm
"mean" is what predicting one number for all states would give: the mean of their truths. `bias`
is the mean of estimate - truth, and `mse` the mean of (estimate - truth)² less the truth's
variance, so it is unbiased; its arm "K = 1, 3, 9" entries should be the mean of V(1 - V)/K, whose
numerator is in `variance`, arm "V(1 - V)". `value` is the mean truth before each step.

Ranking: from such a state (not before the last step) the policy draws `draws` next steps. A state
with at least three distinct ones is kept, until `ranked` of them are there; at most `most` of its
next steps, in the order in which they were drawn, lead to as many states, which are valued. Of
every pair of these: `agreement` is the share that an estimate orders as the truth does. A tie of
the estimate counts half (the paper counts it as wrong), so a coin has 0.5; `ties` is the share of
such pairs, and `agreement` less half of `ties` is the paper's count. Pairs whose truths are
closer than three standard errors of their difference are left apart: `pairs` counts those
"ordered" by the truth and those "tied", and `searched` the states that were asked for next steps.
"""

import copy
import itertools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlbook.functional.masked import aggregate
from rlbook.functional.value_losses import squared_loss
from rlbook.lm.batch import responses_from_texts
from rlbook.lm.heads import ScalarModel, token_values
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Task
from rlbook.loop import optimiser_step
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.ppo import PPOConfig, ppo
from rlbook.posttrain.step_values import State, rollout_values, states_of, steps_of

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "model": "arithmetic-sft",
    "steps": 8,
    "practised": 256,
    "x": [5, 10, 20, 40],
    "ppo": {
        "train_batch_size": 16, "rollouts_per_prompt": 8, "mini_batch_size": 16, "epochs": 1,
        "learning_rate": 1e-3, "value_learning_rate": 2e-3, "lam": 1.0,
    },
    "truth": 256,
    "K": [1, 3, 9],
    "responses": 5,
    "draws": 64,
    "ranked": 8,
    "most": 5,
    "apart": 3.0,
    "fit": {
        "at": 10, "prompts": 128, "samples": 8, "epochs": 8, "rows": 128, "learning_rate": 1e-3,
    },
}  # fmt: skip


class Estimates(NamedTuple):
    """Values of the same states by every way, and the variance of the first, all [n]."""

    truth: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]
    others: dict[str, Float[Tensor, " n"]]


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train once, and look at the values now and then."""
    torch.set_num_threads(1)
    policy = load_policy(SETTINGS["model"], device="cpu")
    generator = torch.Generator().manual_seed(1_000 + seed)
    task = Arithmetic.horizon(SETTINGS["steps"]).fixed(SETTINGS["practised"], generator)
    value_model = ScalarModel(policy, init="zero")
    config = PPOConfig(updates=max(SETTINGS["x"]), seed=seed, **SETTINGS["ppo"])
    measures: dict[str, dict[str, Any]] = {}
    for report in ppo(policy, task, config, value_model=value_model):
        if report.update in SETTINGS["x"]:
            critics = {"critic": value_model}
            if report.update == SETTINGS["fit"]["at"]:
                critics["critic, fitted"] = fitted(policy, value_model, task, generator)
            found = accuracy(policy, critics, task, generator)
            for measure, arms in (found | ranking(policy, critics, task, generator)).items():
                for arm, value in arms.items():
                    measures.setdefault(measure, {}).setdefault(arm, []).append(value)
    return measures


def fitted(
    policy: Policy, value_model: ScalarModel, task: Task, generator: torch.Generator
) -> ScalarModel:
    """A copy of the value network that has had more to learn from, while the policy stood still."""
    model, ways = copy.deepcopy(value_model), SETTINGS["fit"]
    batch = gather_experience(
        policy,
        task,
        prompts=ways["prompts"],
        rollouts_per_prompt=ways["samples"],
        temperature=1.0,
        generator=generator,
    )
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=ways["learning_rate"], weight_decay=0.0, fused=True
    )
    for _ in range(ways["epochs"]):
        shuffled = torch.randperm(len(batch.rewards), generator=generator)
        for rows in shuffled.split(ways["rows"]):
            part = batch.responses.select(rows)
            values = token_values(model, part)
            loss = squared_loss(values, batch.rewards[rows, None].expand_as(values))
            loss = aggregate(loss, part.response_mask, "token-mean")
            optimiser_step(optimiser, loss, max_grad_norm=1.0)
    return model


# --- how far off -----------------------------------------------------------------------------


def accuracy(
    policy: Policy, critics: dict[str, ScalarModel], task: Task, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """The measures of accuracy, of one moment."""
    states, depth = drawn_states(policy, task, generator)
    found = estimated(policy, critics, task, states, generator)
    truth, spread = found.truth, found.truth * (1 - found.truth)
    differences = {name: values - truth for name, values in found.others.items()}
    errors = {name: x.abs() for name, x in differences.items()}
    errors["mean"] = (truth - truth.mean()).abs()
    errors["truth"] = (2 / math.pi * found.variance).sqrt()
    return {
        "error": {name: x.mean().item() for name, x in errors.items()},
        "error_by_depth": {name: by_depth(x, depth) for name, x in errors.items()},
        "bias": {name: x.mean().item() for name, x in differences.items()},
        "mse": {
            name: (x.square() - found.variance).mean().item() for name, x in differences.items()
        },
        "variance": {"V(1 - V)": spread.mean().item() + found.variance.mean().item()},
        "value": {"truth": by_depth(truth, depth)},
    }


def drawn_states(
    policy: Policy, task: Task, generator: torch.Generator
) -> tuple[list[State], Int[Tensor, " n"]]:
    """The states along fresh responses, and which step each of them stands before.

    A response may go on beyond the chain: its further states are left out.
    """
    batch = gather_experience(
        policy,
        task,
        prompts=SETTINGS["responses"],
        rollouts_per_prompt=1,
        temperature=1.0,
        generator=generator,
    )
    states, exists = states_of(batch, steps_of(policy, task, batch))
    depth = exists.nonzero()[:, 1]
    within = depth < SETTINGS["steps"]
    kept = [state for state, keep in zip(states, within.tolist(), strict=True) if keep]
    return kept, depth[within]


def estimated(
    policy: Policy,
    critics: dict[str, ScalarModel],
    task: Task,
    states: list[State],
    generator: torch.Generator,
) -> Estimates:
    """Value states by the truth and by all that is compared with it."""

    def rolled_out(rollouts: int) -> Float[Tensor, " n"]:
        found = rollout_values(policy, task, states, rollouts=rollouts, generator=generator)
        return found.values

    truth = rolled_out(SETTINGS["truth"])
    others = {name: critic_values(policy, model, states) for name, model in critics.items()}
    others |= {f"MC, K = {K}": rolled_out(K) for K in SETTINGS["K"]}
    return Estimates(truth, truth * (1 - truth) / (SETTINGS["truth"] - 1), others)


@torch.no_grad()
def critic_values(
    policy: Policy, value_model: ScalarModel, states: list[State]
) -> Float[Tensor, " n"]:
    """What the value network predicts for states: the value before the token that comes next.

    Which token that is does not matter, since it is not read: here it is EOS.
    """
    responses = responses_from_texts(
        policy, [state.prompt for state in states], [state.written for state in states]
    )
    return token_values(value_model, responses).gather(1, responses.lengths[:, None] - 1)[:, 0]


def by_depth(x: Float[Tensor, " n"], depth: Int[Tensor, " n"]) -> list[float]:
    """The mean over the states before each step."""
    return [x[depth == step].mean().item() for step in range(SETTINGS["steps"])]


# --- which is better -------------------------------------------------------------------------


def ranking(
    policy: Policy, critics: dict[str, ScalarModel], task: Task, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """The measures of ranking, of one moment."""
    groups: list[list[State]] = []
    searched = 0
    while len(groups) < SETTINGS["ranked"]:
        states, depth = drawn_states(policy, task, generator)
        inner = (depth < SETTINGS["steps"] - 1).tolist()
        parents = [state for state, keep in zip(states, inner, strict=True) if keep]
        groups += next_states(policy, task, parents, generator)
        searched += len(parents)
    groups = groups[: SETTINGS["ranked"]]
    states = [state for group in groups for state in group]
    found = estimated(policy, critics, task, states, generator)
    pairs = pairs_within([len(group) for group in groups])
    ordered = ordered_by(found.truth, found.variance, pairs)
    signs = {
        name: agreement_signs(values, found.truth, pairs[ordered])
        for name, values in found.others.items()
    }
    return {
        "agreement": {name: (x.mean().item() + 1) / 2 for name, x in signs.items()},
        "ties": {name: (x == 0).float().mean().item() for name, x in signs.items()},
        "pairs": {"ordered": int(ordered.sum()), "tied": int((~ordered).sum())},
        "searched": {"states": searched},
    }


def next_states(
    policy: Policy, task: Task, parents: list[State], generator: torch.Generator
) -> list[list[State]]:
    """For each state with at least three distinct next steps, where these lead."""
    (end,) = policy.encode([";"])[0]
    responses = sample_responses(
        policy,
        [state.prompt + state.written for state in parents],
        samples_per_prompt=SETTINGS["draws"],
        max_new_tokens=6,
        generator=generator,
        stop=[end],
    )
    rows = zip(responses.response_ids.tolist(), responses.lengths.tolist(), strict=True)
    steps = [tuple(ids[:length]) for ids, length in rows]
    groups = []
    for i, parent in enumerate(parents):
        drawn = steps[i * SETTINGS["draws"] : (i + 1) * SETTINGS["draws"]]
        room = task.max_new_tokens - len(parent.written)
        whole = dict.fromkeys(step for step in drawn if step[-1] == end and len(step) < room)
        if len(whole) >= 3:
            written = [parent.written + step for step in list(whole)[: SETTINGS["most"]]]
            groups.append([State(parent.problem, parent.prompt, text) for text in written])
    return groups


def pairs_within(sizes: list[int]) -> Int[Tensor, "pairs 2"]:
    """All pairs of numbers that belong to the same group; groups are numbered through."""
    found, start = [], 0
    for size in sizes:
        found += itertools.combinations(range(start, start + size), 2)
        start += size
    return torch.tensor(found)


def ordered_by(
    truth: Float[Tensor, " n"], variance: Float[Tensor, " n"], pairs: Int[Tensor, "pairs 2"]
) -> Tensor:
    """Which pairs the truth can tell apart."""
    gap = (truth[pairs[:, 0]] - truth[pairs[:, 1]]).abs()
    return gap > SETTINGS["apart"] * variance[pairs].sum(dim=1).sqrt()


def agreement_signs(
    values: Float[Tensor, " n"], truth: Float[Tensor, " n"], pairs: Int[Tensor, "pairs 2"]
) -> Float[Tensor, " pairs"]:
    """1 for a pair in the truth's order, -1 for the other, 0 for a tie of the estimate."""
    ours, theirs = (x[pairs[:, 0]] - x[pairs[:, 1]] for x in (values, truth))
    return ours.sign() * theirs.sign()
