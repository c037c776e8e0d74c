"""What a task is: prompts, rewards for responses, steps of a response, a held-out split.

A loop of Part IV asks a task for problems, lets the policy answer them, and asks for rewards.
Every task of this package is a ``Task``, and ``Task.from_functions`` makes one from a reader's
own prompts and reward function.

Train and test never overlap: a task that generates its problems holds one prompt in ten out for
testing, chosen by a hash of the prompt that is the same on every machine and in every session.
"""

import math
import zlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SPLITS = ("train", "test")
TEST_ONE_IN = 10
DRAWS_BEFORE_GIVING_UP = 100

Prompt = str | tuple[int, ...]  # token ids where a policy has no tokenizer, as TabularLM


@dataclass(frozen=True)
class Problem:
    """A prompt, and what the reward compares a response with (the task says what; may be "")."""

    prompt: Prompt
    answer: str = ""


class Task:
    """Prompts and rewards. A subclass that generates its problems defines ``draw`` and ``score``.

    Attributes:
        name: for tables and file names.
        max_new_tokens: the length limit, in tokens, EOS included. It belongs to the task: a
            response that is cut there earns 0 (``rewards(..., truncated=...)``).
        train_problems, test_problems: the fixed sets, or None where problems are drawn afresh.
        stop: a token, as text, that ends a response as EOS does; None: EOS alone ends it.

    Book: 12_text_as_mdp, 18_grpo.
    """

    name: str = "task"
    max_new_tokens: int = 64
    train_problems: tuple[Problem, ...] | None = None
    test_problems: tuple[Problem, ...] | None = None
    stop: str | None = None

    # --- what a subclass defines ---

    def draw(self, n: int, generator: torch.Generator) -> list[Problem]:
        """Draw n problems of either split."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(n, generator)")

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        """The reward of each text: n numbers, as a list, an array or a tensor."""
        raise NotImplementedError(f"{type(self).__name__} must define score(problems, texts)")

    def step_boundaries(self, text: str) -> list[int]:
        """Character offsets just after each step's last character; the last is len(text).

        Where a task has no steps the whole text is one.
        """
        return [len(text)]

    def extract_answer(self, text: str) -> str:
        """What a majority vote counts: the answer in a response, without its working."""
        return text.strip()

    def split_key(self, prompt: Prompt) -> str:
        """What the hash that assigns a drawn prompt to a split is taken of: the prompt itself."""
        return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))

    # --- what every task offers ---

    def split_of(self, problem: Problem) -> str:
        """The split a drawn problem belongs to: "test" for one key in ten, by its crc32."""
        return SPLITS[zlib.crc32(self.split_key(problem.prompt).encode()) % TEST_ONE_IN == 0]

    def stop_ids(self, policy: Any) -> list[int]:
        """``stop`` as the token ids that ``sample_responses`` takes; [] where there is none.

        Raises ValueError if it is not one token of the policy's tokenizer.
        """
        if self.stop is None:
            return []
        ids = policy.tokenizer(self.stop, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"stop={self.stop!r} is {len(ids)} tokens to this policy: it must be one, or None"
            )
        return ids

    def problems(
        self, n: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Problem]:
        """Draw n problems of one split.

        From a fixed training set the draw goes through shuffled passes: no problem comes twice
        in a call of n ≤ its size. Otherwise problems are drawn independently.

        Raises:
            ValueError: unknown split, negative n, or a split that (nearly) never occurs.

        Book: 12_text_as_mdp.
        """
        check_split(split)
        if n < 0:
            raise ValueError(f"n={n} problems cannot be drawn: ask for 0 or more")
        fixed = self.train_problems if split == "train" else self.test_problems
        if fixed is not None:
            return shuffled_passes(fixed, n, generator)
        found: list[Problem] = []
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            if len(found) >= n:
                break
            wanted = n - len(found)
            enough = 1 + (wanted * 5 // 4 if split == "train" else wanted * (TEST_ONE_IN + 2))
            drawn = self.draw(enough, generator)
            found += [problem for problem in drawn if self.split_of(problem) == split]
        if len(found) < n:
            raise ValueError(
                f"the task {self.name!r} has too few problems in its {split} split to draw {n}: "
                "choose a setting with more different prompts"
            )
        return found[:n]

    def fixed(self, n: int, generator: torch.Generator) -> "Task":
        """The same task with a training set of n different problems, drawn now.

        The test split stays as it was. ``task.train_problems`` holds the set.

        Raises:
            ValueError: the task has fewer than n different training prompts.
        """
        chosen: dict[Prompt, Problem] = {}
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            for problem in self.problems(n, generator):
                chosen.setdefault(problem.prompt, problem)
            if len(chosen) >= n:
                task = copy(self)
                task.train_problems = tuple(chosen.values())[:n]
                return task
        raise ValueError(
            f"the task {self.name!r} has only {len(chosen)} different training prompts, not "
            f"{n}: ask for fewer"
        )

    def rewards(
        self,
        problems: Sequence[Problem],
        texts: Sequence[str],
        *,
        truncated: Sequence[bool] | Tensor | None = None,
    ) -> Float[Tensor, " n"]:
        """The reward of each response, float32 on the CPU.

        Args:
            problems: one per text (repeat each K times for K samples, contiguously).
            texts: the responses, without their EOS.
            truncated: True where a response was cut at ``max_new_tokens``: it earns 0.

        Raises:
            ValueError: problems, texts and rewards differ in number; a reward that is not a
                finite number (which sample).

        Book: 12_text_as_mdp.
        """
        if len(problems) != len(texts):
            raise ValueError(
                f"{len(problems)} problems for {len(texts)} texts: give one problem per text, "
                "repeating each for its samples"
            )
        rewards = checked_rewards(self.score(problems, texts), texts)
        if truncated is None:
            return rewards
        if len(truncated) != len(texts):
            raise ValueError(f"truncated has {len(truncated)} entries for {len(texts)} texts")
        return torch.where(torch.as_tensor(truncated).bool().cpu(), 0.0, rewards)

    @staticmethod
    def from_functions(
        prompts: Sequence[Any],
        rewards: Any,
        step_boundaries: Any = None,
        *,
        test_prompts: Sequence[Any] | None = None,
        extract_answer: Any = None,
        max_new_tokens: int = 128,
        stop: str | None = None,
        name: str = "own task",
    ) -> "Task":
        """Make a task from your own prompts and reward function.

            task = Task.from_functions(
                ["Name a colour.", "Name a fruit."],
                rewards=lambda prompts, texts: [float("red" in text) for text in texts],
            )

        Args:
            prompts: the training prompts: strings, or lists of token ids.
            rewards: a function. It takes the prompts and the responses' texts, two lists of the
                same length, and returns one number per text (a list, an array or a tensor). A
                reward model or a service fits.
            step_boundaries: a function. It takes a text and returns the character offsets just
                after each step, the last being the text's length. Default: one step.
            test_prompts: prompts for the test split; none of them may be a training prompt.
                Without them the task has no test split.
            extract_answer: a function from a text to what a majority vote counts. Default: the
                text, stripped.
            max_new_tokens: the length limit in tokens, at least 1.
            stop: a token, as text, that ends a response as EOS does.

        Raises:
            ValueError: no prompts, an empty one, a prompt in both splits, a limit below 1,
                something that is no function where one is needed.

        Book: 18_grpo.
        """
        task = _OwnTask(
            prompts, rewards, step_boundaries, test_prompts, extract_answer, max_new_tokens, name
        )
        task.stop = stop
        return task


class _OwnTask(Task):
    """The task that ``Task.from_functions`` makes."""

    def __init__(
        self, prompts, rewards, step_boundaries, test_prompts, extract_answer, max_new_tokens, name
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        if rewards is None:
            raise ValueError("rewards is None: give a function of prompts and texts")
        for role, function in (
            ("rewards", rewards),
            ("step_boundaries", step_boundaries),
            ("extract_answer", extract_answer),
        ):
            if function is not None and not callable(function):
                raise ValueError(f"{role} must be a function; it is {function!r}")
        self.name, self.max_new_tokens = name, max_new_tokens
        self.train_problems = as_problems(prompts, "prompts")
        self.test_problems = as_problems(test_prompts, "test_prompts") if test_prompts else ()
        training = {problem.prompt for problem in self.train_problems}
        for problem in self.test_problems:
            if problem.prompt in training:
                raise ValueError(
                    f"the prompt {problem.prompt!r} is in prompts and in test_prompts: a test "
                    "prompt must be held out"
                )
        self._rewards, self._boundaries, self._extract = rewards, step_boundaries, extract_answer

    def problems(
        self, n: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Problem]:
        if split == "test" and not self.test_problems:
            raise ValueError(
                f"the task {self.name!r} has no test prompts: pass test_prompts= to "
                "Task.from_functions"
            )
        return super().problems(n, generator, split=split)

    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        return self._rewards([problem.prompt for problem in problems], list(texts))

    def step_boundaries(self, text: str) -> list[int]:
        if self._boundaries is None:
            return super().step_boundaries(text)
        boundaries = list(self._boundaries(text))
        ordered = all(a < b for a, b in zip([0, *boundaries], boundaries, strict=False))
        if (text and not ordered) or boundaries[-1:] != [len(text)]:
            raise ValueError(
                f"step_boundaries returned {boundaries} for a text of {len(text)} characters: "
                f"return increasing offsets above 0, the last of them {len(text)}"
            )
        return boundaries

    def extract_answer(self, text: str) -> str:
        return super().extract_answer(text) if self._extract is None else self._extract(text)


def as_problems(prompts: Sequence[Any], role: str) -> tuple[Problem, ...]:
    """Prompts as problems without an answer; ValueError for none at all or an empty one."""
    if isinstance(prompts, str):
        raise ValueError(f"{role} is one string; give a list of prompts")
    problems = tuple(
        Problem(prompt if isinstance(prompt, str) else tuple(int(i) for i in prompt))
        for prompt in prompts
    )
    if not problems:
        raise ValueError(f"{role} is empty: give at least one prompt")
    for index, problem in enumerate(problems):
        if not problem.prompt:
            raise ValueError(f"{role}[{index}] is empty: a policy needs something to continue")
    return problems


def checked_rewards(rewards: Any, texts: Sequence[str]) -> Float[Tensor, " n"]:
    """The numbers a reward function returned as float32 [n]; ValueError where they are not that."""
    if isinstance(rewards, Tensor):
        rewards = rewards.detach().cpu().tolist()
    elif hasattr(rewards, "tolist"):  # numpy
        rewards = rewards.tolist()
    if not isinstance(rewards, list | tuple):
        raise ValueError(
            f"the reward function returned {type(rewards).__name__} for {len(texts)} texts: "
            "return a list with one number per text"
        )
    if len(rewards) != len(texts):
        raise ValueError(
            f"the reward function returned {len(rewards)} rewards for {len(texts)} texts: "
            "return one number per text"
        )
    numbers = []
    for index, reward in enumerate(rewards):
        try:
            number = math.nan if isinstance(reward, str) else float(reward)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"the reward of sample {index} is {reward!r} (text {texts[index][:60]!r}): "
                "every reward must be a finite number"
            )
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float32)


def noisy_opinions(
    verdicts: Sequence[bool], generator: torch.Generator, *, error: float
) -> list[bool]:
    """Each verdict, turned round with probability ``error``."""
    error = check_probability("error", error)
    flips = (torch.rand(len(verdicts), generator=generator) < error).tolist()
    return [verdict != flip for verdict, flip in zip(verdicts, flips, strict=True)]


def shuffled_passes(
    problems: Sequence[Problem], n: int, generator: torch.Generator
) -> list[Problem]:
    """n problems: one random permutation of them all after another."""
    order: list[int] = []
    while len(order) < n:
        order += torch.randperm(len(problems), generator=generator).tolist()
    return [problems[i] for i in order[:n]]


def check_split(split: str) -> None:
    """ValueError for anything but "train" and "test"."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(map(repr, SPLITS))}")


def check_probability(name: str, value: float) -> float:
    """The value as a float; ValueError outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value} is not a probability: it must lie in [0, 1]")
    return float(value)
