"""The shipped models do what their cards and records say: small, plain, and as good as stated.

Answers are drawn anew here, fewer than for the record; bounds allow for four standard deviations
of that draw, so each fails by chance in fewer than 1 of 10,000 runs.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlbook.lm.chat import MARKS
from rlbook.lm.evaluation import evaluate
from rlbook.lm.heads import HEAD_FILE, load_scalar_model
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.gridpath import GridPath
from rlbook.lm.tasks.labellers import noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.symbols import Symbols
from rlbook.studies import reward_network

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "models"
STUDIES = {
    "pretrain-arithmetic": ("arithmetic-base", "arithmetic-sft"),
    "pretrain-gridpath": ("gridpath-base", "gridpath-sft"),
    "pretrain-replies": ("replies-base", "replies-sft"),
    "pretrain-symbols": ("symbols-base",),
    "reward-network": ("replies-reward",),
}
NAMES = [name for names in STUDIES.values() for name in names]
FILES = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json",
    "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def load(name: str):
    return load_policy(FOLDER / name, device="cpu")


def recorded(study: str) -> dict[str, list[float]]:
    """What each seed reached in the end."""
    text = (ROOT / "data" / "runs" / f"{study}.json").read_text(encoding="utf-8")
    return json.loads(text)["measures"]["final"]


def reached(name: str, task, *, problems=300, **options):
    generator = torch.Generator().manual_seed(1)
    return evaluate(load(name), task, problems=problems, generator=generator, **options)


def test_the_folder_holds_what_the_studies_make():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_a_small_plain_folder(name):
    files = {path.name: path.stat().st_size for path in (FOLDER / name).iterdir()}
    assert set(files) == FILES | ({HEAD_FILE} if name.endswith("-reward") else set())
    assert files["model.safetensors"] <= 2_000_000
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    study = next(study for study, names in STUDIES.items() if name in names)
    assert f"rlbook study {study}`" in card and "parameters" in card and "Date" in card


@pytest.mark.parametrize("name", NAMES)
def test_transformers_alone_reads_it(name):
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / name)
    assert model.dtype == torch.float32 and model.config.model_type == "gpt2"
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.chat_template == MARKS
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (0, 1)
        assert config.bos_token_id is None


@pytest.mark.parametrize("study", STUDIES)
def test_a_card_states_what_the_record_has_for_seed_0(study):
    final = recorded(study)
    for name in STUDIES[study]:
        stage = name.rpartition("-")[2]
        card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        stated = dict(re.findall(r"^\| (.+) \| (-?\d+\.\d{3}) \|$", card, flags=re.MULTILINE))
        expected = {
            arm.removeprefix(f"{stage}, "): values[0]
            for arm, values in final.items()
            if arm.startswith(f"{stage}, ")
        }
        assert {arm: float(value) for arm, value in stated.items()} == pytest.approx(
            expected, abs=6e-4
        )


# --- arithmetic ------------------------------------------------------------------------------


def test_the_arithmetic_base_model_knows_how_to_do_it():
    """At least 0.98 in every seed; here 300 clean chains of each setting, all but a few right."""
    for arm in ("default", "harder"):
        assert min(recorded("pretrain-arithmetic")[f"base, {arm}, greedy"]) >= 0.98
    for task in (Arithmetic(), Arithmetic.harder()):
        assert reached("arithmetic-base", task, temperature=0).accuracy >= 0.96


def test_the_arithmetic_imitator_is_capped_sampled_and_greedy_and_by_vote():
    final = recorded("pretrain-arithmetic")
    for how in ("sampled", "greedy"):
        assert (
            0.25 <= min(final[f"sft, default, {how}"]) <= max(final[f"sft, default, {how}"]) <= 0.6
        )
    for ours, theirs in zip(
        final["sft, default, sampled"], final["sft, default, demonstrators sampled"], strict=True
    ):
        assert abs(ours - theirs) < 0.07
    assert max(final["sft, default, majority of 16"]) < 0.6
    task = Arithmetic()
    found = reached("arithmetic-sft", task, samples_per_prompt=16)
    cap = float(task.demonstrator_accuracy(found.problems).mean())
    # 300 problems: the standard deviation of the mean is at most √(¼/300) = 0.03, and most of it
    # is the problems', which the cap shares.
    assert abs(found.accuracy - cap) < 0.07 + 4 * 0.01
    assert found.majority < 0.6 + 4 * 0.03


def test_in_the_harder_setting_one_try_is_poor_and_many_are_good():
    final = recorded("pretrain-arithmetic")
    assert max(final["sft, harder, pass@1"]) < 0.3
    assert min(final["sft, harder, pass@64"]) > 0.85


# --- the others ------------------------------------------------------------------------------


def test_the_gridpath_models():
    final = recorded("pretrain-gridpath")
    assert min(final["base, greedy"]) >= 0.98
    for how in ("sampled", "greedy"):
        assert 0.25 <= min(final[f"sft, {how}"]) <= max(final[f"sft, {how}"]) <= 0.6
    for ours, theirs in zip(
        final["sft, sampled"], final["sft, demonstrators sampled"], strict=True
    ):
        assert abs(ours - theirs) < 0.07
    problems = GridPath().all_problems("test")
    assert reached("gridpath-base", GridPath(), problems=problems, temperature=0).accuracy >= 0.98


def test_the_replies_models():
    """The base model knows the facts and answers nobody; the tuned one answers."""
    final = recorded("pretrain-replies")
    assert min(final["base, facts"]) >= 0.98
    assert max(final["base, gold score, greedy"]) < 0.0
    assert min(final["sft, score 1 or more, greedy"]) > 0.8
    for ours, theirs in zip(
        final["sft, gold score, sampled"], final["sft, gold score, demonstrators"], strict=True
    ):
        assert abs(ours - theirs) < 0.5
    assert reached("replies-base", Replies(), problems=50, temperature=0).mean_reward < 0.0
    assert reached("replies-sft", Replies(), problems=50, temperature=0).mean_reward > 1.0


def test_the_symbols_model_is_told_by_name_and_by_example():
    final = recorded("pretrain-symbols")
    for kind in ("copy", "reverse", "sort", "translate", "back"):
        assert min(final[f"base, named {kind}"]) >= 0.9
    assert min(final["base, 3 shown"]) > 0.6
    assert reached("symbols-base", Symbols(), problems=200, temperature=0).accuracy >= 0.85


def test_the_reward_model_of_the_replies_judges_as_its_card_says():
    """600 fresh pairs: the standard error of the expected accuracy is below 0.015."""
    final = recorded("reward-network")
    model = load_scalar_model("replies-reward", device="cpu")
    pairs = Replies().comparisons(600, torch.Generator().manual_seed(123), split="test")
    found = reward_network.expected_accuracy(model, pairs)
    assert abs(found - final["reward, whole, expected"][0]) < 4 * 0.015
    assert noise_ceiling(pairs) - found < 0.06
