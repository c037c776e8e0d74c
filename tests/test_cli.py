"""The command line: what it shows, and that a user's mistake is one line and an exit code."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from rlbook import __version__, cli

pytestmark = pytest.mark.usefixtures("clean_env")
Run = Callable[..., "Result"]


class Result:
    """What a command printed and returned."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def rlbook() -> Run:
    """A function that runs a command in this process."""

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli.app, list(arguments))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def in_small_book(clean_env: None, small_book: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is inside a small book."""
    monkeypatch.chdir(small_book / "notebooks")
    return small_book


def assert_one_line(result: Result, code: int, message: str) -> None:
    assert result.code == code
    assert message in result.err
    assert result.err.startswith("rlbook: ")
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("in_small_book")
def test_list_shows_chapters_parts_minutes_and_routes(rlbook: Run) -> None:
    out = rlbook("list").out
    assert re.search(r"02_sums +Sums +0\.2 min +1\.5 h +00", out)
    assert re.search(r"10_products +Products +in preparation +02", out)
    assert "Part II" in out
    assert "Route all: All of it; 3 chapters, 2 written (2 of 9 hours, 2 weeks)" in out


def test_list_of_the_real_book_names_every_chapter_of_a_route_and_no_other(rlbook: Run) -> None:
    out = rlbook("list", "--route", "i-know-rl").out
    assert "18_grpo" in out and "05_temporal_difference" not in out


@pytest.mark.usefixtures("in_small_book")
def test_list_markdown_is_the_readme_table(rlbook: Run) -> None:
    assert "| [02 Sums](notebooks/02_sums.ipynb) |" in rlbook("list", "--markdown").out


@pytest.mark.usefixtures("in_small_book")
def test_an_unknown_route_is_one_line(rlbook: Run) -> None:
    assert_one_line(rlbook("list", "--route", "al"), 2, "no route is called 'al'; there are: all")


def test_a_wrong_home_is_one_line(rlbook: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLBOOK_HOME", "/nowhere")
    for command in ("list", "lab", "run"):
        assert_one_line(rlbook(command), 2, "RLBOOK_HOME=/nowhere: no book.yml and notebooks/")


def test_a_broken_table_of_contents_is_one_line(rlbook: Run, in_small_book: Path) -> None:
    (in_small_book / "book.yml").write_text("format: [")
    for command in ("list", "lab", "run"):
        assert_one_line(rlbook(command), 2, "book.yml: line 1")


def test_run_executes_the_book_and_prints_minutes(rlbook: Run, in_small_book: Path) -> None:
    result = rlbook("run")
    assert result.code == 0, result.err
    assert re.search(r"02_sums +0\.\d\d +0\.2", result.out)
    assert "in all" in result.out
    assert result.err == ""  # bars are silent where there is no terminal
    notebook = nbformat.read(in_small_book / "notebooks" / "02_sums.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "10\n"


def test_run_one_chapter_into_a_folder(rlbook: Run, in_small_book: Path, tmp_path: Path) -> None:
    before = (in_small_book / "notebooks" / "02_sums.ipynb").read_bytes()
    assert rlbook("run", "sums", "--output", str(tmp_path / "out")).code == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["02_sums.ipynb"]
    assert (in_small_book / "notebooks" / "02_sums.ipynb").read_bytes() == before


@pytest.mark.usefixtures("in_small_book")
def test_run_names_the_failing_cell_and_still_runs_the_rest(
    rlbook: Run, write_cells: Callable[..., Path], in_small_book: Path
) -> None:
    (in_small_book / "notebooks" / "00_start.ipynb").write_bytes(write_cells("1 / 0").read_bytes())
    write_cells("print(7)")
    result = rlbook("run")
    assert result.code == 1
    assert result.err.splitlines() == [
        "rlbook: 00_start, cell [1] `1 / 0`: ZeroDivisionError: division by zero",
        "rlbook: 1 of 2 chapters failed",
    ]
    assert re.search(r"02_sums +0\.\d\d", result.out)


@pytest.mark.usefixtures("in_small_book")
@pytest.mark.parametrize("command", ["run", "lab"])
@pytest.mark.parametrize(
    ("chapter", "message"),
    [
        ("smus", "no chapter is called 'smus'; did you mean 02_sums?"),
        ("10", "10_products is in preparation: it has no notebook yet"),
    ],
)
def test_a_chapter_that_cannot_be_run(
    rlbook: Run, command: str, chapter: str, message: str
) -> None:
    assert_one_line(rlbook(command, chapter), 2, message)


@pytest.mark.usefixtures("in_small_book")
def test_an_unknown_preset_is_one_line(rlbook: Run) -> None:
    assert_one_line(rlbook("run", "--preset", "huge"), 2, "--preset huge: expected cpu, small")


def test_run_says_which_notebook_is_missing(rlbook: Run, in_small_book: Path) -> None:
    (in_small_book / "notebooks" / "02_sums.ipynb").unlink()
    assert_one_line(rlbook("run"), 2, "chapter 02_sums: no notebook notebooks/02_sums.ipynb")
    assert_one_line(rlbook("run", "2"), 1, "notebooks/02_sums.ipynb is missing from")


@pytest.mark.usefixtures("in_small_book")
def test_lab_says_that_a_port_is_taken(rlbook: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message = f"port {port} is taken; choose another: --port {port + 1} (make lab PORT="
        assert_one_line(rlbook("lab", "--port", str(port)), 1, message)


@pytest.mark.usefixtures("in_small_book")
def test_lab_says_how_to_install_jupyterlab(rlbook: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_one_line(rlbook("lab"), 1, "JupyterLab is not installed: pip install 'rlbook[lab]'")


def test_the_server_is_bound_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    command = cli.lab_command(Path("/book"), Path("notebooks/a.ipynb"), 9, browser=False)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--allow-root" in command and "--no-browser" in command
    assert not any("token" in argument for argument in command)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    command = cli.lab_command(Path("/book"), Path("notebooks/a.ipynb"), 9, browser=True)
    assert "--allow-root" not in command and "--no-browser" not in command


@pytest.mark.slow
def test_lab_serves_the_book_with_a_token(in_small_book: Path, tmp_path: Path) -> None:
    """The printed address opens the chapter; without its token the server refuses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    jupyter = {
        f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "DISPLAY"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "rlbook.cli", "lab", "02", "--port", str(port)],
        cwd=in_small_book,
        env=environment | jupyter,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = process.stdout.readline()
        token = re.search(r"/lab/tree/notebooks/02_sums\.ipynb\?token=(\w{32})$", line).group(1)
        address = f"http://127.0.0.1:{port}/api/contents/notebooks/02_sums.ipynb?content=0"
        found = json.loads(wait_for(f"{address}&token={token}", process))
        assert found["name"] == "02_sums.ipynb"
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(address, timeout=10)
        refused.value.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        process.stdout.close()


def wait_for(address: str, process: subprocess.Popen) -> str:
    """The answer at `address`, asked for until the server is up."""
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("the server did not answer within 30 s")


def test_progress_lists_every_exercise(
    rlbook: Run, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rlbook.checks.progress import record

    monkeypatch.setenv("RLBOOK_HOME", str(root))
    monkeypatch.setenv("RLBOOK_STATE", str(tmp_path / "state"))
    record("advantage", "right")
    record("bellman_expectation", "wrong")
    lines = rlbook("progress").out.splitlines()
    assert any(re.fullmatch(r"02_gridworld +advantage +right", line) for line in lines)
    assert any(re.fullmatch(r"02_gridworld +bellman_expectation +wrong", line) for line in lines)
    assert any(re.fullmatch(r"03_planning +greedy_actions +not attempted", line) for line in lines)
    assert re.fullmatch(rf"1 of {len(lines) - 1} exercises are right", lines[-1])


# --- study -----------------------------------------------------------------------------------


@pytest.fixture
def tiny_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path):
    """The study of tests/studies/counted.py, in the place of every study of the book."""
    from rlbook.studies import catalogue

    monkeypatch.syspath_prepend(root / "tests" / "studies")
    monkeypatch.setenv("COUNTED_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path / "data"))
    study = catalogue.study_of("counted")
    monkeypatch.setattr(catalogue, "find_study", lambda name: study)
    monkeypatch.setattr(catalogue, "all_studies", lambda: [study])
    return study


def test_study_runs_records_and_lists(rlbook: Run, tiny_study: object, tmp_path: Path) -> None:
    from rlbook.studies.recorded import load_run

    assert re.search(r"counted +A tiny study .* 3 +no", " ".join(rlbook("study").out.split()))
    result = rlbook("study", "counted", "--seeds", "2", "--workers", "1")
    assert result.code == 0 and result.err == ""  # the bar is silent where there is no terminal
    path = tmp_path / "data" / "runs" / "counted.json"
    assert result.out.startswith(f"{path}: 2 seeds; rlbook study counted --seeds 2; 20")
    assert len(load_run("counted").seeds) == 2
    assert re.search(r"counted .* 3 +2 +\d+ *$", rlbook("study").out)
    again = rlbook("study", "counted", "--output", str(tmp_path / "elsewhere"), "--seeds", "1")
    assert again.out.startswith(str(tmp_path / "elsewhere" / "counted.json"))
    assert (tmp_path / "log").read_text().count("\n") == 3


def test_several_studies_run_one_after_another(
    rlbook: Run, tiny_study: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rlbook.studies import catalogue

    def found(name: str) -> catalogue.Study:
        if name == "unknown":
            raise catalogue.StudyError("no study is called 'unknown'")
        return catalogue.study_of(name)

    monkeypatch.setattr(catalogue, "find_study", found)
    options = ("--seeds", "1", "--workers", "1", "--output", str(tmp_path / "out"))
    result = rlbook("study", "counted", "unknown", *options)
    assert_one_line(result, 2, "no study is called 'unknown'")
    assert not (tmp_path / "out").exists()  # nothing ran
    result = rlbook("study", "trained", "counted", *options)
    starts = [line.partition(":")[0] for line in result.out.splitlines()]
    folder = tmp_path / "out"
    assert starts == [
        str(path)
        for path in (folder / "trained.json", folder / "models/tiny-base", folder / "counted.json")
    ]
    assert (folder / "trained.json").is_file() and (folder / "counted.json").is_file()


def test_study_names_the_seed_that_failed(
    rlbook: Run, tiny_study: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTED_FAIL", "1")
    result = rlbook("study", "counted", "--seeds", "2", "--workers", "1")
    assert_one_line(result, 1, "1 of 2 seeds of counted failed (seed 1: ArithmeticError: no luck")


def test_study_says_what_is_kept_after_ctrl_c(
    rlbook: Run, tiny_study: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlbook.studies import runner

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt("interrupted; 7 new seeds finished, and the same command goes on")

    monkeypatch.setattr(runner, "run_study", interrupted)
    assert_one_line(rlbook("study", "counted"), 1, "interrupted; 7 new seeds finished, and the")


def test_study_says_where_it_cannot_write(rlbook: Run, tiny_study: object, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = rlbook("study", "counted", "--output", str(tmp_path / "file"))
    assert_one_line(result, 1, "choose a folder with --output")


def test_an_unknown_study_is_one_line(rlbook: Run) -> None:
    message = "no study is called 'testbeds'; did you mean testbed?"
    assert_one_line(rlbook("study", "testbeds"), 2, message)


def test_the_books_studies_are_listed(rlbook: Run, root: Path, monkeypatch) -> None:
    monkeypatch.setenv("RLBOOK_HOME", str(root))
    out = rlbook("study").out
    for name in ("testbed", "testbed-sweep", "random-walk", "cliff", "maximisation-bias"):
        assert re.search(rf"(?m)^ *{name} .* \d+ +\d+ +\d+ *$", out), name


def test_doctor_reports_what_works(rlbook: Run) -> None:
    result = rlbook("doctor")
    lines = result.out.splitlines()
    for name in ("Python", "numpy", "torch", "jupyterlab", "accelerator", "notebooks", "data"):
        assert any(re.match(rf"(ok|MISSING|absent) +{name} ", line) for line in lines), name
    assert any(re.match(r"ok +numpy +\d", line) for line in lines)


def test_doctor_says_how_to_get_what_is_missing(
    rlbook: Run, in_small_book: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path / "no"))
    monkeypatch.setenv("PATH", "")
    (in_small_book / "book.yml").write_text("format: [")
    result = rlbook("doctor")
    assert result.code == 1
    assert re.search(r"MISSING +data +no folder .*set by RLBOOK_DATA", result.out)
    assert re.search(r"absent +Chromium +not found +-> .*apt install chromium", result.out)
    assert re.search(r"MISSING +contents +BookError: book.yml: line 1", result.out)


def test_readme_writes_the_table(rlbook: Run, in_small_book: Path) -> None:
    from rlbook.book.readme import BEGIN, END

    (in_small_book / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    assert rlbook("readme").code == 0
    text = (in_small_book / "README.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "Adding up." in text


def test_version_and_help_in_a_process_of_their_own(python: str) -> None:
    for arguments, expected in ((["--version"], f"rlbook {__version__}"), (["--help"], "doctor")):
        command = [python, "-m", "rlbook.cli", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in result.stdout


def test_a_wrong_command_has_exit_code_2_and_no_traceback(python: str) -> None:
    command = [python, "-m", "rlbook.cli", "lst"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "No such command 'lst'" in result.stderr and "Traceback" not in result.stderr
