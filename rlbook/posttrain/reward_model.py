"""A reward model: a language model with one number for a head, trained on people's choices.

    L = -log σ( r(x, y_w) - r(x, y_l) - m )        Bradley-Terry, for pairs
    L = the mean of it over the pairs of a ranking  K-wise

A difference of scores is what the data speak of: adding a number to all scores of a prompt
changes no loss. ``centre`` fixes that number afterwards.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.masked import aggregate
from rlbook.functional.preference_losses import bradley_terry_loss, k_wise_loss
from rlbook.lm.batch import Responses, responses_from_texts
from rlbook.lm.chat import Message, chat_prompt, parse_transcript
from rlbook.lm.heads import ScalarModel, sequence_scores
from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Problem, Prompt, Task
from rlbook.loop import LoopState, accumulated_step, cosine_schedule, set_learning_rate
from rlbook.report import StepReport


@dataclass(frozen=True)
class Preference:
    """Responses to a prompt, the best first: two for a pair, up to nine for a ranking.

    Attributes:
        margin: how far apart the two scores of a pair should be, from a graded label.

    Raises ValueError for fewer than two responses, two that are the same, and a margin with more
    than two.
    """

    prompt: Prompt
    texts: tuple[str, ...]
    margin: float = 0.0

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise ValueError(f"{len(self.texts)} responses: a preference needs at least two")
        if len(set(self.texts)) < len(self.texts):
            raise ValueError(f"two responses are the same: {self.texts[0][:40]!r} ...")
        if self.margin and len(self.texts) > 2:
            raise ValueError(f"margin={self.margin} belongs to a pair, not to a ranking")


@dataclass(frozen=True)
class RewardModelConfig:
    """Settings of ``train_reward_model``.

    Attributes:
        steps: optimiser steps. batch_size: prompts in each; they come in shuffled passes.
        learning_rate: peak, of AdamW, after ``warmup`` steps; a cosine to 0 follows.
        betas, weight_decay: of AdamW. max_grad_norm: longest gradient; None does not clip.
        seed: of the order of the prompts.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    seed: int = 0


def train_reward_model(
    model: ScalarModel,
    preferences: Sequence[Preference],
    config: RewardModelConfig,
    *,
    state: LoopState | None = None,
) -> Iterator[StepReport]:
    """Train ``model`` in place; yields a report after each step.

    Metrics, of the batch before the step: ``loss`` per prompt; ``accuracy`` share of its pairs
    that the model orders as the labeller did; ``gap`` mean difference of their scores;
    ``grad_norm``; ``learning_rate``. ``samples`` counts prompts.

    Raises:
        ValueError: no preferences; a text that does not fit (``responses_from_texts``).

    Book: 14_reward_model. Source: Ouyang et al. (2022), section 3.5, step 2.
    """
    if not preferences:
        raise ValueError("there are no preferences: give at least one")
    state = LoopState() if state is None else state
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    state.start(optimiser, torch.Generator().manual_seed(config.seed))
    while state.step < config.steps:
        rate = config.learning_rate * cosine_schedule(
            state.step, config.steps, warmup=config.warmup
        )
        set_learning_rate(optimiser, rate)
        batch = [preferences[i] for i in state.next_examples(len(preferences), config.batch_size)]
        scores, mask = score_preferences(model, batch)
        loss, norm = accumulated_step(
            optimiser, [preference_loss(scores, mask, batch)], max_grad_norm=config.max_grad_norm
        )
        state.step, state.samples = state.step + 1, state.samples + len(batch)
        right, gap = pairwise(scores.detach(), mask)
        metrics = {"loss": loss, "accuracy": right, "gap": gap}
        yield StepReport(
            state.step, state.samples, metrics | {"grad_norm": norm, "learning_rate": rate}
        )


def score_preferences(
    model: ScalarModel, batch: Sequence[Preference]
) -> tuple[Float[Tensor, "N K"], Tensor]:
    """Scores of all responses, one row per prompt, best first; and which cells exist.

    All responses to a prompt are scored in one forward: that is why a ranking of K costs K
    forwards and teaches K(K-1)/2 pairs.
    """
    prompts = [p.prompt for p in batch for _ in p.texts]
    texts = [text for p in batch for text in p.texts]
    found = sequence_scores(model, responses_from_texts(model.policy, prompts, texts))
    counts = torch.tensor([len(p.texts) for p in batch], device=found.device)
    K = int(counts.max())
    mask = torch.arange(K, device=found.device) < counts[:, None]
    scores = found.new_zeros(mask.shape).masked_scatter(mask, found)
    return scores, mask


def preference_loss(
    scores: Float[Tensor, "N K"], mask: Tensor, batch: Sequence[Preference]
) -> Float[Tensor, ""]:
    """The mean over prompts: Bradley-Terry with its margin for pairs, K-wise for rankings."""
    margins = torch.tensor([p.margin for p in batch], device=scores.device, dtype=scores.dtype)
    pair = mask.sum(dim=1) == 2
    pairs = bradley_terry_loss(scores[:, 0], scores[:, 1], margin=margins)
    losses = torch.where(pair, pairs, k_wise_loss(scores, mask))
    return aggregate(losses[:, None], torch.ones_like(pair)[:, None], "sequence-mean")


def pairwise(scores: Float[Tensor, "N K"], mask: Tensor) -> tuple[float, float]:
    """Share of all pairs that are in order (a tie counts half), and the mean difference."""
    pairs = torch.triu(mask[:, :, None] & mask[:, None, :], diagonal=1)
    gaps = (scores[:, :, None] - scores[:, None, :])[pairs]
    return ((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean().item(), gaps.mean().item()


@torch.no_grad()
def centre(model: ScalarModel, responses: Responses) -> float:
    """Shift the scores so that their mean over reference samples is 0; returns the old mean.

    No loss can see the shift, but PPO's value network and its KL price can.

    Book: 14_reward_model. Source: Stiennon et al. (2020), appendix B.1; Ouyang et al. (2022).
    """
    mean = sequence_scores(model, responses).mean()
    model.head.bias -= mean
    return mean.item()


# --- judging a reward model ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judgement:
    """How a reward model does on held-out pairs.

    Attributes:
        accuracy: share of pairs in the labellers' order; ties count half.
        loss: mean Bradley-Terry loss, in nats (log 2 = knows nothing).
        longer_wins: how often the model prefers the longer of two texts of different lengths;
            ``longer_chosen`` the same of the labellers. A gap is a bias of the model's own.
        calibration: (mean predicted probability, share chosen, pairs) in bins of equal width of
            P(first ≻ second), each pair presented in a fixed but arbitrary order.
    """

    accuracy: float
    loss: float
    longer_wins: float
    longer_chosen: float
    calibration: list[tuple[float, float, int]]


@torch.no_grad()
def judge(
    model: ScalarModel, preferences: Sequence[Preference], *, bins: int = 5, max_rows: int = 256
) -> Judgement:
    """Measure a reward model on pairs that it was not trained on.

    Raises ValueError for rankings (cut them into pairs) and for none at all.

    Book: 14_reward_model.
    """
    if not preferences or any(len(p.texts) != 2 for p in preferences):
        raise ValueError("judge takes pairs, at least one: cut rankings into their pairs")
    cuts = range(0, len(preferences), max_rows)
    parts = [score_preferences(model, preferences[i : i + max_rows])[0] for i in cuts]
    scores = torch.cat(parts).double().cpu()
    longer = torch.tensor([len(p.texts[0]) - len(p.texts[1]) for p in preferences])
    gaps = scores[:, 0] - scores[:, 1]
    uneven = longer != 0
    agree = (gaps * longer > 0)[uneven].double()
    # Presented by the alphabet: an order that has nothing to do with who won.
    first = torch.tensor([p.texts[0] < p.texts[1] for p in preferences])
    p_first = torch.sigmoid(torch.where(first, gaps, -gaps))
    accuracy = ((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean().item()
    return Judgement(
        accuracy=accuracy,
        loss=bradley_terry_loss(scores[:, 0], scores[:, 1]).mean().item(),
        longer_wins=agree.mean().item() if len(agree) else float("nan"),
        longer_chosen=(longer > 0)[uneven].double().mean().item() if len(agree) else float("nan"),
        calibration=_calibration(p_first, first.double(), bins),
    )


def _calibration(p: Tensor, happened: Tensor, bins: int) -> list[tuple[float, float, int]]:
    found = []
    for b in range(bins):
        inside = (p * bins).floor().clamp(max=bins - 1) == b
        if inside.any():
            found.append(
                (p[inside].mean().item(), happened[inside].mean().item(), int(inside.sum()))
            )
    return found


# --- a reward model as the reward of a task ------------------------------------------------------


class LearnedReward(Task):
    """A task with its rewards replaced by a reward model's scores; its prompts stay.

        ppo(policy, LearnedReward(Replies(), reward_model), config, ref=ref)

    A response that was cut at the length limit earns ``cut_reward`` (a score is no share of
    something, so 0 would be praise where scores are negative).

    Book: 17_ppo_gpt2.
    """

    def __init__(self, task: Task, model: ScalarModel, *, cut_reward: float = -3.0) -> None:
        self.task, self.model, self.cut_reward = task, model, float(cut_reward)
        self.name, self.max_new_tokens = f"{task.name}, learned reward", task.max_new_tokens
        self.stop = task.stop

    def problems(
        self, n: int, generator: torch.Generator, *, split: str = "train"
    ) -> list[Problem]:
        return self.task.problems(n, generator, split=split)

    @torch.no_grad()
    def score(self, problems: Sequence[Problem], texts: Sequence[str]) -> Float[Tensor, " n"]:
        """Scores of given texts, each taken as finished."""
        prompts = [problem.prompt for problem in problems]
        return sequence_scores(
            self.model, responses_from_texts(self.model.policy, prompts, list(texts))
        )

    def rewards(
        self,
        problems: Sequence[Problem],
        texts: Sequence[str],
        *,
        truncated: Sequence[bool] | Tensor | None = None,
    ) -> Float[Tensor, " n"]:
        found = super().rewards(problems, texts)
        if truncated is None:
            return found
        return torch.where(torch.as_tensor(truncated).bool().cpu(), self.cut_reward, found)

    def step_boundaries(self, text: str) -> list[int]:
        return self.task.step_boundaries(text)

    def extract_answer(self, text: str) -> str:
        return self.task.extract_answer(text)


# --- preferences from a file ---------------------------------------------------------------------


def load_preferences(path: str | Path, policy: Policy | None = None) -> list[Preference]:
    """Read pairs from a JSONL file, one object per line.

        {"prompt": "...", "chosen": "...", "rejected": "..."}
        {"chosen": "Human: ...⏎⏎Assistant: ...", "rejected": "Human: ...⏎⏎Assistant: ..."}

    The second form is that of conversations written out: all turns but the last are the prompt,
    which ``policy``'s chat template writes anew.

    Lines that cannot be used (not JSON, a field missing or empty, both responses the same, two
    different conversations) are left out, with one warning that names them by number.

    Raises ValueError if no line can be used, OSError if the file cannot be read.

    Book: 14_reward_model.
    """
    found, problems = [], []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found.append(preference_from_record(json.loads(line), policy))
            except (ValueError, KeyError, TypeError) as problem:
                problems.append(f"line {number}: {_reason(problem)}")
    if not found:
        raise ValueError(f"{path} has no usable preference; {'; '.join(problems[:3]) or 'empty'}")
    if problems:
        shown = "; ".join(problems[:5]) + (" ..." if len(problems) > 5 else "")
        warnings.warn(f"{path}: {len(problems)} lines left out ({shown})", stacklevel=2)
    return found


def preference_from_record(record: object, policy: Policy | None = None) -> Preference:
    """A pair from a line of a file, or from a row of a data set of the hub.

    Beside the two forms of ``load_preferences`` there is a third: ``chosen`` and ``rejected`` are
    lists of messages, ``{"role": ..., "content": ...}``, with the conversation before them in
    both, or in ``prompt``, as messages too:

        pairs = [preference_from_record(row, policy) for row in load_dataset(...)]

    Raises ValueError for what is no pair: a field missing or empty, both responses the same, two
    different conversations.

    Book: 14_reward_model, 19_dpo.
    """
    if not isinstance(record, dict):
        raise ValueError("not an object")
    for name in ("chosen", "rejected"):
        said = record.get(name)
        if not isinstance(said, str | list) or not (
            said.strip() if isinstance(said, str) else said
        ):
            raise ValueError(f"the field {name!r} is missing or empty")
    prompt, chosen, rejected = record.get("prompt"), record["chosen"], record["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        before = prompt if isinstance(prompt, list) else []
        if isinstance(prompt, str) and len(chosen) == 1:  # the hub's mixed form
            before = [{"role": "user", "content": prompt}]
        prompt, chosen, rejected = _from_messages(before + chosen, before + rejected, policy)
    elif prompt is None:
        prompt, chosen, rejected = _from_transcripts(chosen, rejected, policy)
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("the field 'prompt' is missing or empty")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same")
    return Preference(prompt, (chosen, rejected), float(record.get("margin", 0.0)))


def _from_transcripts(chosen: str, rejected: str, policy: Policy | None) -> tuple[str, str, str]:
    if policy is None or policy.tokenizer is None:
        raise ValueError("the field 'prompt' is missing; for transcripts pass policy=")
    return _from_messages(parse_transcript(chosen), parse_transcript(rejected), policy)


def _from_messages(
    chosen: list[Message], rejected: list[Message], policy: Policy | None
) -> tuple[str, str, str]:
    if policy is None or policy.tokenizer is None:
        raise ValueError("these are messages: pass policy=, whose chat template writes them")
    *said, ours = chosen
    *other, theirs = rejected
    if said != other or {ours["role"], theirs["role"]} != {"assistant"}:
        raise ValueError("the two transcripts differ before their last turn, the assistant's")
    return chat_prompt(policy.tokenizer, said), ours["content"], theirs["content"]


def _reason(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"not JSON ({problem.msg})"
    return str(problem)
