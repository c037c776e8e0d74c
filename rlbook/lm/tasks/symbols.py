"""Symbols: copy, reverse, sort and translate short words; the task is named in the prompt.

    copy cab=cab.     reverse cab=bac.     sort cab=abc.     translate cab=qpo.

``translate`` goes from the alphabet a-h to the alphabet o-v, letter by letter, and ``back``
the other way. A task is a prefix: the same model does all of them. In a *few-shot* prompt the name
is withheld, and the examples alone say what is asked:

    ? cab=bac. ? hgf=fgh. ? ead=

so a model that was pretrained on documents of such lines can be told by example.
"""

from collections.abc import Sequence

import torch

from rlbook.lm.tasks.task import Problem, Task, check_probability

SOURCE = "abcdefgh"
TARGET = "oqpsrvtu"  # a ↔ o, b ↔ q, c ↔ p, ...: not in alphabetical order, or it were a shift
TO_TARGET = str.maketrans(SOURCE, TARGET)
TO_SOURCE = str.maketrans(TARGET, SOURCE)
OPERATIONS = {
    "copy": lambda word: word,
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "translate": lambda word: word.translate(TO_TARGET),
    "back": lambda word: word.translate(TO_SOURCE),
}
UNNAMED = "?"


class Symbols(Task):
    """Do to a word what the prompt names, or what its examples show.

    The reward is 1 iff the response is exactly the right word and a full stop. A word is held
    out, or not, for all kinds together; examples are always of training words.

    Args:
        kinds: which of copy, reverse, sort, translate, back.
        lengths: fewest and most letters of a word, 2 to 12.
        shots: solved examples of the same kind before the question, 0 or more.
        named: whether the prompt names the kind; without a name at least one example is needed.

    Raises:
        ValueError: an argument out of range, with what is allowed.

    Book: 10_gpt2.
    """

    name = "symbols"
    stop = "."  # a document goes on with its next line
    characters = "".join(sorted({*"".join(OPERATIONS), *SOURCE, *TARGET, *UNNAMED, *" =."}))

    def __init__(
        self,
        kinds: Sequence[str] = tuple(OPERATIONS),
        *,
        lengths: tuple[int, int] = (3, 5),
        shots: int = 0,
        named: bool = True,
    ) -> None:
        if not kinds or set(kinds) - set(OPERATIONS):
            raise ValueError(f"kinds={tuple(kinds)} must be among {', '.join(OPERATIONS)}")
        if not 2 <= lengths[0] <= lengths[1] <= 12:
            raise ValueError(f"lengths={lengths} must be a pair with 2 <= fewest <= most <= 12")
        if shots < 0 or (shots == 0 and not named):
            raise ValueError(
                f"shots={shots}: use 0 or more, and at least 1 where the kind is not named"
            )
        self.kinds, self.lengths, self.shots, self.named = tuple(kinds), lengths, shots, named
        self.max_new_tokens = lengths[1] + 3  # the full stop, EOS, one to spare

    def draw(self, n: int, generator: torch.Generator) -> list[Problem]:
        which = torch.randint(0, len(self.kinds), (n,), generator=generator).tolist()
        words = self._words(n, generator)
        rows = [iter(()) for _ in range(n)]
        if self.shots:
            examples = self._training_words(n * self.shots, generator)
            rows = [iter(examples[i : i + self.shots]) for i in range(0, len(examples), self.shots)]
        return [
            self._problem(self.kinds[i], word, tuple(row))
            for i, word, row in zip(which, words, rows, strict=True)
        ]

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [
            float(text == problem.answer + ".")
            for problem, text in zip(problems, texts, strict=True)
        ]

    def extract_answer(self, text: str) -> str:
        """The word before the full stop, or "" where the text does not end with one."""
        return text[:-1] if text.endswith(".") else ""

    def split_key(self, prompt: str) -> str:
        """The word of the question, in the source alphabet."""
        return prompt.removesuffix("=").rpartition(" ")[2].translate(TO_SOURCE)

    def demonstrations(self, n: int, generator: torch.Generator) -> list[tuple[str, str]]:
        """n pairs (prompt, right response) on training problems."""
        return [(p.prompt, p.answer + ".") for p in self.problems(n, generator)]

    def documents(
        self, n: int, generator: torch.Generator, *, lines: int = 4, unnamed: float = 0.5
    ) -> list[str]:
        """n documents for pretraining, each of several lines of training words.

        A share ``unnamed`` of them are few-shot documents: one kind, never named. In the others
        every line names its own kind.
        """
        check_probability("unnamed", unnamed)
        withheld = (torch.rand(n, generator=generator) < unnamed).tolist()
        kinds = torch.randint(0, len(self.kinds), (n, lines), generator=generator).tolist()
        words = iter(self._training_words(n * lines, generator))
        found = []
        for hide, row in zip(withheld, kinds, strict=True):
            chosen = [self.kinds[row[0] if hide else i] for i in row]
            found.append(" ".join(line(kind, next(words), not hide) for kind in chosen))
        return found

    def _problem(self, kind: str, word: str, examples: Sequence[str]) -> Problem:
        shown = "".join(line(kind, example, self.named) + " " for example in examples)
        question, answer = line(kind, word, self.named).removesuffix(".").split("=")
        return Problem(f"{shown}{question}=", answer)

    def _words(self, n: int, generator: torch.Generator) -> list[str]:
        """n random words of the source alphabet."""
        fewest, most = self.lengths
        sizes = torch.randint(fewest, most + 1, (n,), generator=generator).tolist()
        letters = torch.randint(0, len(SOURCE), (n, most), generator=generator).tolist()
        return [
            "".join(SOURCE[i] for i in row[:size]) for size, row in zip(sizes, letters, strict=True)
        ]

    def _training_words(self, n: int, generator: torch.Generator) -> list[str]:
        """n random words that are not held out."""
        found: list[str] = []
        while len(found) < n:
            words = self._words(1 + (n - len(found)) * 5 // 4, generator)
            found += [word for word in words if self.split_of(Problem(word)) == "train"]
        return found[:n]


def line(kind: str, word: str, named: bool = True) -> str:
    """One solved line such as ``sort cab=abc.``; the word is given in the source alphabet.

    Raises:
        ValueError: unknown kind, or a letter outside the source alphabet.
    """
    if kind not in OPERATIONS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(OPERATIONS)}")
    if not word or set(word) - set(SOURCE):
        raise ValueError(f"the word {word!r} must be made of the letters {SOURCE}")
    given = word.translate(TO_TARGET) if kind == "back" else word
    return f"{kind if named else UNNAMED} {given}={OPERATIONS[kind](given)}."
