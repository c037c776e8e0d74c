"""Where the book, its data and the reader's own files are. Standard library only.

In a checkout the folders are found beside the package; an installed wheel carries a copy of
`book.yml` and `data/` in `rlbook/_data`, which mirrors the root of the repository.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PACKAGED = PACKAGE / "_data"


def is_book(folder: Path) -> bool:
    """True where `folder` is the root of the book: it holds book.yml and notebooks/."""
    return (folder / "book.yml").is_file() and (folder / "notebooks").is_dir()


def book_root() -> Path | None:
    """Return the folder that holds book.yml and notebooks/, or None where there is none.

    Looked for in this order: the environment variable RLBOOK_HOME; the current folder and its
    parents; the checkout that this package is imported from.

    Raises ValueError if RLBOOK_HOME is set and is not such a folder.
    """
    home = os.environ.get("RLBOOK_HOME")
    if home:
        folder = Path(home).expanduser().resolve()
        if not is_book(folder):
            raise ValueError(f"RLBOOK_HOME={home}: no book.yml and notebooks/ in that folder")
        return folder
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE.parent):
        if is_book(folder):
            return folder
    return None


def book_yml() -> Path:
    """Return the path of the table of contents: the book's own, else the packaged copy."""
    root = book_root()
    return (root or PACKAGED) / "book.yml"


def data_folder() -> Path:
    """Return the folder with models/ and runs/.

    RLBOOK_DATA, where it is set; else the book's data/; else the packaged copy.
    """
    override = os.environ.get("RLBOOK_DATA")
    if override:
        return Path(override).expanduser().resolve()
    root = book_root()
    return (root or PACKAGED) / "data"


def state_folder() -> Path | None:
    """Return the folder for the reader's own progress, which may not exist yet.

    RLBOOK_STATE names it; "off" means that nothing is to be kept, and gives None. The default
    is rlbook/ in XDG_STATE_HOME, or ~/.local/state/rlbook.
    """
    override = os.environ.get("RLBOOK_STATE")
    if override == "off":
        return None
    if override:
        return Path(override).expanduser().resolve()
    parent = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(parent).expanduser() / "rlbook"
