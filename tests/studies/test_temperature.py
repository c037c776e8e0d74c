"""What the study of temperatures measures: cut answers have no vote, padding has no entropy."""

import pytest
import torch

from rlbook.lm.logprobs import response_logits
from rlbook.lm.policy import load_policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.studies.temperature import judged


def generator():
    return torch.Generator().manual_seed(3)


def test_an_answer_without_its_end_neither_counts_nor_votes():
    policy, task = load_policy("arithmetic-base"), Arithmetic((2, 2))
    problems = task.problems(6, generator(), split="test")
    whole = judged(policy, task, problems, 1.0, generator())
    assert whole["majority"] == 1.0 and whole["truncated"] == 0.0
    task.max_new_tokens = len("3+5=8;8-4=4.")  # all that matters, and no room for EOS
    cut = judged(policy, task, problems, 1.0, generator())
    assert (cut["truncated"], cut["accuracy"], cut["majority"], cut["pass@16"]) == (1, 0, 0, 0)


def test_the_entropy_is_the_mean_over_the_tokens_that_were_chosen():
    policy, task = load_policy("arithmetic-sft"), Arithmetic((1, 4))
    problems = task.problems(4, generator(), split="test")
    found = judged(policy, task, problems, 1.3, generator())
    responses = sample_responses(
        policy,
        [problem.prompt for problem in problems],
        samples_per_prompt=16,
        max_new_tokens=task.max_new_tokens,
        temperature=1.3,
        generator=generator(),
    )
    assert not responses.response_mask.all()
    log_pi = response_logits(policy.model, responses, temperature=1.3).log_softmax(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)[responses.response_mask].mean()
    assert found["entropy"] == pytest.approx(entropy.item(), rel=1e-4)
