"""The study of learning-rate decay: its parts by hand, and what its recorded run shows."""

import math
from pathlib import Path

import pytest

from rlbook.lm.tasks.toy_language import CHARACTERS
from rlbook.statistics import paired_interval
from rlbook.studies import lr_decay, recorded, runner
from rlbook.studies.pretraining import new_policy

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
SMALL = {
    "size": {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 128},
    "documents": 12,
    "held_out": 3,
    "peaks": [1e-3, 1e-2],
    "schedules": {
        "constant": {"schedule": "warmup-stable-decay"},
        "warmup-stable-decay": {"schedule": "warmup-stable-decay", "decay": 2},
    },
    "training": {"steps": 6, "batch_size": 2, "warmup": 1},
    "x": [2, 4, 6],
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SMALL.items():
        monkeypatch.setitem(lr_decay.SETTINGS, key, value)


def test_a_seed_decides_everything(small: None) -> None:
    first = runner.checked(lr_decay.run(3))
    assert first == runner.checked(lr_decay.run(3))
    assert first != runner.checked(lr_decay.run(4))


def test_arms_part_where_their_schedules_do(small: None) -> None:
    measures = lr_decay.run(0)
    constant, decayed = (measures["loss"][f"{s}, 0.01"] for s in lr_decay.SETTINGS["schedules"])
    assert len(constant) == len(decayed) == 3
    # Decay of 2 in 6 steps: steps 0 to 4 are made at the full rate, and step 5 at half of it.
    assert constant[:2] == decayed[:2] and constant[2] != decayed[2]
    assert measures["final"]["constant, 0.01"] == constant[2]
    assert measures["loss"]["constant, 0.001"] != constant


def test_the_entropy_by_hand() -> None:
    policy = new_policy(CHARACTERS, SMALL["size"], 0)
    texts = [
        "the sky is blue. the sea is blue. the cow eats grass. the sun is yellow.",
        "what does the owl eat? what does the bee eat? what does the fox eat? what does the "
        "cow eat?",
    ]
    rows = lr_decay.as_rows(policy, texts)
    tokens = sum(map(len, texts))  # each token but the first is learnt, and so is the end
    assert int(rows.learnt.sum()) == tokens
    assert lr_decay.entropy(rows) == pytest.approx(2 * 4 * math.log(28) / tokens)


def test_what_the_recorded_run_shows() -> None:
    """Decay helps where the peak is large; where it is small the run ends before it has learnt."""
    run = recorded.load_run("lr-decay", folder=RUNS)
    final, entropy = run.curves("final"), run.curves("entropy")["best possible"]
    assert all((losses > entropy).all() for losses in final.values())
    for schedule in ("cosine", "warmup-stable-decay"):
        for peak in ("0.01", "0.03"):
            gain = paired_interval(final[f"{schedule}, {peak}"], final[f"constant, {peak}"])
            assert gain.high < 0.0
    assert (final["cosine, 0.003"] > final["constant, 0.003"]).all()
    for arm, curve in run.curves("loss").items():
        assert curve.shape == (len(run.seeds), len(run.settings["x"]))
        assert (curve[:, -1] == final[arm]).all()
