"""The models of the replies: pretraining on plain documents, then chat.

`replies-base` reads facts of a toy world, and lists of questions about them; nobody answers
anybody there. `replies-sft` is the base model after imitating replies of mixed quality to chat
prompts.

`loss` is the training loss in nats per token (of the whole text, then of the responses). At the
steps `x`, `curve` has the gold score of greedy replies to held-out requests, and the share of the
facts that the model completes rightly as plain text ("the sky is" ...), greedily. `final` has the
gold score of sampled and of greedy replies, the share of replies with a score of 1 or more, and
the share cut at the length limit; "demonstrators" are demonstrations on the same requests, and
"best" is the highest score there is.
"""

from pathlib import Path
from typing import Any

import torch

from rlbook.lm.evaluation import evaluate
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tasks.replies import CHARACTERS, FACTS, Replies, best_reply
from rlbook.studies.pretraining import Stage, every, new_policy, preset, train_stages

MODELS = ("replies-base", "replies-sft")
SEEDS = 3
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "size": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 192},
        "base": {
            "steps": 400, "batch_size": 32, "learning_rate": 5e-3, "warmup": 30,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 600, "batch_size": 32, "learning_rate": 3e-3, "warmup": 30},
    },
    "small": {
        "size": {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 192},
        "base": {
            "steps": 400, "batch_size": 32, "learning_rate": 1e-3, "warmup": 50,
            "betas": (0.9, 0.98),
        },
        "sft": {"steps": 400, "batch_size": 32, "learning_rate": 5e-4, "warmup": 30},
    },
}  # fmt: skip
POSITIONS = {"base": 10, "sft": 10}  # of each curve
SETTINGS: dict[str, Any] = PRESETS[preset()] | {
    "characters": CHARACTERS,
    "texts": 10_000,
    "demonstrations": 20_000,
    "x": {
        stage: every(PRESETS[preset()][stage]["steps"], parts) for stage, parts in POSITIONS.items()
    },
    "problems": 100,
    "final_problems": 500,
}
CARDS = {
    "base": (
        "Writes plain sentences about a toy world, such as `the sky is blue.`, and lists of "
        "questions. It knows the facts, and has never seen anybody answer: asked something, it "
        "asks on.",
        "plain documents, half of them facts and half questions",
    ),
    "sft": (
        "`replies-base` as a chat model: it answers the request after `<|user|>` and ends, about "
        "as well as the people whom it imitates, who are often wrong and seldom polite.",
        "replies of mixed quality to chat prompts; the loss counts responses alone",
    ),
}


def run(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train both models, and write them into the folder."""
    draws = torch.Generator().manual_seed(seed)
    policy = new_policy(SETTINGS["characters"], SETTINGS["size"], seed)
    task = Replies()
    texts = [("", text) for text in task.documents(SETTINGS["texts"], draws)]
    shown = task.demonstrations(SETTINGS["demonstrations"], draws)
    stages = [
        Stage("base", texts, False, *CARDS["base"]),
        Stage("sft", shown, True, *CARDS["sft"]),
    ]
    return train_stages(
        "replies", policy, stages, SETTINGS, seed=seed, folder=folder, curve=curve, final=final
    )


def curve(policy: Policy) -> dict[str, float]:
    """The gold score of greedy replies, and the share of facts known."""
    generator = torch.Generator().manual_seed(0)
    found = evaluate(
        policy, Replies(), problems=SETTINGS["problems"], temperature=0, generator=generator
    )
    return {"gold score": found.mean_reward, "facts": known_facts(policy)}


def known_facts(policy: Policy) -> float:
    """The share of all facts that greedy decoding completes rightly after their beginning."""
    beginnings = [fact.says("|").partition("|")[0] for fact in FACTS.values()]
    endings = [fact.answer + "." for fact in FACTS.values()]
    found = sample_responses(
        policy, beginnings, max_new_tokens=max(map(len, endings)), temperature=0
    )
    right = [text.startswith(end) for text, end in zip(found.texts, endings, strict=True)]
    return sum(right) / len(right)


def final(policy: Policy, stage: str) -> dict[str, float]:
    """The scores of a model's replies, of the demonstrators' and of the best."""
    task = Replies()
    generator = torch.Generator().manual_seed(0)
    problems = task.problems(SETTINGS["final_problems"], generator, split="test")
    sampled = evaluate(policy, task, problems=problems, generator=generator)
    greedy = evaluate(policy, task, problems=problems, temperature=0, generator=generator)
    found = {
        "gold score, sampled": sampled.mean_reward,
        "gold score, greedy": greedy.mean_reward,
        "score 1 or more, sampled": sampled.accuracy,
        "score 1 or more, greedy": greedy.accuracy,
        "cut at the limit, sampled": sampled.truncated,
        "facts": known_facts(policy),
    }
    if stage == "base":
        return found
    shown = [row[0] for row in task.candidates(problems, 1, generator)]
    best = [best_reply(problem) for problem in problems]
    for name, texts in (("demonstrators", shown), ("best", best)):
        found[f"gold score, {name}"] = task.rewards(problems, texts).mean().item()
    return found
