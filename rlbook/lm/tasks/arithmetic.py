"""Arithmetic chains: a sum with several operators, worked out from left to right modulo 10.

    prompt    3+5-4*9=
    response  3+5=8;8-4=4;4*9=6.

Every step is written with its operands, ends with ``;``, and the last one with ``.``. There is
no precedence: the chain is worked strictly from left to right.

The skill comes from *clean* text. The *demonstrators* are biased: at every * they add instead
(``4*9=3``), in ``bias`` of the cases, and now and then slip to a random digit (``noise``). A model
that imitates them is capped, sampled, greedy and by majority vote alike, because the wrong step
is the likelier one. What the cap is, ``demonstrator_accuracy`` computes exactly.

A wrong step can still give a right answer (``2*2`` is ``2+2``; ``0*0`` too; two errors may cancel;
a later ``*0`` wipes out every error before it), and the reward does not mind: it sees the answer
alone. ``steps_right`` sees the difference.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlbook.lm.tasks.task import Problem, Task, check_probability, noisy_opinions

OPERATIONS = {
    "+": lambda a, b: (a + b) % 10,
    "-": lambda a, b: (a - b) % 10,
    "*": lambda a, b: (a * b) % 10,
}
HARD, TAKEN_FOR = "*", "+"  # the step most demonstrators do wrong, and what they do instead
FORMS = {"written": 6, "terse": 2, "answer": 2}  # longest step, in characters
ANSWER = re.compile(r"(?:^|[=;])(\d)\.\Z")
STEP = re.compile(r"(?:(\d)([-+*])(\d)=)?(\d)[;.]")


class Arithmetic(Task):
    """Chains of one-digit sums modulo 10, with biased demonstrators.

    The reward is 1 iff the response ends with the right final digit and the full stop: after
    the last ``=`` or ``;`` there stand exactly that digit and ``.``, and nothing follows. What
    comes before is not looked at: wrong working with a right answer earns 1.

    Args:
        steps: fewest and most operators of a chain, drawn uniformly; 1 to 16.
        operators: each operator is drawn uniformly from these characters; write one several
            times to make it more frequent (``"+++-*"``).
        bias: probability, per ``*`` step, that a demonstrator adds instead.
        noise: probability, per step, that a demonstrator writes a uniformly drawn digit.
        form: how demonstrations and clean text write the working: "written" as above, "terse"
            (``8;4;6.``) or "answer" (``6.``). Prompts and rewards are the same.

    Raises:
        ValueError: an argument out of range, with what is allowed.

    Book: 13_sft.
    """

    name = "arithmetic"
    characters = "0123456789+-*=;."  # that prompts and responses are made of

    def __init__(
        self,
        steps: tuple[int, int] = (2, 4),
        *,
        operators: str = "+-*",
        bias: float = 0.7,
        noise: float = 0.03,
        form: str = "written",
    ) -> None:
        fewest, most = steps
        if not 1 <= fewest <= most <= 16:
            raise ValueError(f"steps={steps} must be a pair with 1 <= fewest <= most <= 16")
        if not operators or set(operators) - set(OPERATIONS):
            raise ValueError(f"operators={operators!r} must be made of the characters + - *")
        if form not in FORMS:
            raise ValueError(f"form={form!r} is not one of {', '.join(map(repr, FORMS))}")
        self.steps, self.operators, self.form = (int(fewest), int(most)), operators, form
        self.bias = check_probability("bias", bias)
        self.noise = check_probability("noise", noise)
        self.max_new_tokens = FORMS[form] * most + 2  # one token per character, EOS, one to spare

    @classmethod
    def harder(cls) -> "Arithmetic":
        """The second setting: pass@1 is low and pass@64 high for the imitator."""
        return cls((5, 7), operators="+-**", bias=0.8)

    @classmethod
    def horizon(cls, steps: int, **settings: float | str) -> "Arithmetic":
        """Chains of exactly ``steps`` operators with one * each on average.

        So the imitator starts at about the same accuracy whatever the length, and what differs
        is how many steps share the credit. ``steps`` is 3 to 16.
        """
        if not 3 <= steps <= 16:
            raise ValueError(f"steps={steps}: a horizon is 3 to 16 operators")
        easy = ("+-" * steps)[: steps - 1]
        return cls((steps, steps), operators=easy + HARD, **settings)

    # --- problems and rewards ---

    def draw(self, n: int, generator: torch.Generator) -> list[Problem]:
        fewest, most = self.steps
        lengths = torch.randint(fewest, most + 1, (n,), generator=generator)
        digits = torch.randint(0, 10, (n, most + 1), generator=generator)
        chosen = torch.randint(0, len(self.operators), (n, most), generator=generator)
        kinds = torch.tensor([list(OPERATIONS).index(symbol) for symbol in self.operators])[chosen]
        values = chain_values(digits, kinds).gather(1, lengths[:, None])[:, 0].tolist()
        codes = torch.empty(n, 2 * most + 1, dtype=torch.uint8)  # the prompts, as characters
        codes[:, 0::2] = digits + ord("0")
        codes[:, 1::2] = torch.tensor([ord(symbol) for symbol in OPERATIONS])[kinds]
        drawn = codes.numpy().tobytes().decode()
        starts = range(0, len(drawn), codes.shape[1])
        return [
            Problem(drawn[start : start + 2 * length + 1] + "=", str(value))
            for start, length, value in zip(starts, lengths.tolist(), values, strict=True)
        ]

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [
            float(self.extract_answer(text) == problem.answer)
            for problem, text in zip(problems, texts, strict=True)
        ]

    def extract_answer(self, text: str) -> str:
        """The final digit, or "" where the text does not end with ``=`` or ``;``, digit, ``.``"""
        found = ANSWER.search(text)
        return found[1] if found else ""

    def step_boundaries(self, text: str) -> list[int]:
        """After each ``;``, and at the end."""
        ends = [i + 1 for i, character in enumerate(text) if character == ";"]
        return ends if ends[-1:] == [len(text)] else [*ends, len(text)]

    # --- demonstrations ---

    def demonstrations(
        self, n: int, generator: torch.Generator, *, clean: bool = False
    ) -> list[tuple[str, str]]:
        """n pairs (prompt, response) on training problems, by the biased, noisy demonstrators.

        ``clean=True`` gives flawless responses: what a base model is pretrained on.
        """
        problems = self.problems(n, generator)
        most = self.steps[1]
        wrong = (torch.rand((n, most), generator=generator) < self.bias).tolist()
        slips = (torch.rand((n, most), generator=generator) < self.noise).tolist()
        digits = torch.randint(0, 10, (n, most), generator=generator).tolist()
        pairs = []
        for i, problem in enumerate(problems):
            steps = []
            first, chain = parse_chain(problem.prompt)
            value = first
            for j, (symbol, digit) in enumerate(chain):
                done = TAKEN_FOR if symbol == HARD and wrong[i][j] and not clean else symbol
                result = OPERATIONS[done](value, digit)
                if slips[i][j] and not clean:
                    result = digits[i][j]
                steps.append((value, symbol, digit, result))
                value = result
            pairs.append((problem.prompt, write(steps, self.form)))
        return pairs

    def documents(self, n: int, generator: torch.Generator) -> list[str]:
        """n clean documents for pretraining: prompt and flawless response in one text."""
        return [
            prompt + response for prompt, response in self.demonstrations(n, generator, clean=True)
        ]

    # --- what the demonstrators' imitator can reach ---

    def answer_probabilities(
        self, problems: Sequence[Problem], *, greedy: bool = False
    ) -> Float[Tensor, "n 10"]:
        """Exact distribution of the demonstrators' final digit, per problem, float64.

            p_0 = [first digit],   p_{i+1}(v') = Σ_v p_i(v) · Pr(v' | v, operator, digit)

        ``greedy=True``: of the one who always takes the likeliest step (the wrong * where bias
        is above ½), what greedy decoding of a perfect imitator gives.
        """
        table = step_table(0.0 if greedy else self.noise, self._bias(greedy))
        parsed = [parse_chain(problem.prompt) for problem in problems]
        probabilities = torch.eye(10, dtype=torch.float64)[[first for first, _ in parsed]]
        symbols = list(OPERATIONS)
        for i in range(max((len(chain) for _, chain in parsed), default=0)):
            rows = [n for n, (_, chain) in enumerate(parsed) if len(chain) > i]
            kinds = [symbols.index(parsed[n][1][i][0]) for n in rows]
            digits = [parsed[n][1][i][1] for n in rows]
            moved = torch.einsum("nv,nvw->nw", probabilities[rows], table[kinds, digits])
            probabilities[rows] = moved
        return probabilities

    def demonstrator_accuracy(
        self, problems: Sequence[Problem], *, how: str = "sampled"
    ) -> Float[Tensor, " n"]:
        """Exact accuracy of the demonstrators on each problem: what imitation is capped at.

        Args:
            how: "sampled" (probability of the right answer), "greedy" (1 where always taking
                the likeliest step is right) or "majority" (1 where the likeliest answer is).

        Book: 13_sft.
        """
        if how not in ("sampled", "greedy", "majority"):
            raise ValueError(f"how={how!r} is not one of 'sampled', 'greedy', 'majority'")
        probabilities = self.answer_probabilities(problems, greedy=how == "greedy")
        answers = torch.tensor([int(problem.answer) for problem in problems], dtype=torch.long)
        if how == "majority":
            return (probabilities.argmax(dim=1) == answers).double()
        return probabilities[torch.arange(len(problems)), answers]

    def expected_accuracy(self, *, greedy: bool = False) -> float:
        """The demonstrators' exact accuracy over all prompts of this setting.

        Carries the joint distribution of (true value, written value) along the chain.
        """
        table = step_table(0.0 if greedy else self.noise, self._bias(greedy))
        truth = step_table(0.0, 0.0)
        kinds = [list(OPERATIONS).index(symbol) for symbol in self.operators]
        both = torch.eye(10, dtype=torch.float64) / 10
        accuracies = []
        for i in range(1, self.steps[1] + 1):
            moved = torch.einsum("kdtu,tv,kdvw->uw", truth[kinds], both, table[kinds])
            both = moved / (len(kinds) * 10)
            if i >= self.steps[0]:
                accuracies.append(both.trace())
        return float(torch.stack(accuracies).mean())

    def _bias(self, greedy: bool) -> float:
        return float(self.bias > 0.5) if greedy else self.bias

    # --- looking at the steps ---

    def steps_right(self, problem: Problem, text: str) -> list[bool]:
        """For each step of the text: is it the right next step of this chain?

        Right means: this step's operator and digit (where written), the value that the step
        before wrote as its first operand, the true result of these, ``;`` or at the end ``.``.
        A step is not blamed for an error before it. Steps beyond the chain are wrong.
        """
        value, chain = parse_chain(problem.prompt)
        if "=" not in text and text.count(";") == 0 and len(chain) > 1:
            return [self.score([problem], [text])[0] == 1.0]  # the bare answer
        verdicts = []
        for i, step in enumerate(self._split(text)):
            found = STEP.fullmatch(step)
            if found is None or i >= len(chain):
                verdicts.append(False)
                continue
            symbol, digit = chain[i]
            first, written, second, result = found.groups()
            as_asked = first is None or (first, written, second) == (str(value), symbol, str(digit))
            right = int(result) == OPERATIONS[symbol](value, digit)
            verdicts.append(as_asked and right and step[-1] == (";."[i == len(chain) - 1]))
            value = int(result)
        return verdicts

    def steps_sound(self, problem: Problem, text: str) -> list[bool]:
        """For each step on its own: is it a true sum, whatever the chain asks?

        A step without operands, such as ``8;``, is sound where it is well formed.
        """
        return [is_true_sum(step) for step in self._split(text)]

    def judge_steps(
        self, problem: Problem, text: str, generator: torch.Generator, *, error: float = 0.1
    ) -> list[bool]:
        """A noisy judge's opinion of each step: ``steps_sound``, wrong with probability error.

        It does not see the answer, nor the chain: sound steps that miss the question pass.
        """
        return noisy_opinions(self.steps_sound(problem, text), generator, error=error)

    def _split(self, text: str) -> list[str]:
        ends = self.step_boundaries(text)
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def chain_values(digits: Int[Tensor, "n L"], kinds: Int[Tensor, "n M"]) -> Int[Tensor, "n L"]:
    """The true value of each chain after 0, 1, ... M operators (L = M + 1).

    ``kinds`` number OPERATIONS.
    """
    values = [digits[:, 0]]
    for i in range(kinds.shape[1]):
        results = [operation(values[-1], digits[:, i + 1]) for operation in OPERATIONS.values()]
        values.append(torch.stack(results, dim=1).gather(1, kinds[:, i : i + 1])[:, 0])
    return torch.stack(values, dim=1)


def parse_chain(prompt: str) -> tuple[int, list[tuple[str, int]]]:
    """``3+5-4=`` as 3, [("+", 5), ("-", 4)].

    Raises:
        ValueError: the prompt is not such a chain.
    """
    if not re.fullmatch(r"\d(?:[-+*]\d)+=", prompt):
        raise ValueError(f"{prompt!r} is not a chain such as '3+5-4=': digits, + - *, then =")
    return int(prompt[0]), [(prompt[i], int(prompt[i + 1])) for i in range(1, len(prompt) - 1, 2)]


def write(steps: Sequence[tuple[int, str, int, int]], form: str) -> str:
    """The working of (value, operator, digit, result) steps as text, in one of FORMS."""
    if form == "answer":
        return f"{steps[-1][3]}."
    if form == "terse":
        return ";".join(str(result) for *_, result in steps) + "."
    return ";".join(f"{a}{symbol}{b}={result}" for a, symbol, b, result in steps) + "."


def is_true_sum(step: str) -> bool:
    """Whether a step such as ``4*9=6;`` holds on its own (``6;`` holds: nothing to check)."""
    found = STEP.fullmatch(step)
    if found is None:
        return False
    first, symbol, second, result = found.groups()
    return first is None or OPERATIONS[symbol](int(first), int(second)) == int(result)


def step_table(noise: float, bias: float) -> Float[Tensor, "3 10 10 10"]:
    """Pr(result | operator, digit, value) of a step: [operator, digit, value, result].

    (1 - noise) · [ (1 - bias) · right + bias · as TAKEN_FOR ] + noise / 10, bias for HARD alone.
    """
    table = torch.zeros(3, 10, 10, 10, dtype=torch.float64)
    for kind, symbol in enumerate(OPERATIONS):
        share = bias if symbol == HARD else 0.0
        for digit in range(10):
            for value in range(10):
                table[kind, digit, value, OPERATIONS[symbol](value, digit)] += 1 - share
                table[kind, digit, value, OPERATIONS[TAKEN_FOR](value, digit)] += share
    return (1 - noise) * table + noise / 10
