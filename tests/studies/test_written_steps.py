"""The study of written-out steps: what its arms learn from, and what its recorded run says."""

from pathlib import Path

import pytest

from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import recorded
from rlbook.studies import written_steps as study

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(study.SETTINGS, "size", study.SETTINGS["size"] | {"n_embd": 16})
    monkeypatch.setitem(study.SETTINGS, "chains", 50)
    monkeypatch.setitem(study.SETTINGS, "problems", 5)
    monkeypatch.setitem(study.SETTINGS, "training", study.SETTINGS["training"] | {"warmup": 1})
    monkeypatch.setitem(study.SETTINGS, "x", [1, 2])


def test_the_tokens_that_count_in_a_step(small) -> None:
    # three operators: 3·6 characters, 3·2, or 2; and the EOS
    found = {form: study.train(form, 2, 0) for form in ("written", "terse", "answer")}
    assert {form: tokens for form, (_, tokens) in found.items()} == {
        "written": 2 * 19, "terse": 2 * 7, "answer": 2 * 3
    }  # fmt: skip
    assert all(len(accuracy) == 2 for accuracy, _ in found.values())


def test_a_seed_gives_the_same_numbers_again(small) -> None:
    assert study.train("written", 4, 3) == study.train("written", 4, 3)


def test_the_fourth_arm_has_more_tokens_than_the_first() -> None:
    tokens = recorded.load_run("written-steps", folder=RUNS).curves("tokens")
    assert (tokens["answer, 7 times the chains"] > tokens["written"]).all()


def test_written_steps_alone_are_learnt() -> None:
    run = recorded.load_run("written-steps", folder=RUNS)
    last = {arm: curve[:, -1] for arm, curve in run.curves("accuracy").items()}
    assert len(run.seeds) >= 5 and (last["written"] == 1.0).all()
    for arm in set(last) - {"written"}:
        assert mean_interval(last[arm]).high < 0.5
        assert paired_interval(last["written"], last[arm]).low > 0.4
