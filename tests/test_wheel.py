"""The package as a re-user gets it: built, installed elsewhere, away from the checkout."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from rlbook.book.manifest import read_book

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel; its dependencies come from the running Python."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = next(built.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*command, "--target", str(folder), str(wheel)], check=True, env=environment)
    return folder


def python(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, where `import rlbook` finds the installed wheel alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RLBOOK_")}
    environment["PYTHONPATH"] = str(installed)
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_source_distribution_holds_the_whole_book(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    chapters = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {"book.yml", "LICENSE", "Makefile", "constraints.txt", "data/README.md"} <= names
    assert chapters <= names
    assert not any(name.startswith((".venv", "shared")) for name in names)


def test_the_wheel_carries_contents_and_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "import rlbook; from rlbook import paths; from rlbook.book.manifest import read_book;"
        "print(rlbook.__file__); print(paths.book_root()); print(paths.book_yml());"
        "print(paths.data_folder()); print(len(read_book().chapters));"
        "print(sorted(p.name for p in paths.data_folder().iterdir()))"
    )
    result = python(installed, tmp_path, "-c", code)
    assert result.stderr == ""
    package = installed / "rlbook"
    assert result.stdout.splitlines() == [
        str(package / "__init__.py"),
        "None",
        str(package / "_data" / "book.yml"),
        str(package / "_data" / "data"),
        str(len(read_book(ROOT / "book.yml").chapters)),
        "['README.md', 'models', 'runs']",
    ]


def test_list_and_doctor_work_from_any_folder(installed: Path, tmp_path: Path) -> None:
    listed = python(installed, tmp_path, "-m", "rlbook.cli", "list")
    assert listed.returncode == 0, listed.stderr
    assert "03_planning" in listed.stdout and "Route whole-book" in listed.stdout
    doctor = python(installed, tmp_path, "-m", "rlbook.cli", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "not here: this is the package alone" in doctor.stdout


@pytest.mark.parametrize("command", ["lab", "run", "readme"])
def test_what_needs_the_notebooks_says_how_to_get_them(
    installed: Path, tmp_path: Path, command: str
) -> None:
    result = python(installed, tmp_path, "-m", "rlbook.cli", command)
    assert result.returncode == 1
    assert result.stderr == (
        "rlbook: the notebooks are not part of the installed package; get the book's repository "
        "and run this in its folder, or set RLBOOK_HOME to that folder\n"
    )


def test_the_checkout_is_found_by_home(installed: Path, tmp_path: Path) -> None:
    code = "from rlbook import paths; print(paths.book_root())"
    environment = f"import os; os.environ['RLBOOK_HOME'] = {str(ROOT)!r}; "
    assert python(installed, tmp_path, "-c", environment + code).stdout.strip() == str(ROOT)
