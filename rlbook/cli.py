"""The command line: the composition root of the book.

Imports stand inside functions, so that `rlbook --help` is quick and a missing optional package
is reported by the command that needs it. An error of the user's is one line on stderr: exit
code 2 for a wrong argument, 1 for a failure.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    name="rlbook",
    help="Reinforcement learning, from a gridworld to language models: a textbook you run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

USAGE, FAILURE = 2, 1
FIRST_PORT = 8888
GET_NOTEBOOKS = (
    "the notebooks are not part of the installed package; get the book's repository "
    "and run this in its folder, or set RLBOOK_HOME to that folder"
)


def main() -> None:
    """Entry point of the `rlbook` command."""
    try:
        app()
    except KeyboardInterrupt:
        fail("interrupted")


def fail(message: str, code: int = FAILURE) -> NoReturn:
    """Print one line on stderr and leave."""
    print(f"rlbook: {message}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn a wrong book.yml, chapter, route or RLBOOK_HOME into one line and exit code 2."""
    from rlbook.book.manifest import BookError

    try:
        yield
    except (BookError, ValueError) as error:
        fail(str(error), USAGE)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options that stand before a command."""
    if version:
        from rlbook import __version__

        print(f"rlbook {__version__}")
        raise typer.Exit()


@app.command("list")
def list_chapters(
    route: Annotated[str | None, typer.Option(help="Only the chapters of this route.")] = None,
    markdown: Annotated[bool, typer.Option(help="The table of the README.")] = False,
) -> None:
    """List the chapters, with minutes and prerequisites, and the routes."""
    from rlbook.book.manifest import read_book
    from rlbook.book.readme import chapter_table

    with plain_errors():
        book = read_book()
        chosen = book.route(route) if route else None
    if markdown:
        print(chapter_table(book))
        return
    _print_chapters(book, chosen)
    for shown in [chosen] if chosen else book.routes:
        print(_route_line(book, shown))


@app.command()
def lab(
    chapter: Annotated[str, typer.Argument(help="The chapter to open: 03, planning, ...")] = "00",
    port: Annotated[int | None, typer.Option(help="The port; a free one without it.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the book in JupyterLab, on this machine only and with a token."""
    import importlib.util
    import secrets

    from rlbook import paths
    from rlbook.book.manifest import read_book

    with plain_errors():
        root = paths.book_root()
        if root is None:
            fail(GET_NOTEBOOKS)
        found = read_book().chapter(chapter)
    if found.planned:
        fail(f"{found.slug} is in preparation: it has no notebook yet", USAGE)
    if not (root / found.notebook).is_file():
        fail(f"{found.notebook} is missing from {root}")
    if importlib.util.find_spec("jupyterlab") is None:
        fail("JupyterLab is not installed: pip install 'rlbook[lab]', or run `make lab`")
    if port is not None and not _is_free(port):
        fail(f"port {port} is taken; choose another: --port {port + 1} (make lab PORT={port + 1})")
    port = port or _first_free_port()
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    address = f"http://127.0.0.1:{port}/lab/tree/{found.notebook.as_posix()}?token={token}"
    print(f"The book is at  {address}\nStop it with Ctrl-C.", flush=True)
    command = lab_command(root, found.notebook, port, browser=browser and _has_display())
    # In the environment the token is not shown by `ps`, as an argument would be.
    os.execve(command[0], command, {**os.environ, "JUPYTER_TOKEN": token})


@app.command()
def run(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Chapters to run; all without it.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Sizes: cpu, small or gpu.")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the executed notebooks to this folder, not over the book's own."),
    ] = None,
) -> None:
    """Run chapters from top to bottom and save their outputs; print a table of minutes."""
    from rlbook import paths
    from rlbook.book.manifest import read_book

    if preset not in ("cpu", "small", "gpu"):
        fail(f"--preset {preset}: expected cpu, small or gpu", USAGE)
    with plain_errors():
        root = paths.book_root()
        if root is None:
            fail(GET_NOTEBOOKS)
        book = read_book()
        chosen = [book.chapter(name) for name in chapters] if chapters else list(book.written)
        if not chapters:
            book.check_notebooks(root)
    for chapter in chosen:
        if chapter.planned:
            fail(f"{chapter.slug} is in preparation: it has no notebook yet", USAGE)
        if not (root / chapter.notebook).is_file():
            fail(f"{chapter.notebook} is missing from {root}")
    if output:
        output.mkdir(parents=True, exist_ok=True)
    _run_chapters(root, chosen, preset, output)


@app.command()
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="The studies; a list of them all without it.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run seeds 0 to N - 1.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per CPU.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run all seeds anew.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder of recorded runs (data/runs without it) and models/."),
    ] = None,
) -> None:
    """Run experiments over several seeds and record them; the same command goes on after a stop."""
    from rlbook import paths
    from rlbook.studies.catalogue import find_study
    from rlbook.studies.recorded import runs_folder

    with plain_errors():
        folder = output or runs_folder()
        if not names:
            _print_studies(folder)
            return
        chosen = [find_study(name) for name in names]
        models = output / "models" if output else paths.data_folder() / "models"
    preset = os.environ.get("RLBOOK_PRESET", "cpu")
    if any(found.models for found in chosen) and preset != "cpu" and output is None:
        fail(
            f"RLBOOK_PRESET={preset} would train other models than those in {models}: choose a "
            "folder for them with --output",
            USAGE,
        )
    for found in chosen:
        _record(found, folder, models, seeds=seeds, workers=workers, fresh=fresh)


def _record(study, folder: Path, models: Path, **options) -> None:
    """Run one study and say where its results are."""
    from rlbook.studies.catalogue import StudyError
    from rlbook.studies.runner import run_study

    try:
        run = run_study(study, folder=folder, models=models, **options)
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "interrupted")
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror}; choose a folder with --output")
    except (StudyError, ValueError) as error:
        fail(str(error))
    print(f"{folder / study.name}.json: {run.caption} ({run.seconds:.0f} s in all)")
    for model in study.models:
        print(models / model)


@app.command()
def doctor() -> None:
    """Say what works here, what is missing, and how to get it."""
    from rlbook.book.doctor import examine

    broken = False
    for finding in examine():
        mark = "ok     " if finding.works else "MISSING" if finding.needed else "absent "
        remedy = "" if finding.works or not finding.remedy else f"  ->  {finding.remedy}"
        print(f"{mark}  {finding.name:<13}{finding.detail}{remedy}")
        broken = broken or (finding.needed and not finding.works)
    if broken:
        fail("something that the book needs is missing: see the lines above")


@app.command()
def progress() -> None:
    """List the exercises of each chapter, and how far you are with them."""
    from rlbook.book.manifest import read_book
    from rlbook.checks.progress import read

    with plain_errors():
        book = read_book()
    known = read()
    for chapter in book.written:
        for exercise in chapter.exercises:
            print(f"{chapter.slug:<24}{exercise:<26}{known.get(exercise, 'not attempted')}")
    exercises = [name for chapter in book.written for name in chapter.exercises]
    right = sum(known.get(name) == "right" for name in exercises)
    print(f"{right} of {len(exercises)} exercises are right")


@app.command(hidden=True)
def readme() -> None:
    """Write the table of chapters into README.md."""
    from rlbook import paths
    from rlbook.book.manifest import read_book
    from rlbook.book.readme import chapter_table, replace_table

    with plain_errors():
        root = paths.book_root()
        if root is None:
            fail(GET_NOTEBOOKS)
        path = root / "README.md"
        text = replace_table(path.read_text(encoding="utf-8"), chapter_table(read_book()))
    path.write_text(text, encoding="utf-8")


def lab_command(root: Path, notebook: Path, port: int, *, browser: bool) -> list[str]:
    """Return the command line of the JupyterLab server: loopback, and exactly this port."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--LabApp.default_url=/lab/tree/{notebook.as_posix()}",
    ]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def _is_free(port: int) -> bool:
    """True where a server can listen on `port` of the loopback address."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _first_free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        if _is_free(port):
            return port
    fail(f"no port from {FIRST_PORT} to {FIRST_PORT + 99} is free; choose one with --port")


def _has_display() -> bool:
    """False on a Linux machine without a screen, where no browser can open."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _run_chapters(root: Path, chapters: list, preset: str, output: Path | None) -> None:
    """Run the chapters with two bars, print the minutes, and fail if any of them failed."""
    try:
        from rlbook.book.execute import ChapterError, execute_notebook
    except ImportError as error:
        fail(f"{error.name} is not installed: pip install 'rlbook[lab]', or run `make lab`")
    from tqdm import tqdm

    rows, failures = [], []
    with tqdm(chapters, unit="chapter", disable=None) as bar:
        for chapter in bar:
            bar.set_description(chapter.slug)
            with tqdm(unit="cell", leave=False, disable=None) as cells:

                def show(done: int, total: int, cells: tqdm = cells) -> None:
                    cells.total = total
                    cells.update(done - cells.n)

                try:
                    seconds = execute_notebook(
                        root / chapter.notebook,
                        output=output / chapter.notebook.name if output else None,
                        preset=preset,
                        on_cell=show,
                    )
                    rows.append((chapter, seconds / 60))
                except ChapterError as error:
                    failures.append(error)
    _print_minutes(rows, preset)
    for error in failures:
        print(f"rlbook: {error}", file=sys.stderr)
    if failures:
        fail(f"{len(failures)} of {len(chapters)} chapters failed")


def _print_minutes(rows: list, preset: str) -> None:
    """Print what each chapter took beside what book.yml promises for this kind of machine."""
    from rich.table import Table

    table = Table("Chapter", box=None, header_style="bold")
    table.add_column("Minutes", justify="right")
    table.add_column("Promised", justify="right")
    for chapter, minutes in rows:
        promised = chapter.run_minutes_gpu if preset == "gpu" else chapter.run_minutes_cpu
        table.add_row(chapter.slug, f"{minutes:.2f}", f"{promised:g}" if preset != "small" else "")
    total = sum(minutes for _, minutes in rows)
    table.add_row("in all", f"{total:.2f}", "")
    _console().print(table)


def _print_chapters(book, route) -> None:
    from rich.table import Table

    from rlbook.book.readme import duration

    table = Table("Chapter", "Title", box=None, header_style="bold")
    table.add_column("Run", justify="right")
    table.add_column("Study", justify="right")
    table.add_column("Needs")
    for part in book.parts:
        shown = [c for c in part.chapters if route is None or c.slug in route.chapters]
        if shown and part.caption:
            table.add_row("", f"[bold]{part.caption}[/bold]")
        for chapter in shown:
            needs = ", ".join(slug.partition("_")[0] for slug in chapter.prerequisites)
            if chapter.planned:
                row = (chapter.slug, chapter.title, "in preparation", "", needs)
                table.add_row(*row, style="dim")
            else:
                run_minutes = duration(chapter.run_minutes_cpu)
                study = duration(chapter.study_minutes)
                table.add_row(chapter.slug, chapter.title, run_minutes, study, needs)
    _console().print(table)


def _print_studies(folder: Path) -> None:
    """Print the studies, and which of them are recorded in `folder`."""
    from rich.table import Table

    from rlbook.studies.catalogue import all_studies
    from rlbook.studies.recorded import load_run

    table = Table("Study", "Title", box=None, header_style="bold")
    for heading in ("Seeds", "Recorded", "Seconds"):
        table.add_column(heading, justify="right")
    for study in all_studies():
        try:
            run = load_run(study.name, folder=folder)
            recorded = (str(len(run.seeds)), f"{run.seconds:.0f}")
        except FileNotFoundError:
            recorded = ("no", "")
        table.add_row(study.name, study.title, str(study.seeds), *recorded)
    _console().print(table)


def _route_line(book, route) -> str:
    chapters = [book.chapter(slug) for slug in route.chapters]
    written = sum(not chapter.planned for chapter in chapters)
    return (
        f"Route {route.name}: {route.title}; {len(chapters)} chapters, {written} written "
        f"({book.written_hours(route):g} of {route.hours:g} hours, {route.weeks:g} weeks)"
    )


def _console():
    """A console as wide as the terminal; in a pipe, wide enough to cut nothing."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(width=120, highlight=False)


if __name__ == "__main__":
    main()
