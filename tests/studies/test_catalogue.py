"""Studies are found without being imported, and a fingerprint changes when the study does."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from rlbook.studies.catalogue import Study, StudyError, all_studies, find_study, study_of

STUDY = '''"""A title.

More words.
"""

SEEDS = 2
SETTINGS = {"rate": 0.5, "names": ["a", None]}


def run(seed):
    """What it does."""
    x = f"{seed:>3}"  # a comment
    return {"m": {"a": len(x), **{}}}
'''


def written(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    (folder / "some_study.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("some_study", None)
    importlib.invalidate_caches()
    return study_of("some_study")


def test_a_study_is_read_from_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = written(tmp_path, STUDY, monkeypatch)
    assert (study.name, study.title, study.seeds) == ("some-study", "A title", 2)
    assert "some_study" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a comment", "  # another comment"),
        ("A title.", "Another title."),
        ("What it does.", "What it does: much."),
        ("x = f", "\n    x = f"),
        ("len(x), **{}}", "len(x),\n **{}}"),
    ],
)
def test_words_do_not_change_the_fingerprint(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path, STUDY, monkeypatch).fingerprint()
    assert STUDY.replace(old, new) != STUDY
    assert written(tmp_path, STUDY.replace(old, new), monkeypatch).fingerprint() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("None", "0"),
        ('"m"', '"n"'),
        (":>3", ":>4"),
        ("len(x)", "len(seed)"),
        ("**{}", '"b": []'),
        ("SEEDS = 2", "SEEDS = 3"),
    ],
)
def test_code_and_settings_change_the_fingerprint(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path, STUDY, monkeypatch).fingerprint()
    assert written(tmp_path, STUDY.replace(old, new), monkeypatch).fingerprint() != before


def test_settings_that_are_computed_count_by_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = STUDY.replace("0.5", "FACTOR").replace("SEEDS", "from factor import FACTOR\nSEEDS")
    prints = []
    for factor in (1, 2, 1):
        (tmp_path / "factor.py").write_text(f"FACTOR = {factor}  {'#' * factor}")
        sys.modules.pop("factor", None)
        prints.append(written(tmp_path, computed, monkeypatch).fingerprint())
        (tmp_path / "factor.py").unlink()
    assert prints[0] == prints[2] != prints[1]


def test_the_fingerprint_is_the_same_on_every_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed with Python 3.11; other versions have other fields in their syntax trees."""
    text = (
        '"""T."""\nSEEDS = 1\nSETTINGS = {}\n\n\ndef run(seed, *, a=None):\n    return f"{a!r}"\n'
    )
    study = written(tmp_path, text, monkeypatch)
    assert study.fingerprint() == "b90321da879b2b06bbfbc383e51064e2e889d5de9994d77fd247c3b8b214daa7"


def test_modules_that_are_not_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"rlbook\.studies\.runner is not a study: it needs"):
        study_of("rlbook.studies.runner")
    for module in ("no_such_module", "no_such_package.module"):
        with pytest.raises(StudyError, match=f"no module is called {module}"):
            study_of(module)


def test_the_books_studies_have_titles_settings_and_seeds() -> None:
    studies = {study.name: study for study in all_studies()}
    assert {"testbed", "testbed-sweep", "random-walk", "cliff", "maximisation-bias"} <= set(studies)
    assert {"runner", "recorded", "catalogue"}.isdisjoint(studies)
    for name, study in studies.items():
        assert study.seeds >= 1 and len(study.title) > 10, name
        assert find_study(name) == find_study(name.replace("-", "_")) == study


def test_an_unknown_study_has_a_nearest_name() -> None:
    with pytest.raises(StudyError, match=r"no study is called 'clif'; did you mean cliff\?"):
        find_study("clif")
    with pytest.raises(StudyError, match="no study is called 'zzz'; see `rlbook study`"):
        find_study("zzz")


def test_listing_studies_imports_none_of_them() -> None:
    code = (
        "import sys; from rlbook.studies.catalogue import all_studies; all_studies();"
        "print('numpy' in sys.modules, 'rlbook.studies.testbed' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
