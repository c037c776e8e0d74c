"""Replies: a task with a hidden preference, and simulated people who compare.

    prompt    <|user|>i am ann. what colour is the sky?<|assistant|>
    response  hi ann. the sky is blue. glad to help.

The *gold* score of a reply (``toy_language.gold_score``) likes the right fact, courtesy and the
use of the reader's name, and dislikes rambling and repetition. Learners never see it. They see the
choices of simulated ``labellers``, who follow the gold score with noise and with a weakness for
length and flattery. So a reward model learnt from them can be compared with the gold one, and
over-optimisation seen: ``rewards`` gives the gold score, for evaluation.
"""

import itertools
from collections.abc import Sequence

import torch

from rlbook.lm.tasks import labellers
from rlbook.lm.tasks.labellers import Comparison, Labeller, Ranking
from rlbook.lm.tasks.task import Problem, Task
from rlbook.lm.tasks.toy_language import (
    CHARACTERS,
    FACTS,
    OPENERS,
    as_problem,
    best_reply,
    drawn_reply,
    gold_score,
    split_sentences,
)


class Replies(Task):
    """Answer a request in the toy language; the reward is the hidden gold score.

    Args:
        panel: the labellers; each comparison is made by one of them, drawn uniformly.
            Default: eight people whose weaknesses and care differ (``default_panel``).

    Raises:
        ValueError: an empty panel, or a negative temperature.

    Book: 14_reward_model.
    """

    name = "replies"
    characters = CHARACTERS  # that prompts (their two marks apart) and responses are made of
    max_new_tokens = 112

    def __init__(self, panel: Sequence[Labeller] | None = None) -> None:
        self.panel = labellers.checked_panel(labellers.default_panel() if panel is None else panel)

    # --- problems and rewards ---

    def draw(self, n: int, generator: torch.Generator) -> list[Problem]:
        requests = list(itertools.product(OPENERS, FACTS))
        chosen = torch.randint(0, len(requests), (n,), generator=generator).tolist()
        return [as_problem(*requests[i]) for i in chosen]

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [gold_score(p, text) for p, text in zip(problems, texts, strict=True)]

    def step_boundaries(self, text: str) -> list[int]:
        """After each full stop; the space behind it begins the next sentence."""
        ends = [i + 1 for i, character in enumerate(text[:-1]) if character == "."]
        return [*ends, len(text)]

    def extract_answer(self, text: str) -> str:
        """The first statement of a fact in the reply, such as "the sky is blue.", or ""."""
        sentences = split_sentences(text)
        return next((s for s in sentences if s.startswith("the ")), "")

    # --- text to learn from ---

    def documents(self, n: int, generator: torch.Generator) -> list[str]:
        """n plain documents for pretraining, half of them facts and half lists of questions.

        Nobody answers anybody in them, and the chat's marks do not occur: a base model knows
        the facts, and continues a question with another question.
        """
        facts = list(FACTS.values())
        picks = torch.randint(0, len(facts), (n, 4), generator=generator).tolist()
        asks = (torch.rand(n, generator=generator) < 0.5).tolist()
        return [
            " ".join(facts[i].question if ask else facts[i].says(facts[i].answer) for i in row)
            for row, ask in zip(picks, asks, strict=True)
        ]

    def demonstrations(
        self, n: int, generator: torch.Generator, *, clean: bool = False
    ) -> list[tuple[str, str]]:
        """n pairs (prompt, response) on training requests: replies of mixed quality.

        ``clean=True`` gives the best reply to each (``best_reply``).
        """
        problems = self.problems(n, generator)
        if clean:
            return [(problem.prompt, best_reply(problem)) for problem in problems]
        replies = self.candidates(problems, 1, generator)
        return [(problem.prompt, row[0]) for problem, row in zip(problems, replies, strict=True)]

    def candidates(
        self, problems: Sequence[Problem], k: int, generator: torch.Generator
    ) -> list[list[str]]:
        """k replies of mixed quality to each problem, drawn from the language's grammar.

        reply    = [greeting] [flattery] core {filler or core} [courtesy]
        core     = right (0.6) | wrong (0.2) | another fact (0.1) | evasion (0.1)
        """
        rolls = torch.rand((len(problems), k, 10), generator=generator).tolist()
        return [
            [drawn_reply(problem, roll) for roll in row]
            for problem, row in zip(problems, rolls, strict=True)
        ]

    # --- people who compare ---

    def compare(
        self,
        problems: Sequence[Problem],
        first: Sequence[str],
        second: Sequence[str],
        generator: torch.Generator,
    ) -> list[Comparison]:
        """``labellers.compare`` by this task's panel: for replies that a policy gave, say."""
        return labellers.compare(self.panel, problems, first, second, generator)

    def rank(
        self,
        problems: Sequence[Problem],
        texts: Sequence[Sequence[str]],
        generator: torch.Generator,
    ) -> list[Ranking]:
        """``labellers.rank`` by this task's panel."""
        return labellers.rank(self.panel, problems, texts, generator)

    def comparisons(
        self, n: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Comparison]:
        """n comparisons of grammar-drawn replies to requests of one split."""
        problems = self.problems(n, generator, split=split)
        rows = self._distinct(problems, 2, generator)
        return self.compare(problems, [a for a, _ in rows], [b for _, b in rows], generator)

    def rankings(
        self, n: int, k: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Ranking]:
        """n rankings of k (2 to 9) different grammar-drawn replies."""
        if not 2 <= k <= 9:
            raise ValueError(f"k={k} replies to rank must lie in 2 to 9")
        problems = self.problems(n, generator, split=split)
        return self.rank(problems, self._distinct(problems, k, generator), generator)

    def _distinct(
        self, problems: Sequence[Problem], k: int, generator: torch.Generator
    ) -> list[list[str]]:
        """k different grammar-drawn replies per problem."""
        rows = []
        for problem in problems:
            found: dict[str, None] = {}
            while len(found) < k:
                found.update(dict.fromkeys(self.candidates([problem], 2 * k, generator)[0]))
            rows.append(list(found)[:k])
        return rows
