"""Temperature against accuracy, pass@16 and majority vote, before and after biased demonstrations.

The same held-out problems at every temperature, 16 samples of each, by the base model (clean
text) and by its imitator of biased demonstrators. `accuracy` is the share of right responses,
`pass@16` that of problems with at least one right response, `majority` the accuracy of the
commonest answer, `entropy` the mean entropy in nats of the distributions that tokens were drawn
from, `truncated` the share of responses cut at the task's limit (they count as wrong). At
temperature 0 all samples of a problem are equal, so that one is drawn and the first three are
the same number.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rlbook.lm.evaluation import majority_vote, pass_at_k
from rlbook.lm.logprobs import response_logprobs_and_entropy
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.task import Problem, Task

SEEDS = 8
SETTINGS: dict[str, Any] = {
    "models": ["arithmetic-base", "arithmetic-sft"],
    "problems": 128,
    "samples": 16,
    "x": [0.0, 0.3, 0.6, 1.0, 1.3, 1.6, 2.0],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Answer one draw of problems with both models at every temperature."""
    torch.set_num_threads(1)
    task = Arithmetic()
    generator = torch.Generator().manual_seed(seed)
    problems = task.problems(SETTINGS["problems"], generator, split="test")
    measures: dict[str, dict[str, Any]] = {}
    for name in SETTINGS["models"]:
        policy = load_policy(name, device="cpu")
        for temperature in SETTINGS["x"]:
            found = judged(policy, task, problems, temperature, generator)
            for measure, value in found.items():
                measures.setdefault(measure, {}).setdefault(name, []).append(value)
    return measures


def judged(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    temperature: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """What one model's samples at one temperature show."""
    N, K = len(problems), SETTINGS["samples"] if temperature else 1
    responses = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        samples_per_prompt=K,
        max_new_tokens=task.max_new_tokens,
        temperature=temperature,
        generator=generator,
    )
    repeated = [problem for problem in problems for _ in range(K)]
    rewards = task.rewards(repeated, responses.texts, truncated=responses.truncated)
    correct = (rewards == 1.0).view(N, K)
    cut = responses.truncated.tolist()
    answers = [
        "" if end else task.extract_answer(t) for t, end in zip(responses.texts, cut, strict=True)
    ]
    votes = [majority_vote(answers[n * K : (n + 1) * K], correct[n].tolist()) for n in range(N)]
    entropy = 0.0
    if temperature:
        with torch.no_grad():
            entropies = response_logprobs_and_entropy(
                policy.model, responses, temperature=temperature
            )[1]
        entropy = float(entropies.sum() / responses.response_mask.sum())
    return {
        "accuracy": float(correct.float().mean()),
        "pass@16": sum(pass_at_k(K, c, K) for c in correct.sum(dim=1).tolist()) / N,
        "majority": sum(votes) / N,
        "entropy": entropy,
        "truncated": sum(cut) / len(cut),
    }
