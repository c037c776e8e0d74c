"""Rejection sampling: answer many times, keep what passes, imitate that.

    best-of-n      of n responses, give the best one; the policy stays as it is
    fine-tuning    keep the responses that pass a filter and make them likelier, round after round

With the filter R ∈ {0, 1} the first step of fine-tuning is REINFORCE without a baseline:
E[R ∇log π(y|x)] = ∇J. Every further step on the same responses is off-policy.

What a filter is: a function (batch, generator) → True for the responses to keep. It may look at
prompts, texts and rewards. A response cut at the length limit is never kept, whatever the filter
says: it does not end, and imitation would teach that it does.

Letters: N prompts, K responses of each, B = N·K; n of best-of-n.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.batch import Responses
from rlbook.lm.evaluation import CORRECT
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Problem, Prompt, Task
from rlbook.loop import LoopState
from rlbook.posttrain.experience import Experience, check_same_vocabulary, gather_experience
from rlbook.posttrain.sft import SFTConfig, adamw, sft
from rlbook.report import StepReport

Filter = Callable[[Experience, torch.Generator], Bool[Tensor, " B"]]
Judge = Callable[[Problem, str, torch.Generator], Sequence[bool]]  # as a task's judge_steps
Example = tuple[Prompt, list[int]]  # a prompt, and the tokens of a response

# --- best-of-n -------------------------------------------------------------------------------


def best_of_n(scores: Float[Tensor, " B"], n: int) -> Int[Tensor, " N"]:
    """Row numbers of the best of each n responses that stand next to one another.

    ``responses.select(best_of_n(rewards, n))`` are the chosen ones. Of equally good responses
    the first is taken: a fair choice, since samples come in no order.

    Args:
        scores: of N·n responses, from a verifier, a reward model, or anything else.

    Raises ValueError for n < 1, a number of scores that n does not divide, and NaN (which).

    Book: 15_rejection_sampling. Source: Stiennon et al. (2020).
    """
    _check_scores(scores)
    if n < 1 or len(scores) % n or not len(scores):
        raise ValueError(f"n={n} does not divide {len(scores)} scores into whole groups")
    groups = scores.view(-1, n)
    first = torch.arange(len(groups), device=scores.device) * n
    return first + groups.argmax(dim=1)


def best_of_n_reward(
    scores: Float[Tensor, "N K"], rewards: Tensor | None = None, *, n: int
) -> Float[Tensor, " N"]:
    """What best-of-n earns on each prompt, estimated without bias from K >= n responses.

        Σ_i r_(i) C(i-1, n-1) / C(K, n),    r_(1) ... r_(K) in the order of their scores

    the mean over all subsets of n. With rewards of 0 and 1 as scores it is pass@n. Responses
    with equal scores are chosen equally often.

    Args:
        scores: what the best is chosen by.
        rewards: what it then earns [N, K] (a gold reward, where the scores are a learned one's).
            Default: the scores.

    Raises ValueError for n outside 1 ... K, other shapes, and NaN (which).

    Book: 15_rejection_sampling. Source: Nakano et al. (2021).
    """
    rewards = scores if rewards is None else rewards
    K = scores.shape[1]
    if not 1 <= n <= K or rewards.shape != scores.shape:
        raise ValueError(
            f"n={n} with scores {tuple(scores.shape)} and rewards {tuple(rewards.shape)}: n must "
            "be 1 to K, and the shapes the same [N, K]"
        )
    _check_scores(scores.flatten())
    subsets = [math.comb(i, n) / math.comb(K, n) for i in range(K + 1)]
    subsets = torch.tensor(subsets, dtype=torch.float64).to(scores)
    below = (scores[:, None, :] < scores[:, :, None]).sum(dim=2)
    up_to = (scores[:, None, :] <= scores[:, :, None]).sum(dim=2)
    weights = (subsets[up_to] - subsets[below]) / (up_to - below)  # ties share theirs
    return (weights * rewards).sum(dim=1)


def best_of_n_kl_bound(n: int) -> float:
    """The most that best-of-n can leave the policy it samples from, in nats.

        KL(best-of-n ‖ π) <= log n - (n-1)/n

    With equality where no two responses can have the same score and none has a positive
    probability (a continuum); else it is less, ``lm.exact.best_of_n_logprobs`` says how much.

    Raises ValueError for n < 1.

    Book: 15_rejection_sampling. Source: Beirami et al. (2024).
    """
    if n < 1:
        raise ValueError(f"n={n}: the best of how many? At least 1")
    return math.log(n) - (n - 1) / n


# --- filters ---------------------------------------------------------------------------------


def keep_all(batch: Experience, generator: torch.Generator) -> Bool[Tensor, " B"]:
    """No filter: the policy imitates itself."""
    return torch.ones_like(batch.rewards, dtype=torch.bool)


def keep_correct(batch: Experience, generator: torch.Generator) -> Bool[Tensor, " B"]:
    """Filter by outcome: a reward of at least 1."""
    return batch.rewards >= CORRECT


def keep_judged(judge: Judge) -> Filter:
    """Filter by process: keep responses of which a judge finds every step plausible.

    Args:
        judge: (problem, text, generator) → an opinion of each step, such as ``task.judge_steps``.
            It is not shown the reward.

    Book: 15_rejection_sampling.
    """

    def keep(batch: Experience, generator: torch.Generator) -> Bool[Tensor, " B"]:
        opinions = [
            all(judge(problem, text, generator))
            for problem, text in zip(batch.problems, batch.responses.texts, strict=True)
        ]
        return torch.tensor(opinions, device=batch.rewards.device)

    return keep


def keep_both(first: Filter, second: Filter) -> Filter:
    """Keep what passes both filters."""

    def keep(batch: Experience, generator: torch.Generator) -> Bool[Tensor, " B"]:
        return first(batch, generator) & second(batch, generator)

    return keep


# --- fine-tuning -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RejectionConfig:
    """Settings of rejection-sampling fine-tuning.

    Attributes:
        rounds: of sampling, filtering and fine-tuning.
        train_batch_size: N, prompts per round. rollouts_per_prompt: K, responses to each.
        temperature: of the sampling.
        unique: drop a response that the same prompt has been given before in this round.
        per_prompt: most examples of one prompt in a round, the first of them; None: all.
        most_examples: most examples of a round, drawn at random; None: all.
        training: of the fine-tuning in each round; AdamW begins anew every time, and the seed is
            replaced by one of the round's own.
        seed: of problems, samples, filters and the order of the examples.
    """

    rounds: int = 4
    train_batch_size: int = 256
    rollouts_per_prompt: int = 4
    temperature: float | int = 1.0
    unique: bool = True
    per_prompt: int | None = None
    most_examples: int | None = None
    training: SFTConfig = field(default_factory=lambda: SFTConfig(steps=20))
    seed: int = 0


def rejection_sampling(
    policy: Policy,
    task: Task,
    config: RejectionConfig,
    *,
    keep: Filter = keep_correct,
    start: Policy | None = None,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``policy`` in place on its own responses that pass; yields a report after each round.

        D = { (x, y) : y ~ π(·|x), kept },    then SFT on D

    Metrics. Of the responses, before the fine-tuning: ``reward`` mean; ``truncated`` share of cut
    ones; ``length`` tokens of each; ``kept`` share that passed the filter; ``unique`` share of
    different ones among these; ``solved`` share of the prompts with at least one kept response;
    ``examples`` how many are learnt from. Of the fine-tuning: ``loss``, mean over its steps in
    nats per token. ``samples`` counts generated tokens. A round that keeps nothing leaves the
    policy as it was, with a loss of NaN.

    Args:
        keep: the filter (this module's head says what one is).
        start: every round fine-tunes this policy's weights, as ReST-EM does; they are copied, and
            it stays as it is. None: each round goes on from the one before.
        state: to stop and go on; save the policy's weights beside it, and give ``start`` again.

    Raises:
        ValueError: settings out of range; a filter that does not give one bool per response;
            another vocabulary in ``start``; what the task, the sampler and ``sft`` refuse.

    Book: 15_rejection_sampling. Source: Singh et al. (2024), algorithm 1; Yuan et al. (2023);
    Zelikman et al. (2022), algorithm 1, without its hints.
    """
    _check(config, policy, start)
    state = LoopState() if state is None else state
    # Each round's AdamW is sft's own: this one is what a state needs to have, and never steps.
    state.start(adamw(policy.model, config.training), torch.Generator().manual_seed(config.seed))
    while state.step < config.rounds:
        generator = state.generator
        batch = gather_experience(
            policy,
            task,
            prompts=config.train_batch_size,
            rollouts_per_prompt=config.rollouts_per_prompt,
            temperature=config.temperature,
            generator=generator,
        )
        passed = _passed(keep, batch, generator)
        rows = chosen_rows(
            batch,
            passed,
            unique=config.unique,
            per_prompt=config.per_prompt,
            most=config.most_examples,
            generator=generator,
        )
        seed = int(torch.randint(2**31, (1,), generator=generator))
        training = replace(config.training, seed=seed)
        if start is not None and rows:
            policy.model.load_state_dict(start.model.state_dict())
        learnt = sft(policy, examples(batch, rows), training) if rows else ()
        losses = [report["loss"] for report in learnt]
        metrics = measure(batch, passed) | {"examples": float(len(rows))}
        metrics["loss"] = sum(losses) / len(losses) if losses else math.nan
        state.step += 1
        state.samples += int(batch.responses.response_mask.sum())
        yield StepReport(state.step, state.samples, metrics)


def chosen_rows(
    batch: Experience,
    passed: Bool[Tensor, " B"],
    *,
    unique: bool = True,
    per_prompt: int | None = None,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Which of the responses that passed are learnt from, in the order they were sampled.

    First those go that repeat an earlier response to the same prompt, then what is more than
    ``per_prompt`` responses to a prompt. Of the rest ``most`` are drawn with the generator, if
    there are more: the first ones would be many responses to few prompts.

    Book: 15_rejection_sampling.
    """
    seen: set[tuple[Prompt, str]] = set()
    counts: dict[Prompt, int] = {}
    rows: list[int] = []
    for row in passed.nonzero()[:, 0].tolist():
        prompt = batch.problems[row].prompt
        pair = (prompt, batch.responses.texts[row])
        if (unique and pair in seen) or counts.get(prompt, 0) == per_prompt:
            continue
        seen.add(pair)
        counts[prompt] = counts.get(prompt, 0) + 1
        rows.append(row)
    if most is None or len(rows) <= most:
        return rows
    drawn = torch.randperm(len(rows), generator=generator)[:most]
    return [rows[i] for i in sorted(drawn.tolist())]


def examples(batch: Experience, rows: Sequence[int]) -> list[Example]:
    """Prompts and response tokens of these rows: the very tokens that the policy chose."""
    responses: Responses = batch.responses
    ids, mask = responses.response_ids.cpu(), responses.response_mask.cpu()
    return [(batch.problems[row].prompt, ids[row, mask[row]].tolist()) for row in rows]


def measure(batch: Experience, passed: Bool[Tensor, " B"]) -> dict[str, float]:
    """How the responses of a round are, and what passed."""
    responses = batch.responses
    different = chosen_rows(batch, passed)
    count = int(passed.sum())
    return {
        "reward": batch.rewards.mean().item(),
        "truncated": responses.truncated.float().mean().item(),
        "length": responses.lengths.float().mean().item(),
        "kept": passed.float().mean().item(),
        "unique": len(different) / count if count else math.nan,
        "solved": passed.view(-1, batch.K).any(dim=1).float().mean().item(),
    }


def _passed(keep: Filter, batch: Experience, generator: torch.Generator) -> Bool[Tensor, " B"]:
    """What the filter keeps, once its answer is one bool per response; never a cut response."""
    passed = keep(batch, generator)
    if not isinstance(passed, Tensor) or passed.dtype != torch.bool:
        raise ValueError("the filter must return a tensor of bools: True for what is kept")
    if passed.shape != batch.rewards.shape:
        raise ValueError(
            f"the filter returned shape {tuple(passed.shape)} for {len(batch.rewards)} responses: "
            "one bool for each is needed"
        )
    return passed.to(batch.rewards.device) & ~batch.responses.truncated.to(batch.rewards.device)


def _check(config: RejectionConfig, policy: Policy, start: Policy | None) -> None:
    for name in ("rounds", "train_batch_size", "rollouts_per_prompt"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    for name in ("per_prompt", "most_examples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1, or None for all")
    if start is policy or (start is not None and start.model is policy.model):
        raise ValueError("start is the policy itself, which training changes: load it once more")
    if start is not None:
        check_same_vocabulary(policy, start)


def _check_scores(scores: Float[Tensor, " B"]) -> None:
    if scores.isnan().any():
        i = int(scores.isnan().nonzero()[0, 0])
        raise ValueError(f"scores[{i}] is NaN: which response is the best cannot be said")
