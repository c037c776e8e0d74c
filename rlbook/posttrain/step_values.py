"""What the states along a response are worth: roll each one out afresh, and look.

    V̂(s) = 1/K Σ_k R(s, continuation k),    continuations drawn from the policy itself

A state is a text up to the beginning of a step. Equal states, of whatever responses, are valued
once: the samples of one prompt share all its beginnings. What the model remembers of a text is
computed once and handed to its K continuations; and the states of one response, each of which
begins with the one before it, are read in one pass over the longest (rlbook.lm.decoding).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.decoding import prefilled_tokens
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.steps import step_index
from rlbook.lm.tasks.task import Problem, Task
from rlbook.posttrain.experience import Experience


@dataclass(frozen=True)
class State:
    """A problem, its prompt as the policy reads it, and what has been written so far, as tokens."""

    problem: Problem
    prompt: tuple[int, ...]
    written: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class RolloutValues:
    """Values of states, and what they cost.

    Attributes:
        values: V̂ of each state asked for.
        distinct: states that were rolled out. generated, prefilled: tokens drawn, and tokens of
            the states read; of states that begin with one another the longest alone.
    """

    values: Float[Tensor, " n"]
    distinct: int
    generated: int
    prefilled: int


def rollout_values(
    policy: Policy,
    task: Task,
    states: Sequence[State],
    *,
    rollouts: int,
    generator: torch.Generator,
    temperature: float | int = 1.0,
    most_rows: int = 2048,
) -> RolloutValues:
    """Monte Carlo values of states, each the mean reward of ``rollouts`` fresh continuations.

    For a policy that samples at this temperature the estimate is unbiased; with rewards of 0 and
    1 its variance is V(1 - V)/K. A continuation may use the tokens that the task's limit leaves;
    one that is cut there earns 0, as the whole response would.

    Args:
        states: repeated ones are rolled out once and share the estimate.
        rollouts: K.
        most_rows: continuations drawn at a time; more need more memory, and are faster up to a
            point. Longer states come first; a state that another one begins with is read once
            more where the portion ends between the two.

    Raises:
        ValueError: K < 1; no states; a state that has used up the task's limit; what the sampler
            and the task refuse.

    Book: 20_vineppo. Source: Kazemnejad et al. (2024), section 4.
    """
    if rollouts < 1:
        raise ValueError(f"rollouts={rollouts}: a value needs at least one")
    left = {state: task.max_new_tokens - len(state.written) for state in states}
    distinct = sorted(left, key=left.__getitem__)  # those of one length side by side
    if distinct and left[distinct[0]] < 1:
        raise ValueError(
            f"a state has {len(distinct[0].written)} tokens already, and the task's limit is "
            f"{task.max_new_tokens}: a response cannot go on from there"
        )
    values: dict[State, Tensor] = {}
    generated = prefilled = 0
    size = max(most_rows // rollouts, 1)
    for start in range(0, max(len(distinct), 1), size):
        part = distinct[start : start + size]
        prompts = [state.prompt + state.written for state in part]
        responses = sample_responses(
            policy,
            prompts,
            samples_per_prompt=rollouts,
            max_new_tokens=[left[state] for state in part],
            temperature=temperature,
            generator=generator,
            stop=task.stop_ids(policy),
        )
        generated += int(responses.response_mask.sum())
        prefilled += prefilled_tokens(policy.model, prompts)
        repeated = [state for state in part for _ in range(rollouts)]
        lengths = responses.lengths.tolist()
        texts = [
            policy.decode((*state.written, *tokens[:length]))
            for state, tokens, length in zip(
                repeated, responses.response_ids.tolist(), lengths, strict=True
            )
        ]
        rewards = task.rewards(
            [state.problem for state in repeated], texts, truncated=responses.truncated
        )
        values |= zip(part, rewards.view(-1, rollouts).mean(dim=1), strict=True)
    found = torch.stack([values[state] for state in states]).to(policy.device)
    return RolloutValues(found, len(distinct), generated, prefilled)


def states_of(
    batch: Experience, index: Int[Tensor, "B T"]
) -> tuple[list[State], Bool[Tensor, "B S"]]:
    """The state before each step of each response, row after row; and which steps exist.

    Args:
        index: the step of each token, from ``step_index``.

    Book: 20_vineppo.
    """
    responses, states = batch.responses, []
    prompts = [
        tuple(ids[mask].tolist())
        for ids, mask in zip(responses.prompt_ids, responses.prompt_mask, strict=True)
    ]
    ids, lengths = responses.response_ids.tolist(), responses.lengths.tolist()
    for row, steps in enumerate(index.tolist()):
        own = steps[: lengths[row]]
        for step in range(own[-1] + 1):
            written = tuple(ids[row][: own.index(step)])
            states.append(State(batch.problems[row], prompts[row], written))
    counts = index.max(dim=1).values + 1
    every = torch.arange(int(counts.max()), device=index.device)
    return states, every < counts[:, None]


def steps_of(
    policy: Policy, task: Task, batch: Experience, *, most: int | None = None
) -> Int[Tensor, "B T"]:
    """The step of each token, by the task's boundaries; -1 where there is no token.

    Args:
        most: no response has more steps than this: neighbouring ones are joined, evenly.

    Raises ValueError for most < 1, and as ``step_index``.

    Book: 20_vineppo.
    """
    index = step_index(batch.responses, policy.decode, task.step_boundaries)
    if most is None:
        return index
    if most < 1:
        raise ValueError(f"most={most}: a response has at least one step")
    counts = (index.max(dim=1, keepdim=True).values + 1).clamp(min=most)
    joined = torch.div(index * most, counts, rounding_mode="floor")
    return torch.where(counts > most, joined, index).masked_fill(index < 0, -1)
