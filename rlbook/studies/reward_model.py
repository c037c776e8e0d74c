"""Reward models: how many comparisons it takes, rankings, margins, and how the reward is fooled.

A linear reward over six things that can be read off a reply (`features`) learns from simulated
labellers. It stands for a network that already sees these things; what it learns is how much they
matter. `accuracy` is that on held-out pairs over the number of comparisons `x`, with and without
graded margins; `ceiling` is the accuracy that the labellers' noise allows on these pairs, and
`correlation` that of learned and gold score. `by labels` compares pairs with rankings at equal
numbers of orders given, `by responses` at equal numbers of responses read.

`learned` and `gold` are the mean scores of the best of `ns` candidates, chosen by the learned
reward of the default panel, of a panel that is fond of length, or by the gold score itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.preference_losses import (
    bradley_terry_loss,
    k_wise_loss,
    plackett_luce_loss,
)
from rlbook.lm.tasks.labellers import Comparison, Labeller, noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.task import Problem
from rlbook.lm.tasks.toy_language import COURTESIES, FLATTERY, parse, split_sentences

SEEDS = 20
NAMES = ("right fact", "wrong fact", "courtesy", "greeting", "flattery", "words")
SETTINGS: dict[str, Any] = {
    "held_out": 1000,
    "x": [16, 32, 64, 128, 256, 512, 1024, 2048],
    "labels": [8, 16, 32, 64, 128, 256],
    "responses": [36, 72, 144, 288, 576],
    "comparisons": 1024,  # behind the rewards that choose the best of n
    "problems": 200,
    "ns": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "ridge": 1e-3,
}
FOND_OF_LENGTH = tuple(Labeller(length, 0.4, 0.7) for length in (0.2, 0.3))


def features(problem: Problem, text: str) -> list[float]:
    """What the reward sees of a reply: NAMES, the words as their number, the others as 0 or 1."""
    fact, name = parse(problem.prompt)
    sentences = split_sentences(text)
    wrong = any(fact.says(answer) in sentences for answer in fact.wrong)
    right = fact.says(fact.answer) in sentences and not wrong
    greeting = f"hi {name}." if name else "hello."
    seen = (right, wrong, any(c in sentences for c in COURTESIES), greeting in sentences)
    return [*map(float, seen), float(FLATTERY in sentences), float(len(text.split()))]


def table(prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Float[Tensor, "N K features"]:
    """Features of K replies to each of N prompts, in float64."""
    rows = [
        [features(Problem(prompt), text) for text in row]
        for prompt, row in zip(prompts, texts, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def pairs_of(comparisons: Sequence[Comparison]) -> Float[Tensor, "N 2 features"]:
    """Features of comparisons, the chosen reply first."""
    return table([c.prompt for c in comparisons], [(c.chosen, c.rejected) for c in comparisons])


def fit(
    seen: Float[Tensor, "N K features"],
    *,
    margin: Float[Tensor, " N"] | None = None,
    plackett_luce: bool = False,
) -> Float[Tensor, " features"]:
    """Weights that make the orders likeliest, with a little ridge (LBFGS to its optimum)."""
    w = torch.zeros(seen.shape[-1], dtype=seen.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = seen @ w
        if margin is not None:
            losses = bradley_terry_loss(scores[:, 0], scores[:, 1], margin=margin)
        else:
            losses = plackett_luce_loss(scores) if plackett_luce else k_wise_loss(scores)
        loss = losses.mean() + SETTINGS["ridge"] * w.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return w.detach()


def accuracy(w: Float[Tensor, " features"], held_out: Float[Tensor, "N 2 features"]) -> float:
    """The share of pairs whose chosen reply scores higher; a tie counts half."""
    scores = held_out @ w
    gaps = scores[:, 0] - scores[:, 1]
    return ((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean().item()


def run(seed: int) -> dict[str, dict[str, Any]]:
    """All arms on one draw of comparisons, rankings and candidates."""
    torch.set_num_threads(1)
    task, generator = Replies(), torch.Generator().manual_seed(seed)
    test = task.comparisons(SETTINGS["held_out"], generator, split="test")
    measures = learning(task, test, generator) | rankings(task, pairs_of(test), generator)
    return measures | best_of_n(generator)


def learning(
    task: Replies, test: Sequence[Comparison], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """Accuracy, and correlation with gold, over the number of comparisons."""
    shown = task.comparisons(SETTINGS["x"][-1], generator)
    seen, held_out = pairs_of(shown), pairs_of(test)
    graded = torch.tensor([c.margin for c in shown], dtype=torch.float64)
    problems = [Problem(c.prompt) for c in test for _ in range(2)]
    gold = task.rewards(problems, [t for c in test for t in (c.chosen, c.rejected)]).double()
    found: dict[str, dict[str, Any]] = {
        "ceiling": {"labellers": noise_ceiling(test)}, "accuracy": {}, "correlation": {}
    }  # fmt: skip
    for arm in ("pairs", "with margins"):
        weights = [
            fit(seen[:n], margin=graded[:n] if arm == "with margins" else None)
            for n in SETTINGS["x"]
        ]
        found["accuracy"][arm] = [accuracy(w, held_out) for w in weights]
        found["correlation"][arm] = [
            torch.corrcoef(torch.stack([(held_out @ w).flatten(), gold]))[0, 1].item()
            for w in weights
        ]
    return found


def rankings(
    task: Replies, held_out: Float[Tensor, "N 2 features"], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """Pairs against rankings of four and nine, at equal labels and at equal responses."""
    found: dict[str, dict[str, Any]] = {"by labels": {}, "by responses": {}}
    for arm, K in (("pairs", 2), ("rankings of 4", 4), ("rankings of 9", 9)):
        most = max(SETTINGS["labels"][-1], SETTINGS["responses"][-1] // K)
        drawn = task.rankings(most, K, generator)
        seen = table([r.prompt for r in drawn], [r.texts for r in drawn])
        for measure, counts in (
            ("by labels", SETTINGS["labels"]),
            ("by responses", [n // K for n in SETTINGS["responses"]]),
        ):
            found[measure][arm] = [accuracy(fit(seen[:n]), held_out) for n in counts]
            if K == 9:
                found[measure]["rankings of 9, Plackett-Luce"] = [
                    accuracy(fit(seen[:n], plackett_luce=True), held_out) for n in counts
                ]
    return found


def best_of_n(generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Learned and gold score of the best of n candidates, by three judges."""
    task = Replies()
    problems = task.problems(SETTINGS["problems"], generator, split="test")
    rows = task.candidates(problems, SETTINGS["ns"][-1], generator)
    seen = table([p.prompt for p in problems], rows)
    gold = torch.tensor([task.score([p] * len(r), r) for p, r in zip(problems, rows, strict=True)])
    found: dict[str, dict[str, Any]] = {"learned": {}, "gold": {}}
    for arm, panel in (("default panel", None), ("fond of length", FOND_OF_LENGTH)):
        shown = Replies(panel).comparisons(SETTINGS["comparisons"], generator)
        scores = seen @ fit(pairs_of(shown))
        scores = scores - scores.mean()
        picks = [scores[:, :n].argmax(dim=1, keepdim=True) for n in SETTINGS["ns"]]
        found["learned"][arm] = [scores.gather(1, i).mean().item() for i in picks]
        found["gold"][arm] = [gold.gather(1, i).mean().item() for i in picks]
    found["gold"]["the gold score"] = [
        gold[:, :n].max(dim=1).values.mean().item() for n in SETTINGS["ns"]
    ]
    return found
