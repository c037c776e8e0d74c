"""The exercises of appendix A1: PyTorch, over small tensors.

All numbers are 32-bit, as in training, so answers may differ by rounding (``FLOAT32``).
"""

import numpy as np
import torch

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.functional.masked import masked_mean
from rlbook.functional.policy_losses import action_logprobs


def mean_squared_error(predictions, targets):
    """The mean squared error, one number, of predictions [B, 1] against targets [B]."""
    return (predictions.squeeze(-1) - targets).square().mean()


def td_gradient(w, x, rewards, next_x, gamma):
    """Gradient [F] of mean (x·w - target)² with respect to w; the target is held constant."""
    w = w.clone().requires_grad_()
    with torch.no_grad():
        target = rewards + gamma * (next_x @ w)
    loss = (x @ w - target).square().mean()
    loss.backward()
    return w.grad


def adam_step(w, grad, m, v, step, lr, beta1, beta2, eps):
    """One step of Adam; step counts from 1. Returns the new (w, m, v)."""
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad.square()
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    return w - lr * m_hat / (v_hat.sqrt() + eps), m, v


# --- cases -----------------------------------------------------------------------------------


def _halves(rng, *shape):
    return torch.tensor(random_halves(rng, shape), dtype=torch.float32)


def _error_cases(rng):
    # Errors 1 - 1 = 0 and 3 - 5 = -2: (0 + 4) / 2 = 2
    hand = {"predictions": torch.tensor([[1.0], [3.0]]), "targets": torch.tensor([1.0, 5.0])}
    return [hand] + [
        {"predictions": _halves(rng, B, 1), "targets": _halves(rng, B)} for B in [3, 4, 2, 5, 8]
    ]


def _choice_cases(rng):
    # Odds 1 : 1 : 2, so the chances are 1/4, 1/4, 1/2. In row 1 all odds are equal: 1/3.
    logits = torch.tensor([[0.0, 0.0, np.log(2.0)], [5.0, 5.0, 5.0]])
    cases = [{"logits": logits, "actions": torch.tensor([2, 0])}]
    for shape, V in [((3,), 4), ((4,), 2), ((3,), 5), ((2, 3), 4)]:
        logits = _halves(rng, *shape, V)
        cases.append({"logits": logits, "actions": torch.tensor(rng.integers(V, size=shape))})
    for V in (3, 4):  # the likeliest and the least likely action, hundreds of nats apart
        logits = 300 * _halves(rng, 2, V)
        actions = torch.stack([logits[0].argmax(), logits[1].argmin()])
        cases.append({"logits": logits, "actions": actions})
    return cases


def _masked_cases(rng):
    # Row 0 counts 1 and 3, row 1 counts 8: (1 + 3 + 8) / 3 = 4. The other cell is junk.
    x = torch.tensor([[1.0, 3.0], [torch.nan, 8.0]])
    cases = [{"x": x, "mask": torch.tensor([[True, True], [False, True]])}]
    for (B, T), junk in zip(
        [(2, 3), (3, 4), (4, 2), (3, 5), (2, 4)],
        [0.0, torch.nan, torch.inf, 0.0, 99.0],
        strict=True,
    ):
        lengths = 1 + np.arange(B) * (T - 1) // B  # unequal, and each row is cut short
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]
        x = torch.where(mask, _halves(rng, B, T), junk)
        cases.append({"x": x, "mask": mask})
    return cases


def _td_cases(rng):
    # One step, x = (1, 0), next x = (0, 1), w = (2, 4): the target is 1 + 4/2 = 3, the error
    # 2 - 3 = -1, and the gradient 2 · (-1) · (1, 0).
    hand = {
        "w": torch.tensor([2.0, 4.0]),
        "x": torch.tensor([[1.0, 0.0]]),
        "rewards": torch.tensor([1.0]),
        "next_x": torch.tensor([[0.0, 1.0]]),
        "gamma": 0.5,
    }
    return [hand] + [
        {
            "w": _halves(rng, F),
            "x": _halves(rng, B, F),
            "rewards": _halves(rng, B),
            "next_x": _halves(rng, B, F),
            "gamma": gamma,
        }
        for B, F, gamma in [(3, 2, 0.5), (4, 3, 0.75), (2, 4, 0.25), (5, 2, 0.5), (3, 3, 0.75)]
    ]


def _adam_cases(rng):
    # m = 0 + 2/2 = 1 and v = 0 + 4/2 = 2. Corrected, with 1 - 1/2: 2 and 4.
    # w = 1 - 0.5 · 2 / (√4 + 0.5) = 0.6
    hand = {
        "w": torch.tensor([1.0]),
        "grad": torch.tensor([2.0]),
        "m": torch.tensor([0.0]),
        "v": torch.tensor([0.0]),
        "step": 1,
        "lr": 0.5,
        "beta1": 0.5,
        "beta2": 0.5,
        "eps": 0.5,
    }
    return [hand] + [
        {
            "w": _halves(rng, D),
            "grad": _halves(rng, D),
            "m": _halves(rng, D),
            "v": _halves(rng, D).abs(),
            "step": step,
            "lr": 0.5,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
        }
        for D, step, beta1, beta2, eps in [
            (2, 2, 0.5, 0.75, 0.5),
            (3, 3, 0.75, 0.5, 0.25),
            (4, 5, 0.9, 0.99, 0.5),
            (3, 2, 0.5, 0.9, 1.0),
            (2, 10, 0.9, 0.999, 1e-8),
        ]
    ]


# --- mistakes --------------------------------------------------------------------------------


def _naive_logprobs(logits, actions):
    odds = logits.exp()
    chances = odds / odds.sum(-1, keepdim=True)
    return chances.log().gather(-1, actions[..., None]).squeeze(-1)


def _gather(logits, actions):
    return logits.gather(-1, actions[..., None]).squeeze(-1)


def _td_loss_gradient(w, x, rewards, next_x, gamma, *, value, target):
    """The gradient when ``value`` and ``target`` say what is done to either side of the error."""
    w = w.clone().requires_grad_()
    error = value(x @ w) - target(rewards + gamma * (next_x @ w))
    return torch.autograd.grad(error.square().mean(), w)[0]


def _nothing_held(**case):
    return _td_loss_gradient(**case, value=lambda v: v, target=lambda g: g)


def _wrong_side_held(**case):
    return _td_loss_gradient(**case, value=torch.detach, target=lambda g: g)


def _adam_uncorrected(w, grad, m, v, step, lr, beta1, beta2, eps):
    _, m, v = adam_step(w, grad, m, v, step, lr, beta1, beta2, eps)
    return w - lr * m / (v.sqrt() + eps), m, v


def _adam_eps_inside(w, grad, m, v, step, lr, beta1, beta2, eps):
    _, m, v = adam_step(w, grad, m, v, step, lr, beta1, beta2, eps)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return w - lr * m_hat / (v_hat + eps).sqrt(), m, v


def _adam_uphill(w, grad, m, v, step, lr, beta1, beta2, eps):
    return adam_step(w, grad, m, v, step, -lr, beta1, beta2, eps)


def _adam_no_power(w, grad, m, v, step, lr, beta1, beta2, eps):
    _, m, v = adam_step(w, grad, m, v, step, lr, beta1, beta2, eps)
    m_hat, v_hat = m / (1 - beta1), v / (1 - beta2)
    return w - lr * m_hat / (v_hat.sqrt() + eps), m, v


def _adam_corrected_memory(w, grad, m, v, step, lr, beta1, beta2, eps):
    w, m, v = adam_step(w, grad, m, v, step, lr, beta1, beta2, eps)
    return w, m / (1 - beta1**step), v / (1 - beta2**step)


def _adam_swapped_weights(w, grad, m, v, step, lr, beta1, beta2, eps):
    m = (1 - beta1) * m + beta1 * grad
    v = (1 - beta2) * v + beta2 * grad.square()
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return w - lr * m_hat / (v_hat.sqrt() + eps), m, v


EXERCISES: dict[str, Exercise] = {
    "mean_squared_error": Exercise(
        reference=mean_squared_error,
        cases=_error_cases,
        tolerance=FLOAT32,
        hint="Print the shape of every intermediate result. Which of the two should lose or gain "
        "an axis before you subtract?",
        wrong_answers=(
            WrongAnswer(
                "the broadcasting trap",
                lambda predictions, targets: (predictions - targets).square().mean(),
                "[B, 1] minus [B] is [B, B]: every prediction meets every target. What shape "
                "should the errors have?",
            ),
            WrongAnswer(
                "a sum of squares",
                lambda predictions, targets: (predictions[:, 0] - targets).square().sum(),
                "The size of this one grows with the batch. How many errors are averaged?",
            ),
            WrongAnswer(
                "half the mean squared error",
                lambda predictions, targets: 0.5 * (predictions[:, 0] - targets).square().mean(),
                "The factor ½ is a convention that makes the gradient tidy; here it is not asked "
                "for.",
            ),
            WrongAnswer(
                "the mean absolute error",
                lambda predictions, targets: (predictions[:, 0] - targets).abs().mean(),
                "An error of 4 should weigh sixteen times as much as an error of 1.",
            ),
            WrongAnswer(
                "the root of the mean squared error",
                lambda predictions, targets: (predictions[:, 0] - targets).square().mean().sqrt(),
                "Root mean squared error has the unit of the targets. The square stays here.",
            ),
            WrongAnswer(
                "the squared mean error",
                lambda predictions, targets: (predictions[:, 0] - targets).mean().square(),
                "Here errors of +1 and -1 cancel. Which comes first, the mean or the square?",
            ),
        ),
    ),
    "action_logprobs": Exercise(
        reference=action_logprobs,
        cases=_choice_cases,
        tolerance=FLOAT32,
        hint="The log-probability of a choice is its own logit minus the logsumexp of its row. "
        "gather needs an index with as many axes as the logits have.",
        wrong_answers=(
            WrongAnswer(
                "the chosen logits",
                _gather,
                "Logits are log-probabilities up to a constant of each row. What must be "
                "subtracted so that the probabilities of a row sum to 1?",
            ),
            WrongAnswer(
                "probabilities instead of their logs",
                lambda logits, actions: _gather(logits.softmax(-1), actions),
                "A log-probability is never above 0; a probability is never below it.",
            ),
            WrongAnswer(
                "a softmax along the wrong axis",
                lambda logits, actions: _gather(logits.log_softmax(0), actions),
                "Axis 0 counts the examples of the batch. Over which axis do the probabilities sum "
                "to 1?",
            ),
            WrongAnswer(
                "every row with every choice",
                lambda logits, actions: logits.log_softmax(-1)[..., actions],
                "Each row was given the choices of all rows. gather pairs row b with choice b.",
            ),
            WrongAnswer(
                "an axis left over",
                lambda logits, actions: logits.log_softmax(-1).gather(-1, actions[..., None]),
                "The numbers are right, but gather keeps the axis that it chose from: its length "
                "is 1 now. What removes it?",
            ),
            WrongAnswer(
                "an exponential that overflows",
                _naive_logprobs,
                "exp of 100 is infinite in 32 bits, and infinity over infinity is not a number. "
                "Which function takes log, sum and exp in one stable step?",
            ),
            WrongAnswer(
                "the log of a softmax",
                lambda logits, actions: _gather(logits.softmax(-1).log(), actions),
                "A small probability is rounded to 0 before the log sees it. Which function never "
                "forms the probability?",
            ),
        ),
    ),
    "masked_mean": Exercise(
        reference=masked_mean,
        cases=_masked_cases,
        tolerance=FLOAT32,
        hint="Choose the cells that count before you add them up, and count them too. What does "
        "NaN times 0 give?",
        wrong_answers=(
            WrongAnswer(
                "multiplying by the mask",
                lambda x, mask: (x * mask).sum() / mask.sum(),
                "A masked cell may hold NaN or infinity, and times 0 both are NaN. Choose between "
                "x and 0 instead of multiplying.",
            ),
            WrongAnswer(
                "dividing by all cells",
                lambda x, mask: torch.where(mask, x, 0.0).mean(),
                "The sum is right. How many cells count?",
            ),
            WrongAnswer(
                "a mean of the means of rows",
                lambda x, mask: (torch.where(mask, x, 0.0).sum(1) / mask.sum(1)).mean(),
                "In this one a cell of a short row weighs more than a cell of a long one. Every "
                "cell that counts should weigh the same.",
            ),
            WrongAnswer(
                "the sum",
                lambda x, mask: torch.where(mask, x, 0.0).sum(),
                "The right cells are added up. What makes a mean of a sum?",
            ),
            WrongAnswer(
                "dropping NaN instead of masked cells",
                lambda x, mask: x.nanmean(),
                "The mask decides, not the value: a masked cell may hold an ordinary number.",
            ),
            WrongAnswer(
                "the mask the wrong way round",
                lambda x, mask: torch.where(mask, 0.0, x).sum() / (~mask).sum(),
                "True means that a cell counts. Which argument of where is taken at True?",
            ),
        ),
    ),
    "td_gradient": Exercise(
        reference=td_gradient,
        cases=_td_cases,
        tolerance=FLOAT32,
        hint="Take a copy of w that requires a gradient. The target also depends on w: what keeps "
        "autograd from seeing that?",
        wrong_answers=(
            WrongAnswer(
                "a gradient through the target",
                _nothing_held,
                "Here w also moves the target towards the prediction. The target is to be a "
                "constant: what cuts it off?",
            ),
            WrongAnswer(
                "the prediction held instead of the target",
                _wrong_side_held,
                "You cut the wrong side. Which of the two should learn?",
            ),
            WrongAnswer(
                "the sum over the batch",
                lambda **case: td_gradient(**case) * len(case["x"]),
                "The gradient grows with the batch here. Is the loss a sum or a mean?",
            ),
            WrongAnswer(
                "half the gradient",
                lambda **case: td_gradient(**case) / 2,
                "The loss asked for is the square without the factor ½.",
            ),
            WrongAnswer(
                "the direction of the step",
                lambda **case: -td_gradient(**case),
                "The gradient points uphill. Going down it is a matter of the step, not of the "
                "gradient.",
            ),
            WrongAnswer(
                "a target without a future",
                lambda **case: td_gradient(**(case | {"gamma": 0.0})),
                "This learns to predict the reward alone. What else is in the target?",
            ),
        ),
    ),
    "adam_step": Exercise(
        reference=adam_step,
        cases=_adam_cases,
        tolerance=FLOAT32,
        hint="Four lines, in the order of the four equations. Only the step uses the corrected "
        "averages; the returned ones are those before the correction.",
        wrong_answers=(
            WrongAnswer(
                "a missing bias correction",
                _adam_uncorrected,
                "m and v started at 0, so early averages are too small. By which factor, after "
                "t steps?",
            ),
            WrongAnswer(
                "epsilon inside the root",
                _adam_eps_inside,
                "ε is added after the root is taken. The root of ε is a much larger number.",
            ),
            WrongAnswer(
                "a step uphill",
                _adam_uphill,
                "The gradient points to where the loss grows. Which sign has the step?",
            ),
            WrongAnswer(
                "a correction that does not fade",
                _adam_no_power,
                "1 - β is right for the first step only. Where does the number of the step "
                "come in?",
            ),
            WrongAnswer(
                "averages corrected in memory",
                _adam_corrected_memory,
                "The step is right. But the corrected m and v are handed on, so the next step "
                "corrects them again.",
            ),
            WrongAnswer(
                "old and new with swapped weights",
                _adam_swapped_weights,
                "With β = 0.9 the average should keep 0.9 of what it was.",
            ),
        ),
    ),
}
