"""`make` and .ci/run on a machine that lacks something: one clear line for each thing.

Each test copies the Makefile to a folder of its own and puts small scripts in place of Python.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Answers as a Python of the given version does; `-m venv` makes a .venv whose Python and rlbook
# write their arguments to calls.txt.
FAKE_PYTHON = """\
#!/bin/sh
case "$*" in
  *version_info*) exit {too_old} ;;
  -V) echo "Python {version}" ;;
  *ensurepip*) exit {no_venv} ;;
  "-m venv .venv")
    mkdir -p .venv/bin
    for name in python rlbook ruff; do
      printf '#!/bin/sh\\necho "%s $*" >> calls.txt\\n' $name > .venv/bin/$name
      chmod +x .venv/bin/$name
    done ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(
    folder: Path, *, version: str = "3.12.1", too_old: int = 0, no_venv: int = 0
) -> str:
    text = FAKE_PYTHON.format(version=version, too_old=too_old, no_venv=no_venv)
    return str(script(folder / "bin" / "fake-python", text))


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in `folder`, which also comes first on the PATH with its bin/."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Our one line; the other is make's own, which says that the target failed."""
    lines = result.stderr.splitlines()
    assert result.returncode != 0
    assert len(lines) == 2, result.stderr
    assert lines[0].startswith("rlbook: ") and message in lines[0]
    assert lines[1].startswith("make: ***")


def test_python_too_old(folder: Path) -> None:
    python = fake_python(folder, version="3.9.18", too_old=1)
    result = make(folder, "lab", f"PYTHON={python}")
    assert_one_line(result, f"Python 3.11 or newer is needed, but {python} is Python 3.9.18")
    assert not (folder / ".venv").exists()


def test_no_python(folder: Path) -> None:
    assert_one_line(make(folder, "lab", "PYTHON=python3.99"), "python3.99 is not found")


def test_no_venv_module(folder: Path) -> None:
    result = make(folder, "test", f"PYTHON={fake_python(folder, no_venv=1)}")
    assert_one_line(result, "has no venv module; on Debian or Ubuntu: apt install python3-venv")
    assert not (folder / ".venv").exists()


def test_too_little_disk_space(folder: Path) -> None:
    script(folder / "bin" / "df", "#!/bin/sh\necho head\necho disk 9000000 8000000 1500000 84% /\n")
    result = make(folder, "lab", f"PYTHON={fake_python(folder)}")
    assert_one_line(result, "3 GB of disk space are needed here, 1 GB are free")
    assert not (folder / ".venv").exists()


def test_lab_installs_once_and_passes_its_arguments_on(folder: Path) -> None:
    python = f"PYTHON={fake_python(folder)}"
    first = make(folder, "lab", python, "PORT=9123", "CHAPTER=03")
    assert first.returncode == 0, first.stderr
    install, lab = calls(folder)
    assert install.startswith("python -m pip install")
    assert "-c constraints.txt" in install and install.endswith("-e .[lab]")
    assert lab == "rlbook lab --port 9123 03"
    (folder / "calls.txt").unlink()
    assert make(folder, "lab", python).returncode == 0
    assert calls(folder) == ["rlbook lab"]


def test_new_pins_are_installed(folder: Path) -> None:
    python = f"PYTHON={fake_python(folder)}"
    make(folder, "run", python)
    (folder / "calls.txt").unlink()
    newer = (folder / ".venv" / ".installed-lab").stat().st_mtime + 10
    os.utime(folder / "constraints.txt", (newer, newer))
    make(folder, "run", python, "CHAPTER=03_planning")
    assert [call.split()[0] for call in calls(folder)] == ["python", "rlbook"]
    assert calls(folder)[1] == "rlbook run 03_planning"


def test_an_index_for_the_cpu_build_is_passed_to_pip(folder: Path) -> None:
    make(folder, "lab", f"PYTHON={fake_python(folder)}", "TORCH_INDEX=https://example.org/cpu")
    assert "--extra-index-url https://example.org/cpu" in calls(folder)[0]


def test_a_failed_installation_is_tried_again(folder: Path) -> None:
    python = f"PYTHON={fake_python(folder)}"
    make(folder, "lab", python)
    script(folder / ".venv" / "bin" / "python", "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    (folder / ".venv" / ".installed-lab").unlink()
    assert make(folder, "lab", python).returncode != 0
    assert not (folder / ".venv" / ".installed-lab").exists()


def test_the_tests_run_in_a_fixed_environment(folder: Path) -> None:
    """One thread, no accelerator, no hub, a temporary state, and no MPLBACKEND."""
    python = f"PYTHON={fake_python(folder)}"
    assert make(folder, "check", python).returncode == 0
    names = "OMP_NUM_THREADS RLBOOK_PRESET CUDA_VISIBLE_DEVICES HF_HUB_OFFLINE MPLBACKEND"
    show = "\n".join(f'echo "{n}=${{{n}-unset}}" >> env.txt' for n in names.split())
    text = f'#!/bin/sh\n{show}\necho "$RLBOOK_STATE" > state.txt\n[ -d "$RLBOOK_STATE" ]\n'
    script(folder / ".venv" / "bin" / "python", text)
    assert make(folder, "test", python, "MPLBACKEND=agg").returncode == 0
    lines = (folder / "env.txt").read_text().splitlines()
    expected = [
        "OMP_NUM_THREADS=1",
        "RLBOOK_PRESET=cpu",
        "CUDA_VISIBLE_DEVICES=",
        "HF_HUB_OFFLINE=1",
        "MPLBACKEND=unset",
    ]
    assert lines == expected * 3  # quick unit tests, slow ones, the validation of the chapters
    assert not Path((folder / "state.txt").read_text().strip()).exists()


def test_help_is_the_default_and_names_each_target(folder: Path) -> None:
    out = make(folder).stdout
    for target in ("lab", "run", "check", "test", "bench", "clean"):
        assert f"make {target} " in out


@pytest.mark.parametrize(
    ("apt_get", "message"),
    [
        (None, "ci: {0} is missing ({1}) and there is no apt-get to install it"),
        ("#!/bin/sh\nexit 100\n", "ci: apt-get could not install {0} ({1})"),
    ],
    ids=["no apt-get", "apt-get fails"],
)
def test_ci_says_what_it_cannot_install_and_tests_all_the_same(
    folder: Path, apt_get: str | None, message: str
) -> None:
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    script(folder / "bin" / "make", '#!/bin/sh\necho "make $*" >> calls.txt\n')
    script(folder / "bin" / "python3", "#!/bin/sh\nexit 1\n")
    if apt_get:
        script(folder / "bin" / "apt-get", apt_get)
    for name in ("bash", "dirname", "sh"):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    result = subprocess.run(
        [folder / "bin" / "bash", folder / ".ci" / "run"],
        env={"PATH": str(folder / "bin")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert message.format("python3-venv", "it makes .venv") in lines
    assert message.format("chromium", "the browser tests are skipped without it") in lines
    assert calls(folder) == ["make test"]


def test_ci_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
