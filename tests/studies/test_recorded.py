"""Recorded runs: read, written, explained; and those of the book belong to today's studies."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlbook.book.execute import machine_paths
from rlbook.studies.catalogue import all_studies
from rlbook.studies.recorded import Run, load_run, parse_run, runs_folder, written

ROOT = Path(__file__).resolve().parents[2]
STUDIES = {study.name: study for study in all_studies()}
RECORDED = sorted(path.stem for path in (ROOT / "data" / "runs").glob("*.json"))

RUN = Run(
    name="coins",
    title="Coins",
    settings={"x": [1, 2], "label": "ε = 0.1"},
    seeds=(0, 1, 2),
    measures={
        "heads": {"fair": [[0.5, 1.0], [0.25, 0.0], [1.0, 0.5]]},
        "last": {"fair": [1, 2, 3]},
    },
    provenance={
        "command": "rlbook study coins --seeds 3",
        "date": "2026-02-03",
        "versions": {"python": "3.11.15", "numpy": "2.3.1; 2.4.6"},
        "seconds": 4.5,
    },
    fingerprint="ab" * 32,
)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "coins.json").write_text(written(RUN), encoding="utf-8")
    assert load_run("coins", folder=tmp_path) == RUN
    assert json.loads(written(RUN))["measures"] == RUN.measures
    assert '   "fair": [[0.5,1.0],[0.25,0.0],[1.0,0.5]]\n' in written(RUN)  # one line per arm


def test_curves_have_one_row_per_seed() -> None:
    curve = RUN.curves("heads")["fair"]
    assert curve.shape == (3, 2) and curve.dtype == float
    assert curve[1].tolist() == [0.25, 0.0]
    assert RUN.curves("last")["fair"].tolist() == [1.0, 2.0, 3.0]


def test_the_caption_is_one_line_of_provenance() -> None:
    assert RUN.caption == (
        "3 seeds; rlbook study coins --seeds 3; 2026-02-03; numpy 2.3; 2.4, Python 3.11"
    )
    assert RUN.seconds == 4.5


def test_an_unknown_measure_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="coins has no measure 'tails'; there are: heads, last"):
        RUN.curves("tails")


def test_a_missing_run_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load_run("coins")
    assert str(caught.value) == (
        f"the study coins is not recorded in {tmp_path / 'runs'}: run `rlbook study coins`"
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "coins.json").write_text(written(RUN), encoding="utf-8")
    assert load_run("coins") == RUN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "format None, expected 1"),
        ('{"format": 7}', "format 7, expected 1"),
        ('{"format": 1}', "study"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "coins.json").write_text(text)
    with pytest.raises(ValueError, match=rf"coins\.json is not a recorded study: .*{message}"):
        load_run("coins", folder=tmp_path)


def test_reading_a_run_needs_neither_torch_nor_scipy(root: Path) -> None:
    code = (
        "import sys; from rlbook.studies.recorded import load_run; load_run('cliff');"
        "print([n for n in ('torch', 'scipy', 'gymnasium', 'matplotlib') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


# --- the runs that the book ships ------------------------------------------------------------


def test_the_books_runs_are_found() -> None:
    assert {"testbed", "testbed-sweep", "random-walk", "cliff", "maximisation-bias"} <= {*RECORDED}
    assert set(RECORDED) <= set(STUDIES)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_run_belongs_to_the_study_as_it_stands(name: str) -> None:
    run, study = load_run(name, folder=ROOT / "data" / "runs"), STUDIES[name]
    assert run.fingerprint == study.fingerprint(), f"run `rlbook study {name} --fresh`"
    assert run.settings == json.loads(json.dumps(study.load().SETTINGS))
    assert run.title == study.title
    # Pretraining takes minutes a seed; what the book ships are the models of seed 0.
    least = 1 if study.models else study.seeds
    assert run.seeds == tuple(range(len(run.seeds))) and len(run.seeds) >= least
    assert run.provenance["command"] == f"rlbook study {name} --seeds {len(run.seeds)}"


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_run_is_small_whole_and_names_no_machine(name: str) -> None:
    path = ROOT / "data" / "runs" / f"{name}.json"
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert machine_paths(text) == []
    run = parse_run(text)
    assert {"command", "date", "versions", "device", "seconds"} <= set(run.provenance)
    for measure in run.measures:
        for arm, curve in run.curves(measure).items():
            assert len(curve) == len(run.seeds) and np.isfinite(curve).all(), (measure, arm)


def test_the_folder_is_the_books_own(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.delenv("RLBOOK_DATA", raising=False)
    monkeypatch.setenv("RLBOOK_HOME", str(root))
    assert runs_folder() == root / "data" / "runs"
