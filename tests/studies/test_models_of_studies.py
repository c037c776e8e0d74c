"""A study that trains models: those of seed 0 are kept, whole or not at all."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlbook.cli import app
from rlbook.studies.catalogue import StudyError, find_study, study_of
from rlbook.studies.recorded import load_run
from rlbook.studies.runner import UNFINISHED, run_study


def trained(folder: Path, **options):
    return run_study(study_of("trained"), folder=folder, workers=1, **options)


def config(folder: Path) -> str:
    return (folder / "tiny-base" / "config.json").read_text()


def test_the_models_of_seed_0_are_kept_and_nothing_else(tmp_path):
    assert study_of("trained").models == ("tiny-base",)
    run = trained(tmp_path / "runs", models=tmp_path / "models")
    assert run.measures["loss"]["base"] == [0.0, 1.0]
    assert config(tmp_path / "models") == "weights of seed 0"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny-base"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["trained.json"]


def test_without_a_place_they_stand_beside_the_record(tmp_path):
    trained(tmp_path, seeds=1)
    assert config(tmp_path / "models") == "weights of seed 0"


def test_more_seeds_leave_the_model_alone(tmp_path, monkeypatch):
    trained(tmp_path, seeds=1)
    monkeypatch.setenv("TRAINED_TEXT", "others")
    assert trained(tmp_path, seeds=3).seeds == (0, 1, 2)
    assert config(tmp_path / "models") == "weights of seed 0"


def test_a_missing_model_is_made_again_though_its_run_is_recorded(tmp_path):
    first = trained(tmp_path)
    (tmp_path / "models" / "tiny-base" / "config.json").unlink()
    again = trained(tmp_path)
    assert config(tmp_path / "models") == "weights of seed 0"
    assert again == first == load_run("trained", folder=tmp_path)


def test_a_fresh_run_replaces_the_models(tmp_path, monkeypatch):
    trained(tmp_path)
    monkeypatch.setenv("TRAINED_TEXT", "new weights")
    trained(tmp_path, fresh=True)
    assert config(tmp_path / "models") == "new weights of seed 0"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny-base"]


def test_a_seed_that_fails_leaves_the_old_models_and_the_next_attempt_is_clean(
    tmp_path, monkeypatch
):
    trained(tmp_path)
    monkeypatch.setenv("TRAINED_TEXT", "new weights")
    monkeypatch.setenv("TRAINED_FAIL", "0")
    with pytest.raises(StudyError, match="1 of 2 seeds of trained failed"):
        trained(tmp_path, fresh=True)
    assert config(tmp_path / "models") == "weights of seed 0"
    monkeypatch.delenv("TRAINED_FAIL")
    trained(tmp_path)
    assert config(tmp_path / "models") == "new weights of seed 0"
    assert not (tmp_path / UNFINISHED / "trained").exists()


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("pretrain-arithmetic", ("arithmetic-base", "arithmetic-sft")),
        ("pretrain-gridpath", ("gridpath-base", "gridpath-sft")),
        ("pretrain-replies", ("replies-base", "replies-sft")),
        ("pretrain-symbols", ("symbols-base",)),
        ("cliff", ()),
    ],
)
def test_the_books_studies_say_which_models_they_train(name, models):
    assert find_study(name).models == models


def test_another_size_does_not_overwrite_the_books_models(monkeypatch):
    monkeypatch.setenv("RLBOOK_PRESET", "small")
    result = CliRunner().invoke(app, ["study", "pretrain-symbols"])
    assert result.exit_code == 2
