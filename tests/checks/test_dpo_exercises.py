"""Chapter 19's exercises: first cases by hand, references against the package and autograd."""

import numpy as np
import pytest
import torch

from rlbook.checks.dpo import EXERCISES
from rlbook.checks.harness import RIGHT, SEED, judge
from rlbook.functional.preference_losses import dpo_loss, kto_loss

BY_HAND = {
    "implicit_rewards": [0.5 * np.log(6.0)],
    "dpo_losses": [-np.log(0.75)],
    "train_on_pairs": [[0.5, 0.5]],
    "answer_slopes": [0.0, -1.0, 1.0],
    "kto_losses": [0.25, 0.75],
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]), float)
    np.testing.assert_allclose(found, np.asarray(BY_HAND[name], float), atol=1e-12)


def test_a_fifth_of_flipped_labels_by_hand() -> None:
    found = EXERCISES["dpo_losses"].reference(**cases("dpo_losses")[1])
    np.testing.assert_allclose(found, [-0.8 * np.log(0.75) - 0.2 * np.log(0.25)], atol=1e-12)


def by_probabilities(logprobs, ref_logprobs, mask, beta):
    """The ratio of two products, token by token."""
    found = []
    for own, base, real in zip(logprobs, ref_logprobs, mask, strict=True):
        ratio = 1.0
        for t in np.nonzero(real)[0]:
            ratio *= np.exp(own[t]) / np.exp(base[t])
        found.append(beta * np.log(ratio))
    return found


def by_package(chosen, rejected, ref_chosen, ref_rejected, beta, smoothing):
    rows = map(torch.tensor, (chosen, rejected, ref_chosen, ref_rejected))
    return dpo_loss(*rows, beta=beta, label_smoothing=smoothing).numpy()


def by_autograd(ref_logits, prompts, chosen, rejected, beta, rate, steps):
    """SGD on the package's loss of log-softmaxes."""
    ref = torch.tensor(ref_logits).log_softmax(1)
    logits = torch.tensor(ref_logits, requires_grad=True)
    for _ in range(steps):
        own = logits.log_softmax(1)
        rows = (x[prompts, y] for x in (own, ref) for y in (chosen, rejected))
        loss = dpo_loss(*rows, beta=beta).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - rate * gradient).detach().requires_grad_()
    return logits.detach().numpy()


def by_jacobian(unembedding, hidden, chosen, rejected):
    """The Jacobian of all log π, along the gradient of the margin."""
    W, h = torch.tensor(unembedding), torch.tensor(hidden)
    J = torch.autograd.functional.jacobian(lambda x: (W @ x).log_softmax(0), h)
    return (J @ (J[chosen] - J[rejected])).numpy()


def by_kto(logprobs, ref_logprobs, desirable, beta, reference_point):
    rows = map(torch.tensor, (logprobs, ref_logprobs, desirable))
    return kto_loss(*rows, beta=beta, reference_point=reference_point).numpy()


BY_PACKAGE = {
    "implicit_rewards": by_probabilities,
    "dpo_losses": by_package,
    "train_on_pairs": by_autograd,
    "answer_slopes": by_jacobian,
    "kto_losses": by_kto,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    for case in cases(name):
        found = np.asarray(EXERCISES[name].reference(**case), float)
        other = np.asarray(BY_PACKAGE[name](**case), float)
        np.testing.assert_allclose(found, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", EXERCISES)
def test_other_ways_of_writing_it_are_right(name: str) -> None:
    def answer(**case):
        return np.asarray(BY_PACKAGE[name](**case), float)

    assert judge("x", EXERCISES[name], answer).status == RIGHT


def test_the_broken_loop_of_the_chapter_is_recognised() -> None:
    def broken(ref_logits, prompts, chosen, rejected, beta, rate, steps):
        ref = logits = ref_logits.copy()  # two names of one array
        for _ in range(steps):
            own, base = (x[prompts, chosen] - x[prompts, rejected] for x in (logits, ref))
            weight = beta / (1 + np.exp(beta * (own - base))) / len(prompts)
            np.add.at(logits, (prompts, chosen), rate * weight)
            np.add.at(logits, (prompts, rejected), -rate * weight)
        return logits

    result = judge("x", EXERCISES["train_on_pairs"], broken)
    assert "a reference that moves along" in result.message
