"""Simulated people who compare replies: noisy, and each with weaknesses.

One mechanism makes all kinds of labels: a labeller gives each reply its utility (the gold score
plus the labeller's own weaknesses) plus Gumbel noise times ``temperature``. The order of two
replies is then exactly Bradley-Terry, a ranking of K exactly Plackett-Luce, and the size of a
difference gives a graded margin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.lm.tasks.task import Problem
from rlbook.lm.tasks.toy_language import FLATTERY, gold_score

GRADES = (0.0, 0.75, 1.5, 3.0)  # lower ends of: hardly, slightly, clearly, much better


@dataclass(frozen=True)
class Labeller:
    """A simulated person: utility = gold + length · words + flattery · [flatters].

    Attributes:
        length: gold points per word of the reply.
        flattery: gold points for a reply that flatters.
        temperature: spread of the Gumbel noise, in gold points; at least 0.
    """

    length: float = 0.12
    flattery: float = 0.4
    temperature: float = 0.7

    def utility(self, problem: Problem, text: str) -> float:
        """What this labeller thinks of a reply, before noise."""
        return gold_score(problem, text) + self.weakness(text)

    def weakness(self, text: str) -> float:
        """What this labeller gives a reply beyond the gold score."""
        return self.length * len(text.split()) + self.flattery * (FLATTERY in text)


@dataclass(frozen=True)
class Comparison:
    """Two replies to a prompt, the preferred one first.

    Attributes:
        grade: how much better it seemed: 0 hardly, 1 slightly, 2 clearly, 3 much.
        probability: of this choice, for a labeller drawn from the panel: what a perfect
            learner could know. For measuring; a learner does not see it.
    """

    prompt: str
    chosen: str
    rejected: str
    grade: int
    probability: float

    @property
    def margin(self) -> float:
        """The grade as a margin in [0, 1]."""
        return self.grade / (len(GRADES) - 1)


@dataclass(frozen=True)
class Ranking:
    """K replies to a prompt, the best first."""

    prompt: str
    texts: tuple[str, ...]


def default_panel() -> tuple[Labeller, ...]:
    """Eight labellers: from indifferent to fond of length, half of them open to flattery."""
    return tuple(
        Labeller(length, flattery, temperature)
        for length, temperature in ((0.0, 0.5), (0.08, 0.7), (0.16, 0.7), (0.24, 0.9))
        for flattery in (0.0, 0.8)
    )


def gumbel(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """n standard Gumbel draws, float64: -log(-log u). Their differences are logistic."""
    uniform = torch.rand(n, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return -torch.log(-torch.log(uniform))


def noise_ceiling(comparisons: Sequence[Comparison]) -> float:
    """The best accuracy any scorer can expect on such choices: mean of max(p, 1 - p).

    p is the panel's exact probability of the choice, so this counts each labeller's noise and
    the labellers' disagreement.

    Book: 14_reward_model.
    """
    if not comparisons:
        raise ValueError("no comparisons: the ceiling of none is not defined")
    sure = [max(c.probability, 1 - c.probability) for c in comparisons]
    return sum(sure) / len(sure)


def compare(
    panel: Sequence[Labeller],
    problems: Sequence[Problem],
    first: Sequence[str],
    second: Sequence[str],
    generator: torch.Generator,
) -> list[Comparison]:
    """The choice between two replies to each problem, by a labeller drawn from the panel.

        Pr(first chosen) = mean over the panel of σ( (u(first) - u(second)) / temperature )

    Raises:
        ValueError: lists of different lengths, or two identical replies (which).

    Book: 14_reward_model. Source: Bradley and Terry (1952).
    """
    if not len(problems) == len(first) == len(second):
        raise ValueError(
            f"{len(problems)} problems, {len(first)} first and {len(second)} second replies: "
            "give the same number of each"
        )
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if a == b:
            raise ValueError(f"pair {index} has two identical replies {a!r}: nothing to choose")
    found = []
    for problem, texts in zip(problems, zip(first, second, strict=True), strict=True):
        order, lead = _judge(panel, problem, texts, generator)
        chosen, rejected = texts[order[0]], texts[order[1]]
        grade = sum(lead >= least for least in GRADES) - 1
        probability = preference(panel, problem, chosen, rejected)
        found.append(Comparison(problem.prompt, chosen, rejected, grade, probability))
    return found


def rank(
    panel: Sequence[Labeller],
    problems: Sequence[Problem],
    texts: Sequence[Sequence[str]],
    generator: torch.Generator,
) -> list[Ranking]:
    """The order of K replies to each problem, best first, by a labeller drawn from the panel.

    Raises:
        ValueError: problems and rows of texts differ in number, or a row has fewer than 2 (which).

    Book: 14_reward_model. Source: Luce (1959), Plackett (1975).
    """
    if len(problems) != len(texts):
        raise ValueError(f"{len(problems)} problems for {len(texts)} rows of replies")
    found = []
    for index, (problem, row) in enumerate(zip(problems, texts, strict=True)):
        if len(row) < 2:
            raise ValueError(f"row {index} has {len(row)} replies: a ranking needs at least 2")
        order, _ = _judge(panel, problem, row, generator)
        found.append(Ranking(problem.prompt, tuple(row[i] for i in order)))
    return found


def preference(panel: Sequence[Labeller], problem: Problem, first: str, second: str) -> float:
    """Exact probability that a labeller drawn from the panel prefers the first reply."""
    gold = gold_score(problem, first) - gold_score(problem, second)
    gaps = [gold + who.weakness(first) - who.weakness(second) for who in panel]
    scales = [max(who.temperature, 1e-12) for who in panel]
    difference, temperature = torch.tensor([gaps, scales], dtype=torch.float64)
    return float(torch.sigmoid(difference / temperature).mean())


def checked_panel(panel: Sequence[Labeller]) -> tuple[Labeller, ...]:
    """The panel as a tuple; ValueError if it is empty or a temperature is negative."""
    if not panel:
        raise ValueError("the panel is empty: give at least one Labeller")
    for labeller in panel:
        if not labeller.temperature >= 0:
            raise ValueError(f"temperature={labeller.temperature} must not be negative")
    return tuple(panel)


def _judge(
    panel: Sequence[Labeller],
    problem: Problem,
    texts: Sequence[str],
    generator: torch.Generator,
) -> tuple[list[int], float]:
    """One labeller's order of the texts, best first, and by how much the first leads."""
    labeller = panel[int(torch.randint(0, len(panel), (1,), generator=generator))]
    utilities = torch.tensor(
        [labeller.utility(problem, text) for text in texts], dtype=torch.float64
    )
    noisy = utilities + labeller.temperature * gumbel(len(texts), generator)
    values, order = noisy.sort(descending=True)
    return order.tolist(), float(values[0] - values[1])
