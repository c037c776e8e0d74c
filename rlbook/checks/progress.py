"""A reader's progress: one small JSON file in the user's state folder (RLBOOK_STATE)."""

import json
import os
import tempfile
from pathlib import Path

from rlbook import paths

FILE = "progress.json"


def record(exercise: str, status: str) -> None:
    """Remember the latest status of an exercise; once right, it stays right.

    Nothing is written where the state folder is off, or cannot be read or written: a check
    must not fail for that. The file is replaced whole, so a reader of it never sees half.
    """
    try:
        folder = paths.state_folder()
        known = _load(folder)
        if folder is None or known.get(exercise) in ("right", status):
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {**known, exercise: status})
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return


def read() -> dict[str, str]:
    """Status by exercise; empty where there is no readable file."""
    try:
        return _load(paths.state_folder())
    except (OSError, RuntimeError):
        return {}


def _load(folder: Path | None) -> dict[str, str]:
    """What the file holds; empty where there is none or it is damaged.

    Raises:
        OSError: the file may be there but cannot be read, so it must not be replaced.
    """
    try:
        known = json.loads((folder / FILE).read_text(encoding="utf-8")) if folder else {}
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: status for name, status in known.items() if isinstance(status, str)}


def _write(folder: Path, known: dict[str, str]) -> None:
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=FILE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1, sort_keys=True)
        os.replace(temporary, folder / FILE)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
