"""What every loop of Part IV begins with: prompts, responses, rewards; and how a batch is cut.

    train batch   N prompts, K responses each           sampled once per update
    mini-batch    some of the prompts, all K of each    one optimiser step
    micro-batch   some of the responses                 one forward and backward pass: memory only

Letters: N prompts, K responses of each, B = N·K, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlbook.functional.kl import kl_k1
from rlbook.lm.batch import Responses, concatenate, micro_batches
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.task import Problem, Task


@dataclass(frozen=True, eq=False)
class Experience:
    """One train batch.

    Attributes:
        problems: one per response [B]: each prompt's K times, next to one another.
        responses: B = N·K. rewards: of the whole responses [B]; a cut one has 0.
        K: responses per prompt.
    """

    problems: list[Problem]
    responses: Responses
    rewards: Float[Tensor, " B"]
    K: int

    @property
    def grouped_rewards(self) -> Float[Tensor, "N K"]:
        """The rewards, one row per prompt."""
        return self.rewards.view(-1, self.K)

    def groups(self, chosen: Int[Tensor, " n"]) -> "Experience":
        """Some of the prompts, by number, each with all its K responses."""
        rows = (chosen.cpu()[:, None] * self.K + torch.arange(self.K)).flatten()
        problems = [self.problems[row] for row in rows.tolist()]
        return Experience(problems, self.responses.select(rows), self.rewards[rows], self.K)


def join(batches: Sequence[Experience]) -> Experience:
    """Several train batches with the same K as one, in their order."""
    if len(batches) == 1:
        return batches[0]
    return Experience(
        [problem for batch in batches for problem in batch.problems],
        concatenate(batch.responses for batch in batches),
        torch.cat([batch.rewards for batch in batches]),
        batches[0].K,
    )


def gather_experience(
    policy: Policy,
    task: Task,
    *,
    prompts: int,
    rollouts_per_prompt: int,
    temperature: float | int,
    generator: torch.Generator,
) -> Experience:
    """Draw problems of the train split, let the policy answer each K times, and reward the answers.

    Raises ValueError for what ``Task.rewards`` and ``sample_responses`` refuse.

    Book: 15_rejection_sampling.
    """
    problems = task.problems(prompts, generator)
    responses = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        samples_per_prompt=rollouts_per_prompt,
        max_new_tokens=task.max_new_tokens,
        temperature=temperature,
        generator=generator,
        stop=task.stop_ids(policy),
    )
    repeated = [problem for problem in problems for _ in range(rollouts_per_prompt)]
    rewards = task.rewards(repeated, responses.texts, truncated=responses.truncated)
    return Experience(repeated, responses, rewards.to(policy.device), rollouts_per_prompt)


def mini_batches(
    prompts: int, rollouts_per_prompt: int, size: int, *, generator: torch.Generator
) -> Iterator[Int[Tensor, " rows"]]:
    """Row numbers of each mini-batch: the prompts shuffled and cut into pieces of ``size``.

    The K responses of a prompt stay together. The last piece may be smaller.

    Book: 18_grpo.
    """
    within = torch.arange(rollouts_per_prompt)
    for chosen in torch.randperm(prompts, generator=generator).split(size):
        yield (chosen[:, None] * rollouts_per_prompt + within).flatten()


def pieces(
    responses: Responses, rows: Int[Tensor, " rows"], *, micro_tokens: int | None
) -> Iterator[tuple[Int[Tensor, " part"], Responses]]:
    """A mini-batch in micro-batches: row numbers in the train batch, and these responses trimmed.

    What belongs to the tokens is then ``x[rows, : part.response_ids.shape[1]]``.
    """
    chosen = responses.select(rows)
    for part in micro_batches(chosen, max_tokens=micro_tokens):
        yield rows[part.cpu()], chosen.select(part)


@torch.no_grad()
def scored(
    model: nn.Module, responses: Responses, *, temperature: float | int, micro_tokens: int | None
) -> Float[Tensor, "B T"]:
    """``response_logprobs`` without gradient, in micro-batches."""
    found = None
    every = torch.arange(len(responses))
    for rows, part in pieces(responses, every, micro_tokens=micro_tokens):
        logprobs = response_logprobs(model, part, temperature=temperature)
        if found is None:
            found = logprobs.new_zeros(responses.response_ids.shape)
        found[rows, : logprobs.shape[1]] = logprobs
    return found


def kl_to_reference(
    policy: Policy, ref: Policy, responses: Responses, *, micro_tokens: int | None = None
) -> Float[Tensor, " B"]:
    """How far each of the policy's own responses (temperature 1) speaks for a drift, in nats.

        Σ_t log π(a_t|s_t) - log π_ref(a_t|s_t)

    Its mean over responses that π drew is an unbiased estimate of KL(π‖π_ref) per response; one
    response's may be negative.

    Book: 16_kl, 17_ppo_gpt2.
    """
    ways = {"temperature": 1.0, "micro_tokens": micro_tokens}
    mine, theirs = (scored(p.model, responses, **ways) for p in (policy, ref))
    return kl_k1(mine, theirs).sum(dim=1)


def check_same_vocabulary(policy: Policy, ref: Policy) -> None:
    """ValueError unless a token means the same to both: their log-probabilities are compared."""
    if ref.vocab_size != policy.vocab_size:
        raise ValueError(
            f"the reference chooses among {ref.vocab_size} tokens, the policy among "
            f"{policy.vocab_size}: both need the same vocabulary"
        )
    if policy.tokenizer is None or ref.tokenizer is None:
        return
    theirs = ref.tokenizer.get_vocab()
    for token, number in policy.tokenizer.get_vocab().items():
        if theirs.get(token) != number:
            raise ValueError(
                f"the token {token!r} is number {number} for the policy and "
                f"{theirs.get(token)} for the reference: both need the same vocabulary"
            )
