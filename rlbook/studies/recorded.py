"""Recorded studies: read data/runs/NAME.json. numpy and the standard library only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlbook import paths

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A recorded study.

    Attributes:
        name, title: of the study. settings: its SETTINGS when it was recorded.
        seeds: the seeds, in the order of the results.
        measures: measure → arm → one entry per seed, a number or a list.
        provenance: command, date, versions, device, seconds per seed.
        fingerprint: of the settings and the code that were run.
    """

    name: str
    title: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    measures: dict[str, dict[str, list]]
    provenance: dict[str, Any]
    fingerprint: str

    def curves(self, measure: str) -> dict[str, np.ndarray]:
        """Return arm → array [seeds, ...] of a measure.

        Raises ValueError, with the measures there are, for an unknown one.
        """
        if measure not in self.measures:
            raise ValueError(
                f"study {self.name} has no measure {measure!r}; there are: "
                f"{', '.join(self.measures)}"
            )
        return {arm: np.array(values, float) for arm, values in self.measures[measure].items()}

    @property
    def seconds(self) -> float:
        """What all seeds took together, in seconds of one worker."""
        return float(self.provenance["seconds"])

    @property
    def caption(self) -> str:
        """One line for a figure: seeds, command, date, versions."""
        versions = self.provenance["versions"]
        numpy, python = (_short(versions[name]) for name in ("numpy", "python"))
        count = len(self.seeds)
        return (
            f"{count} seed{'s' if count > 1 else ''}; {self.provenance['command']}; "
            f"{self.provenance['date']}; numpy {numpy}, Python {python}"
        )


def runs_folder() -> Path:
    """Return the folder of recorded studies: runs/ in the data folder (RLBOOK_DATA)."""
    return paths.data_folder() / "runs"


def load_run(name: str, *, folder: Path | None = None) -> Run:
    """Read a recorded study.

    Args:
        name: of the study, as on the command line.
        folder: where to look; default ``runs_folder()``.

    Raises:
        FileNotFoundError: it is not recorded there (study, folder, command that records it).
        ValueError: the file is damaged, or written by another version of the book.
    """
    folder = runs_folder() if folder is None else folder
    path = folder / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"the study {name} is not recorded in {folder}: run `rlbook study {name}`"
        ) from None
    try:
        return parse_run(text)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a recorded study: {error}") from None


def parse_run(text: str) -> Run:
    """Return the Run in the text of a file; ValueError if it is another format."""
    document = json.loads(text)
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(f"format {found!r}, expected {FORMAT}")
    fields = ("title", "settings", "measures", "provenance", "fingerprint")
    return Run(
        name=document["study"],
        seeds=tuple(document["seeds"]),
        **{field: document[field] for field in fields},
    )


def written(run: Run) -> str:
    """The text of a file: ``parse_run`` gives the run back. One line per arm of a measure."""
    measures = [
        f"  {json.dumps(measure)}: {{\n"
        + ",\n".join(f"   {json.dumps(arm)}: {_compact(values)}" for arm, values in arms.items())
        + "\n  }"
        for measure, arms in run.measures.items()
    ]
    head = {
        "format": FORMAT,
        "study": run.name,
        "title": run.title,
        "provenance": run.provenance,
        "fingerprint": run.fingerprint,
        "settings": run.settings,
        "seeds": list(run.seeds),
    }
    lines = [f" {json.dumps(key)}: {_compact(value)}" for key, value in head.items()]
    lines.append(' "measures": {\n' + ",\n".join(measures) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _short(version: str) -> str:
    """Major and minor of each version: "2.4.6" is "2.4"."""
    return "; ".join(".".join(part.split(".")[:2]) for part in version.split("; "))
