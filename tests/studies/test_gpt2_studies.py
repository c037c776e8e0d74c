"""GPT-2's size through the four methods: the same code at a tiny size, with GPT-2's tokenizer."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlbook.lm.gpt2 import SIZES, Size
from rlbook.lm.policy import load_policy
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.memory import MODELS, memory_of
from rlbook.studies import at_gpt2_size as shared
from rlbook.studies.catalogue import StudyError, find_study

pytestmark = pytest.mark.slow  # 50,257 logits for each token, however small the model
ROOT = Path(__file__).resolve().parents[2]
LOGGED = {
    "PPO": ["reward", "value_loss", "kl_ref", "tokens"],
    "GRPO": ["reward", "informative", "kl_ref", "tokens"],
    "DPO": ["margin", "chosen_change", "rejected_change"],
    "VinePPO": ["reward", "value", "states", "kl_ref", "tokens"],
}
TINY = {
    "size": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64},
    "base": {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "warmup": 2},
    "sft": {"steps": 40, "batch_size": 16, "learning_rate": 1e-2, "warmup": 2},
    "prompts": 2, "samples": 3, "updates": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Tiny settings, and a state folder that keeps the start for all tests here."""
    real = Path(os.environ.get("RLBOOK_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not (real / "gpt2-tokenizer").is_dir():
        pytest.skip(f"no real data: set RLBOOK_REAL_DATA (looked in {real})")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLBOOK_REAL_DATA", str(real))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("RLBOOK_PRESET", "cpu")
        patch.setenv("RLBOOK_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setitem(shared.SETTINGS, "cpu", shared.SETTINGS["cpu"] | TINY)
        others = {"problems": 4, "points": 2, "look_every": 3, "texts": {"base": 20, "sft": 40}}
        for name, value in others.items():
            patch.setitem(shared.SETTINGS, name, value)
        torch.set_num_threads(1)
        yield patch


@pytest.fixture(scope="module")
def start(tiny):
    """The imitator, made in a process of its own, and its folder."""
    folder = shared.start_folder(shared.chosen())
    return SimpleNamespace(folder=folder, made=folder.stat().st_mtime_ns)


def odd(self, problems, texts):
    """A reward: 1 where the codes of a text's characters add up to an odd number."""
    return [sum(map(ord, text)) % 2.0 for text in texts]


def method_of(name: str):
    return importlib.import_module(f"rlbook.studies.gpt2_{name.lower()}")


def test_the_start_is_made_once_with_gpt2s_tokenizer(start):
    facts = json.loads((start.folder / "facts.json").read_text())
    assert facts["steps"] == 6 and facts["own weights"] == 0.0
    assert all(0 <= facts[name] <= 1 for name in facts if "," in name)
    policy = load_policy(start.folder, device="cpu")
    assert policy.vocab_size == shared.TOKENS and policy.eos_id == 50_256
    ids = policy.encode(["3+5-4*9=3+5=8;"])[0]
    assert [policy.decode([token]) for token in ids] == list("3+5-4*9=3+5=8;")
    assert shared.start_folder(shared.chosen()) == start.folder
    assert start.folder.stat().st_mtime_ns == start.made
    assert [path.name for path in start.folder.parent.iterdir()] == [start.folder.name]


def test_another_setting_means_another_start(start):
    settings = shared.chosen()
    others = settings | {"base": settings["base"] | {"steps": 7}}
    assert shared.start_name(others) != shared.start_name(settings) == start.folder.name


@pytest.mark.parametrize("method", LOGGED)
def test_a_method_learns_from_the_start(start, method, monkeypatch):
    # So small and so little trained, it is never right: a reward that it earns now and then.
    monkeypatch.setattr(Arithmetic, "score", odd)
    found = method_of(method).run(0)
    curves = {name: found[name][method] for name in ("accuracy", "update", "seconds")}
    assert curves["update"] == [0, 2, 3]
    assert len(curves["accuracy"]) == 3 and all(0 <= x <= 1 for x in curves["accuracy"])
    assert curves["seconds"][0] == 0.0 < curves["seconds"][1] < curves["seconds"][2]
    for name in LOGGED[method]:
        values = found[name][method]
        assert len(values) == (3 if name == "tokens" else 2)
    expected = {"accuracy", "update", "seconds", "kl", "start", "gigabytes", "facts"}
    assert set(found) == expected | set(LOGGED[method])
    assert found["kl"][method] != 0.0  # it has moved
    assert found["facts"] == {
        "weights": 50_257 * 16 + 64 * 16 + 3_280 + 32, "n_layer": 1, "n_embd": 16,
        "micro_tokens": 4_096,
    }  # fmt: skip
    size, length = Size(1, 2, 16), 2 * 4 + 2 + 26
    trained, frozen = MODELS[method]
    memory = memory_of(
        size, trained=trained, frozen=frozen, micro_tokens=6 * length, length=length,
        rows=0 if method == "DPO" else 6, bf16=False,
    )  # fmt: skip
    assert found["gigabytes"]["estimated"] == pytest.approx(memory.peak)
    again = method_of(method).run(0) if method == "GRPO" else found
    assert again["accuracy"] == found["accuracy"] and again["kl"] == found["kl"]


def test_a_method_stops_when_its_time_is_over(start, tiny):
    with tiny.context() as patch:
        seconds = {"base": 600, "method": 0.0}
        patch.setitem(shared.SETTINGS, "cpu", shared.SETTINGS["cpu"] | {"seconds": seconds})
        patch.setattr(shared, "start_folder", lambda settings: start.folder)
        found = method_of("GRPO").run(0)
    assert found["update"]["GRPO"] == [0, 1]


def test_pretraining_stops_when_its_time_is_over_or_it_knows_enough(start, tiny, tmp_path):
    imitation = {"steps": 2, "batch_size": 8, "learning_rate": 1e-2, "warmup": 1}
    settings = shared.chosen() | {"sft": imitation, "problems": 2}
    source = shared.gpt2_source()
    ends = {
        "time": ({"seconds": {"base": 0.0, "method": 1.0}}, 1),
        "accuracy": ({"base_accuracy": 0.0, "look_every": 2}, 1),
        "steps": ({}, 6),
    }
    for name, (change, steps) in ends.items():
        shared.make_start(settings | change, source, tmp_path / name)
        assert json.loads((tmp_path / name / "facts.json").read_text())["steps"] == steps


def test_with_the_tokenizer_alone_it_starts_from_random_weights(start, monkeypatch):
    def offline(*_, **__):
        raise ValueError("no model 'gpt2': offline, and not in the cache")

    asked, folder, read = [], shared.gpt2_source(), shared.GPT2Tokenizer.from_pretrained

    def cached(source, *, local_files_only):
        asked.append((source, local_files_only))
        return read(folder, local_files_only=True)

    monkeypatch.setattr(shared, "load_policy", offline)
    monkeypatch.setattr(shared, "GPT2Tokenizer", SimpleNamespace(from_pretrained=cached))
    settings = shared.chosen() | {"preset": "gpu"}
    policy = shared._first_policy(settings, "gpt2")
    assert policy.vocab_size == shared.TOKENS and policy.model.config.n_embd == 16
    assert policy.model.name_or_path != "gpt2"  # the fact "own weights"
    assert asked == [("gpt2", True)]  # nobody waits for a hub that does not answer


@pytest.mark.slow  # two processes import torch
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_its_maker_ends_with_who_waits_for_it(tmp_path):
    """A study that is stopped leaves no process behind that would train for hours."""
    (tmp_path / "waits.py").write_text(
        "import multiprocessing, os, pathlib, sys, time\n"
        "from rlbook.studies import at_gpt2_size as shared\n"
        "def makes(settings, source, folder):\n"
        "    folder.write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "shared.make_start = makes\n"  # in both processes: each imports this file
        "if __name__ == '__main__':\n"
        "    shared.gpt2_source = lambda: 'gpt2'\n"
        "    shared.start_folder(shared.chosen())\n"
    )
    environment = os.environ | {
        "RLBOOK_STATE": str(tmp_path), "RLBOOK_PRESET": "cpu", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    waiting = subprocess.Popen([sys.executable, tmp_path / "waits.py"], env=environment)
    maker = None
    try:
        assert until(lambda: any(p.read_text() for p in tmp_path.glob("gpt2-start-*")), seconds=90)
        maker = int(next(tmp_path.glob("gpt2-start-*")).read_text())
        waiting.terminate()
        waiting.wait()
        assert until(lambda: not alive(maker), seconds=10)
    finally:
        waiting.kill()
        waiting.wait()
        if maker is not None and alive(maker):
            os.kill(maker, 9)


def until(holds, *, seconds: float) -> bool:
    """Whether it holds before so many seconds are over."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_tokenizer_it_says_what_to_do(tiny, tmp_path):
    with tiny.context() as patch:
        patch.setenv("RLBOOK_REAL_DATA", str(tmp_path))
        patch.setenv("HF_HOME", str(tmp_path))
        with pytest.raises(StudyError, match="set RLBOOK_REAL_DATA to a folder in which"):
            shared.gpt2_source()


def test_gpu_is_gpt2_124m():
    size = shared.SETTINGS["gpu"]["size"]
    assert Size(size["n_layer"], size["n_head"], size["n_embd"]) == SIZES["124M"]
    assert size["n_positions"] == 1_024
    seconds = shared.SETTINGS["gpu"]["seconds"]
    assert seconds["base"] + len(LOGGED) * seconds["method"] < 600 - 120  # the rest: tests, loading
    for method in LOGGED:
        study = find_study(f"gpt2-{method.lower()}")
        assert study.load().SETTINGS["shared"] is shared.SETTINGS and study.seeds == 1
