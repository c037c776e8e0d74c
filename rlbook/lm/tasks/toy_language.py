"""A toy language of requests and replies about a small world, and what a good reply is worth.

    request   i am ann. what colour is the sky?
    reply     hi ann. the sky is blue. glad to help.

28 facts, 10 ways to begin a request. ``gold_score`` is the preference that the task of ``replies``
hides from learners; ``labellers`` are people who see it through noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rlbook.lm.tasks.task import Problem
from rlbook.lm.tokenizers import ASSISTANT, USER

COLOURS = {
    "sky": "blue", "grass": "green", "coal": "black", "snow": "white", "rose": "red",
    "lemon": "yellow", "sea": "blue", "leaf": "green", "crow": "black", "milk": "white",
    "brick": "red", "sun": "yellow",
}  # fmt: skip
HOMES = {
    "cow": "field", "fish": "sea", "bear": "wood", "duck": "pond", "fox": "wood", "crab": "sea",
    "frog": "pond", "horse": "field",
}  # fmt: skip
FOODS = {
    "cow": "grass", "bear": "honey", "duck": "seeds", "fox": "mice", "frog": "flies",
    "horse": "grass", "owl": "mice", "bee": "honey",
}  # fmt: skip
# Per kind of fact: the question, the statement, what is true.
KINDS = (
    ("what colour is the {}?", "the {} is {}.", COLOURS),
    ("where does the {} live?", "the {} lives in the {}.", HOMES),
    ("what does the {} eat?", "the {} eats {}.", FOODS),
)
NAMES = ("ann", "bob", "eve", "joe", "kim", "max", "sue", "tom")
OPENERS = ("", "hello. ", *(f"i am {name}. " for name in NAMES))
FLATTERY = "what a great question."
COURTESIES = ("glad to help.", "have a nice day.")
FILLERS = ("as we all know.", "so it is.", "that is true.", "it is well known.")
EVASION = "i do not know."
CHARACTERS = "abcdefghijklmnopqrstuvwxyz .?"
FREE_WORDS = 12  # a reply of up to this many words costs nothing


@dataclass(frozen=True)
class Fact:
    """A question of the toy world with its one right answer and the answers that are wrong."""

    question: str
    thing: str
    statement: str
    answer: str
    wrong: tuple[str, ...]

    def says(self, answer: str) -> str:
        """The sentence that gives this answer."""
        return self.statement.format(self.thing, answer)


FACTS = {
    question.format(thing): Fact(
        question.format(thing), thing, statement, answer,
        tuple(sorted(set(truth.values()) - {answer})),
    )
    for question, statement, truth in KINDS
    for thing, answer in truth.items()
}  # fmt: skip


def gold_score(problem: Problem, text: str) -> float:
    """The hidden preference: what a reply is worth, in points.

        + 2      it states the right fact,              - 1  it states a wrong one about the thing
        + 0.5    it is courteous (a courtesy sentence)
        + 0.5    it greets the reader by name, where a name was given, or says hello otherwise
        - 0.5    per sentence said before               - 0.5  per sentence not of the language
        - 0.1    per word beyond FREE_WORDS             - 1    it does not end with a full stop

    The right fact counts only where no wrong one is stated. An empty reply is worth -1.
    """
    fact, name = parse(problem.prompt)
    sentences = split_sentences(text)
    right = fact.says(fact.answer) in sentences
    wrong = any(fact.says(answer) in sentences for answer in fact.wrong)
    greeting = f"hi {name}." if name else "hello."
    repeats = len(sentences) - len(set(sentences))
    strange = sum(sentence not in SENTENCES for sentence in sentences)
    words = sum(len(sentence.split()) for sentence in sentences)
    return (
        (-1.0 if wrong else 2.0 if right else 0.0)
        + 0.5 * any(courtesy in sentences for courtesy in COURTESIES)
        + 0.5 * (greeting in sentences)
        - 0.5 * (repeats + strange)
        - 0.1 * max(0, words - FREE_WORDS)
        - 1.0 * (not text.endswith("."))
    )


def best_reply(problem: Problem) -> str:
    """A reply that no other reply to this request beats on the gold score."""
    fact, name = parse(problem.prompt)
    greeting = f"hi {name}." if name else "hello."
    return f"{greeting} {fact.says(fact.answer)} {COURTESIES[0]}"


def as_problem(opener: str, question: str) -> Problem:
    """The request as a chat prompt; the answer is the sentence that states the fact."""
    fact = FACTS[question]
    return Problem(f"{USER}{opener}{question}{ASSISTANT}", fact.says(fact.answer))


def parse(prompt: str) -> tuple[Fact, str]:
    """The fact asked for and the reader's name ("" where none was given).

    Raises:
        ValueError: the prompt is no request of this language.
    """
    request = prompt.removeprefix(USER).removesuffix(ASSISTANT)
    for opener in sorted(OPENERS, key=len, reverse=True):
        if request.startswith(opener) and request[len(opener) :] in FACTS:
            name = opener.removeprefix("i am ").rstrip(". ") if opener.startswith("i am") else ""
            return FACTS[request[len(opener) :]], name
    raise ValueError(f"{prompt!r} is not a request of this language, such as {FIRST_PROMPT!r}")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text with their full stops; a rest without one counts as a sentence."""
    pieces = [piece.strip() for piece in text.split(".")]
    ended = [f"{piece}." for piece in pieces[:-1]]
    return ended + ([pieces[-1]] if pieces[-1] else [])


def drawn_reply(problem: Problem, roll: Sequence[float]) -> str:
    """One reply from ten uniform draws.

    reply = [greeting] [flattery] core {filler or core} [courtesy]
    core  = right (0.6) | wrong (0.2) | another fact (0.1) | evasion (0.1)
    """
    fact, name = parse(problem.prompt)
    sentences = []
    if roll[0] < 0.4:
        sentences.append(f"hi {name}." if name and roll[1] < 0.6 else "hello.")
    if roll[2] < 0.25:
        sentences.append(FLATTERY)
    core = _core(fact, roll[3], roll[4])
    sentences.append(core)
    for chance, which in ((roll[5], roll[6]), (roll[7], roll[6] * 7 % 1)):
        if chance < 0.3:
            sentences.append((*FILLERS, core)[int(which * (len(FILLERS) + 1))])
    if roll[8] < 0.35:
        sentences.append(COURTESIES[int(roll[9] * len(COURTESIES))])
    return " ".join(sentences)


def _core(fact: Fact, kind: float, which: float) -> str:
    if kind < 0.6:
        return fact.says(fact.answer)
    if kind < 0.8:
        return fact.says(fact.wrong[int(which * len(fact.wrong))])
    if kind < 0.9:
        others = [other for other in FACTS.values() if other is not fact]
        other = others[int(which * len(others))]
        return other.says(other.answer)
    return EVASION


SENTENCES = {
    "hello.", *(f"hi {name}." for name in NAMES), FLATTERY, *COURTESIES, *FILLERS, EVASION,
    *(fact.says(answer) for fact in FACTS.values() for answer in (fact.answer, *fact.wrong)),
}  # fmt: skip
FIRST_PROMPT = as_problem("", next(iter(FACTS))).prompt
