"""GSM8K: grade-school word problems with worked solutions, from the hub or from a JSONL file.

    question  Natalia sold clips to 48 of her friends in April, and then ...
    answer    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
              Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.
              #### 72

The last line holds the final answer. A response is right when the number on its last ``####``
line equals it, as a number: ``1,000``, ``$1000.00`` and ``1000 clips.`` are the same answer.
The ``<<...>>`` are calculator marks, which ``calculator_marks=False`` removes.

Source: Cobbe et al. (2021), Training Verifiers to Solve Math Word Problems.
"""

import importlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from rlbook.lm.tasks.task import Problem, Task

HUB_NAME = "openai/gsm8k"
PROMPT = "Question: {question}\nAnswer:\n"
MARK = "####"
CALCULATOR = re.compile(r"<<[^<>]*>>")
NUMBER = re.compile(
    r"(?P<sign>[-−]?)\s*[$€£]?\s*(?P<minus>[-−]?)(?P<digits>\d[\d,]*\.?\d*|\.\d+)", re.ASCII
)
FRACTION = re.compile(r"\s*/\s*(\d+)", re.ASCII)
SHOWN = 3  # malformed lines named in the warning
LONGEST = 100  # characters of an answer; Python refuses to turn very long ones into integers


class GSM8K(Task):
    """Word problems; the reward is 1 iff the final answer is right.

    Make one with ``GSM8K.from_path`` or ``GSM8K.from_hub``.

    Attributes:
        solutions: the reference solution of each question's prompt.
        malformed: (file, line number, what is wrong) of each line that was left out.

    Args:
        train, test: (question, solution) pairs. Training questions that are test questions too
            are left out. Without ``test``, one question in ten is held out, by a hash.
        prompt_format: the prompt, with ``{question}`` in it.
        max_new_tokens: the length limit in tokens.

    Raises:
        ValueError: no training problem, a solution without its ``####`` answer, or a format
            without ``{question}``.

    Book: 20_vineppo.
    """

    name = "gsm8k"

    def __init__(
        self,
        train: Iterable[tuple[str, str]],
        test: Iterable[tuple[str, str]] | None = None,
        *,
        prompt_format: str = PROMPT,
        max_new_tokens: int = 256,
        malformed: Sequence[tuple[str, int, str]] = (),
    ) -> None:
        if "{question}" not in prompt_format:
            raise ValueError(f"prompt_format={prompt_format!r} must hold {{question}}")
        self.prompt_format, self.max_new_tokens = prompt_format, max_new_tokens
        self.malformed = tuple(malformed)
        self.solutions: dict[str, str] = {}
        given = self._as_problems(train)
        if test is None:
            held_out = [problem for problem in given if self.split_of(problem) == "test"]
        else:
            held_out = self._as_problems(test)
        apart = {problem.prompt for problem in held_out}
        self.train_problems = tuple(problem for problem in given if problem.prompt not in apart)
        self.test_problems = tuple(held_out)
        if not self.train_problems:
            raise ValueError("GSM8K has no training problem: nothing was read, or all is held out")

    @classmethod
    def from_path(
        cls, path: str | Path, *, calculator_marks: bool = True, **options: Any
    ) -> "GSM8K":
        """Load a JSONL file, or a folder with train.jsonl and, if there is one, test.jsonl.

        Each line is an object with ``question`` and ``answer``. A malformed line is left out; one
        warning names the lines, and ``task.malformed`` holds them all.

        Args:
            calculator_marks: False removes ``<<48/2=24>>`` from the solutions.
            options: ``prompt_format``, ``max_new_tokens``.

        Raises:
            ValueError: no such file, or no good line in it.

        Book: 20_vineppo.
        """
        path = Path(path)
        files = [path / "train.jsonl", path / "test.jsonl"] if path.is_dir() else [path]
        if not files[0].is_file():
            raise ValueError(f"{files[0]} does not exist: give a JSONL file or a folder with it")
        malformed: list[tuple[str, int, str]] = []
        loaded = [
            list(read_lines(file, calculator_marks, malformed)) for file in files if file.is_file()
        ]
        if malformed:
            named = "; ".join(f"{file} line {line}: {why}" for file, line, why in malformed[:SHOWN])
            more = f"; and {len(malformed) - SHOWN} more" if len(malformed) > SHOWN else ""
            warnings.warn(f"{len(malformed)} malformed lines left out: {named}{more}", stacklevel=2)
        return cls(*loaded, malformed=malformed, **options)

    @classmethod
    def from_hub(
        cls, name: str = HUB_NAME, *, calculator_marks: bool = True, **options: Any
    ) -> "GSM8K":
        """Load both splits from the hub, through the ``datasets`` library.

        Raises:
            ValueError: the library is not installed, or the hub cannot be reached.

        Book: 20_vineppo.
        """
        instead = "or give a JSONL file to GSM8K.from_path"
        try:
            datasets = importlib.import_module("datasets")
        except ImportError:
            raise ValueError(
                f"GSM8K.from_hub needs the datasets library: pip install datasets, {instead}"
            ) from None
        try:
            splits = datasets.load_dataset(name, "main")
        except Exception as error:  # the library's errors have no common class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{name} cannot be loaded ({reason}): go online, {instead}") from error
        pairs = {
            split: [
                (
                    row["question"],
                    row["answer"] if calculator_marks else remove_marks(row["answer"]),
                )
                for row in splits[split]
            ]
            for split in ("train", "test")
        }
        return cls(pairs["train"], pairs["test"], **options)

    # --- rewards and steps ---

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [
            float(final_answer(text) == Fraction(problem.answer))
            for problem, text in zip(problems, texts, strict=True)
        ]

    def extract_answer(self, text: str) -> str:
        """The final answer as a plain number, such as "72" or "5/2"; "" where there is none."""
        answer = final_answer(text)
        return "" if answer is None else str(answer)

    def step_boundaries(self, text: str) -> list[int]:
        """After each line with something on it; the ``####`` line belongs to the last step."""
        working = text[: final_line_start(text)]
        ends, start = [], 0
        for line in working.splitlines(keepends=True):
            start += len(line)
            if line.strip():
                ends.append(start)
            elif ends:
                ends[-1] = start  # a blank line belongs to the step before
        return [*ends[:-1], len(text)]

    def demonstrations(self, n: int, generator: torch.Generator) -> list[tuple[str, str]]:
        """n pairs (prompt, reference solution) on training problems."""
        return [(p.prompt, self.solutions[p.prompt]) for p in self.problems(n, generator)]

    def _as_problems(self, pairs: Iterable[tuple[str, str]]) -> list[Problem]:
        problems = []
        for question, solution in pairs:
            prompt = self.prompt_format.replace("{question}", question)
            if final_answer(solution) is None:
                raise ValueError(f"no number after {MARK!r} in the solution {solution[-60:]!r}")
            self.solutions[prompt] = solution
            problems.append(Problem(prompt, str(final_answer(solution))))
        return problems


def read_lines(
    file: Path, calculator_marks: bool, malformed: list[tuple[str, int, str]]
) -> Iterable[tuple[str, str]]:
    """The (question, solution) pairs of a JSONL file; what is wrong goes into ``malformed``."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield checked_line(line, calculator_marks)
            except ValueError as error:
                malformed.append((file.name, number, str(error)))


def checked_line(line: bytes, calculator_marks: bool) -> tuple[str, str]:
    """One JSONL line as (question, solution); ValueError says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    for field in ("question", "answer"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"no text in the field {field!r}")
    if final_answer(row["answer"]) is None:
        raise ValueError(f"no number on a line that begins with {MARK!r} in the field 'answer'")
    answer = row["answer"] if calculator_marks else remove_marks(row["answer"])
    return row["question"], answer


def final_answer(text: str) -> Fraction | None:
    """The number after the last ``####``, to the end of that line; None where there is not one.

    Read exactly: commas between thousands, a currency sign, ``%``, units and a closing full stop
    are passed over, a minus counts, ``1/2`` and ``0.5`` are the same. Two numbers are no answer.
    """
    _, mark, rest = text.rpartition(MARK)
    return parse_number(rest.partition("\n")[0]) if mark else None


def parse_number(text: str) -> Fraction | None:
    """The one number in a short text, exactly, or None where there is none or more than one."""
    found = NUMBER.search(text)
    if found is None or len(text) > LONGEST:
        return None
    end = found.end()
    divisor = FRACTION.match(text, end)
    end = divisor.end() if divisor else end
    if NUMBER.search(text, end):
        return None
    digits = found["digits"].replace(",", "").rstrip(".")
    number = Fraction(Decimal(digits))
    if divisor:
        if int(divisor[1]) == 0:
            return None
        number /= int(divisor[1])
    return -number if found["sign"] or found["minus"] else number


def final_line_start(text: str) -> int:
    """Where the line with the last ``####`` begins; the text's length where there is none."""
    mark = text.rfind(MARK)
    return len(text) if mark < 0 else text.rfind("\n", 0, mark) + 1


def remove_marks(text: str) -> str:
    """The text without its calculator marks."""
    return CALCULATOR.sub("", text)
