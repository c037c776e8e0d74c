"""How good a policy is at a task: accuracy, pass@k, majority vote, win rate.

Three questions about the same K samples of a problem:

    accuracy        is one sample right?                          what training raises
    pass@k          is at least one of k samples right?           what the policy *can* do
    majority vote   is the commonest answer of them right?        what is left after averaging

pass@k far above accuracy: the policy knows, and does not choose what it knows. A vote no better
than accuracy: its mistakes agree with each other, and no averaging removes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.lm.batch import Responses
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.task import Problem, Task

CORRECT = 1.0  # the reward from which on a response counts as right
NORMAL_95 = 1.96  # 95% of a normal distribution lie within so many standard deviations


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What K samples to each of N problems showed.

    Attributes:
        accuracy: share of the responses whose reward is at least 1.
        standard_error: of the accuracy, over the draw of problems and samples. The K samples of a
            problem are not independent of one another, so problems are what is counted. NaN for
            a single problem.
        mean_reward: the mean of all rewards: the accuracy, where they are 0 or 1.
        truncated: share of the responses cut at the task's limit; they count as wrong, reward 0.
        mean_length: tokens per response, EOS included.
        pass_at: pass@k for each k asked for.
        majority: accuracy of the commonest of K answers (``majority_vote``).
        greedy: True where the likeliest token was taken each time, at temperature 0.
        rewards: [N, K]. texts: the responses, K for each problem. problems: N.
    """

    accuracy: float
    standard_error: float
    mean_reward: float
    truncated: float
    mean_length: float
    pass_at: dict[int, float]
    majority: float
    greedy: bool
    rewards: Float[Tensor, "N K"] = field(repr=False)
    texts: list[list[str]] = field(repr=False)
    problems: list[Problem] = field(repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy: Wilson's, for as many independent samples as would have
        this standard error (N of them, where all responses are right or all are wrong)."""
        p, se, N = self.accuracy, self.standard_error, len(self.problems)
        return wilson_interval(p, p * (1 - p) / se**2 if se > 0 else N)


def evaluate(
    policy: Policy,
    task: Task,
    *,
    problems: int | Sequence[Problem] = 256,
    samples_per_prompt: int = 1,
    temperature: float | int = 1.0,
    ks: Sequence[int] = (),
    generator: torch.Generator,
    split: str = "test",
    max_rows: int = 1024,
) -> Evaluation:
    """Let a policy answer problems of a task, and count.

        evaluate(policy, task, generator=generator)                        one sample each
        evaluate(policy, task, temperature=0, generator=generator)         greedy
        evaluate(policy, task, samples_per_prompt=16, ks=(1, 4, 16), generator=generator)

    Args:
        problems: how many to draw from ``split``, or the problems themselves.
        samples_per_prompt: K.
        temperature: 0 is greedy, and K must be 1 then.
        ks: the k for which pass@k is wanted, at most K each.
        generator: draws the problems, then the samples.
        max_rows: responses sampled at once, which bounds the memory; the seed's result depends
            on it.

    Raises:
        ValueError: no problems; several greedy samples, which would be the same; a k above K; what
            the task or ``sample_responses`` refuses.

    Book: 11_generation.
    """
    K = samples_per_prompt
    if temperature == 0 and K != 1:
        raise ValueError(f"samples_per_prompt={K}: greedy samples are all the same, take 1")
    for k in ks:
        _check_k(K, k)
    if isinstance(problems, int):
        problems = task.problems(problems, generator, split=split)
    if not problems:
        raise ValueError("there is nothing to evaluate: give at least one problem")
    at_once = max(max_rows // K, 1)
    answers = [
        sample_responses(
            policy,
            [problem.prompt for problem in problems[first : first + at_once]],
            samples_per_prompt=K,
            max_new_tokens=task.max_new_tokens,
            temperature=float(temperature),
            generator=generator,
            stop=task.stop_ids(policy),
        )
        for first in range(0, len(problems), at_once)
    ]
    return _summary(task, list(problems), answers, K, ks, greedy=temperature == 0)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples is right, from n samples of which c are.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - Π_{i = n-c+1}^{n} (1 - k/i)

    Unbiased: the share of right ones among all C(n, k) choices of k samples. (1 - (1 - c/n)^k is
    too low.) The product has no large numbers in it.

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.

    Book: 11_generation. Source: Chen et al. (2021), equation 1.
    """
    _check_k(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c={c} right samples of n={n}: c must lie in 0 ... n")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def majority_vote(answers: Sequence[str], correct: Sequence[bool]) -> float:
    """Whether the commonest answer is right: 1 or 0, and in between where several are commonest.

    A tie is broken by lot, and the chance of a right answer returned. An empty answer (nothing
    could be read out of the response) has no vote; with no vote at all the result is 0.

    Args:
        answers: K answers to one problem, such as ``task.extract_answer`` reads them.
        correct: whether each is right. (Where equal answers are judged differently, their share
            of right ones counts.)

    Raises ValueError if the two differ in length.

    Book: 11_generation. Source: Wang et al. (2023), "Self-Consistency", section 2.
    """
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers, but {len(correct)} judgements: give one each")
    votes: dict[str, list[float]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer:
            votes.setdefault(answer, []).append(float(right))
    most = max(map(len, votes.values()), default=0)
    winners = [np.mean(rights) for rights in votes.values() if len(rights) == most]
    return float(np.mean(winners)) if winners else 0.0


def win_rate(scores: Float[Tensor, " B"], other_scores: Float[Tensor, " B"]) -> float:
    """How often the first of two replies to a prompt scores higher; a tie counts as one half.

        win rate = mean( [s > s'] + ½ [s = s'] )

    So it is ½ against oneself, and the two sides' win rates add up to 1.

    Raises ValueError for scores that differ in number, are none, or are not finite.

    Book: 14_reward_model, 19_dpo.
    """
    if scores.shape != other_scores.shape or not scores.numel():
        raise ValueError(
            f"{scores.numel()} scores against {other_scores.numel()}: give as many, at least one"
        )
    if not (scores.isfinite().all() and other_scores.isfinite().all()):
        raise ValueError("some scores are not finite, so nobody can say which is higher")
    won = (scores > other_scores).double() + 0.5 * (scores == other_scores).double()
    return won.mean().item()


def wilson_interval(p: float, n: float | int) -> tuple[float, float]:
    """95% interval of a probability that n independent trials showed as p; within [0, 1].

        ( p + z²/2n ± z √( p(1-p)/n + z²/4n² ) ) / (1 + z²/n),    z = 1.96

    At p = 0 and 1 it keeps a width, where p ± z·se has none.

    Book: 11_generation. Source: Wilson (1927).
    """
    z = NORMAL_95
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def _summary(
    task: Task,
    problems: list[Problem],
    answers: list[Responses],
    K: int,
    ks: Sequence[int],
    *,
    greedy: bool,
) -> Evaluation:
    N = len(problems)
    texts = [text for responses in answers for text in responses.texts]
    truncated = torch.cat([responses.truncated for responses in answers]).cpu()
    lengths = torch.cat([responses.lengths for responses in answers]).cpu().double()
    repeated = [problem for problem in problems for _ in range(K)]
    rewards = task.rewards(repeated, texts, truncated=truncated).view(N, K)
    correct = rewards >= CORRECT
    extracted = [
        "" if cut else task.extract_answer(text)
        for text, cut in zip(texts, truncated.tolist(), strict=True)
    ]
    rows = [slice(n * K, (n + 1) * K) for n in range(N)]
    votes = [majority_vote(extracted[row], correct[n].tolist()) for n, row in enumerate(rows)]
    counts = correct.sum(dim=1).tolist()
    shares = correct.double().mean(dim=1)
    return Evaluation(
        accuracy=shares.mean().item(),
        standard_error=float(shares.std()) / N**0.5 if N > 1 else float("nan"),
        mean_reward=rewards.double().mean().item(),
        truncated=truncated.double().mean().item(),
        mean_length=lengths.mean().item(),
        pass_at={k: float(np.mean([pass_at_k(K, c, k) for c in counts])) for k in ks},
        majority=float(np.mean(votes)),
        greedy=greedy,
        rewards=rewards,
        texts=[texts[row] for row in rows],
        problems=problems,
    )


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 to n samples, and there are n={n}")
