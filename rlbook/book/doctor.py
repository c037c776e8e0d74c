"""What works on this machine, what is missing, and how to get it. Never raises."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlbook import paths

LAB = "pip install 'rlbook[lab]', or run `make lab`"
CORE = ("numpy", "scipy", "torch", "transformers", "gymnasium", "matplotlib", "jaxtyping", "tqdm")
NOTEBOOK = ("jupyterlab", "ipykernel", "ipywidgets", "nbclient", "pygame")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    works: bool
    detail: str
    remedy: str = ""
    needed: bool = True  # the book cannot do without it


def examine() -> list[Finding]:
    """Return one finding for each thing looked at. Takes a few seconds: it imports torch."""
    checks: list[Callable[[], Finding]] = [
        _python,
        *(lambda name=name: _package(name, "pip install rlbook", needed=True) for name in CORE),
        _accelerator,
        *(lambda name=name: _package(name, LAB, needed=False) for name in NOTEBOOK),
        _chromium,
        _notebooks,
        _contents,
        _data,
        _state,
    ]
    return [_safely(check) for check in checks]


def _safely(check: Callable[[], Finding]) -> Finding:
    """A check that breaks is itself a finding."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.strip("_")
        return Finding(name, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    works = sys.version_info >= (3, 11)
    detail = f"{version} at {sys.executable}"
    return Finding("Python", works, detail, "install Python 3.11 or newer")


def _package(name: str, remedy: str, *, needed: bool) -> Finding:
    """Found without importing it, so that the report stays quick."""
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, "not installed", remedy, needed)
    return Finding(name, True, importlib.metadata.version(name), needed=needed)


def _accelerator() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("accelerator", False, "unknown without torch", needed=False)
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("accelerator", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if torch.backends.mps.is_available():
        return Finding("accelerator", True, "Apple GPU")
    detail = "none: every chapter runs on the CPU"
    return Finding("accelerator", False, detail, needed=False)


def _chromium() -> Finding:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return Finding("Chromium", True, found)
    remedy = "only the browser tests need it: apt install chromium"
    return Finding("Chromium", False, "not found", remedy, needed=False)


def _notebooks() -> Finding:
    root = paths.book_root()
    if root is None:
        remedy = "get the book's repository, or set RLBOOK_HOME to it"
        return Finding("notebooks", False, "not here: this is the package alone", remedy, False)
    count = len(list((root / "notebooks").glob("*.ipynb")))
    return Finding("notebooks", count > 0, f"{count} in {root / 'notebooks'}")


def _contents() -> Finding:
    from rlbook.book.manifest import read_book

    book = read_book()
    written, planned = len(book.written), len(book.chapters) - len(book.written)
    return Finding("contents", True, f"{written} chapters, {planned} in preparation: {book.path}")


def _data() -> Finding:
    folder = paths.data_folder()
    if not folder.is_dir():
        source = "RLBOOK_DATA" if os.environ.get("RLBOOK_DATA") else "the installed package"
        return Finding("data", False, f"no folder {folder}", f"set by {source}")
    return Finding("data", True, str(folder))


def _state() -> Finding:
    folder = paths.state_folder()
    if folder is None:
        return Finding("state", True, "off: your progress is not kept")
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    works = os.access(parent, os.W_OK) and parent.is_dir()
    remedy = "set RLBOOK_STATE to a folder you may write to, or to off"
    return Finding("state", works, _short(folder), remedy, needed=False)


def _short(path: Path) -> str:
    """The path with the home folder as ~."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
