"""Reads book.yml, the table of contents, and answers questions about the chapters.

Every mistake in the file is a BookError that names the file, the key and the value.
"""

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlbook import paths


class BookError(Exception):
    """book.yml is wrong, or a chapter was asked for that the book does not have."""


@dataclass(frozen=True)
class Chapter:
    """One chapter, written or in preparation."""

    slug: str  # "03_planning", the name of its notebook
    title: str
    summary: str
    part: str | None  # the caption of its part; None for the welcome chapter
    prerequisites: tuple[str, ...]  # slugs
    planned: bool  # in preparation: it has no notebook, and the fields below are empty
    run_minutes_cpu: float | None = None
    run_minutes_gpu: float | None = None
    study_minutes: float | None = None
    introduces: tuple[str, ...] = ()  # public names, dotted below rlbook
    exercises: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """The part of the slug before the first underscore: "03", "A1"."""
        return self.slug.partition("_")[0]

    @property
    def notebook(self) -> Path:
        """The path of its notebook, relative to the root of the book."""
        return Path("notebooks") / f"{self.slug}.ipynb"


@dataclass(frozen=True)
class Part:
    """A part of the book: its caption and its chapters in reading order."""

    caption: str | None  # None for the welcome chapter, which stands before Part I
    chapters: tuple[Chapter, ...]


@dataclass(frozen=True)
class Route:
    """A named way through the book."""

    name: str
    title: str
    weeks: float
    hours: float  # planned for the whole route, chapters in preparation included
    chapters: tuple[str, ...]  # slugs in reading order


@dataclass(frozen=True)
class Book:
    """The whole table of contents."""

    title: str
    path: Path  # the book.yml it was read from
    parts: tuple[Part, ...]
    routes: tuple[Route, ...]

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """All chapters in reading order, those in preparation included."""
        return tuple(chapter for part in self.parts for chapter in part.chapters)

    @property
    def written(self) -> tuple[Chapter, ...]:
        """The chapters that have a notebook, in reading order."""
        return tuple(chapter for chapter in self.chapters if not chapter.planned)

    def chapter(self, name: str) -> Chapter:
        """Return the chapter called `name`: "03_planning", "03", "3" or "planning".

        Raises BookError, with the nearest name, where there is none.
        """
        found = {alias: c for c in self.chapters for alias in _aliases(c)}
        wanted = Path(name).name.removesuffix(".ipynb").lower()
        if wanted in found:
            return found[wanted]
        close = difflib.get_close_matches(wanted, found, n=1, cutoff=0.5)
        hint = f"did you mean {found[close[0]].slug}?" if close else "see `rlbook list`"
        raise BookError(f"no chapter is called {name!r}; {hint}")

    def route(self, name: str) -> Route:
        """Return the route called `name`; raises BookError, with the names there are."""
        for route in self.routes:
            if route.name == name:
                return route
        names = ", ".join(route.name for route in self.routes)
        raise BookError(f"no route is called {name!r}; there are: {names}")

    def prerequisite_edges(self) -> tuple[tuple[str, str], ...]:
        """Return the prerequisite graph as pairs (needed chapter, chapter that needs it)."""
        return tuple((needed, c.slug) for c in self.chapters for needed in c.prerequisites)

    def written_hours(self, route: Route) -> float:
        """Return the hours of study in the chapters of `route` that are written so far."""
        minutes = (self.chapter(slug).study_minutes for slug in route.chapters)
        return sum(m for m in minutes if m is not None) / 60

    def check_notebooks(self, root: Path) -> None:
        """Raise BookError unless each written chapter, and no other, has a notebook in `root`."""
        for chapter in self.written:
            if not (root / chapter.notebook).is_file():
                raise BookError(
                    f"{self.path.name}: chapter {chapter.slug}: no notebook {chapter.notebook}"
                )
        listed = {chapter.slug for chapter in self.written}
        for path in sorted((root / "notebooks").glob("*.ipynb")):
            if path.stem not in listed:
                raise BookError(
                    f"notebooks/{path.name} is not in {self.path.name}: "
                    "list it in `parts` and in `meta.chapters`"
                )


def read_book(path: Path | None = None) -> Book:
    """Read and check a table of contents; without `path`, the book's own.

    The notebooks themselves are not looked at: see `Book.check_notebooks`.
    """
    path = path or paths.book_yml()
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise BookError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise BookError(f"{path.name}: {_one_line(error)}") from None
    try:
        return _book(path, data)
    except _Wrong as error:
        raise BookError(f"{path.name}: {error}") from None


class _Wrong(Exception):
    """A mistake at a key: "meta.chapters.03_planning.title: missing"."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    """What PyYAML says, on one line, with the line number in the file."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not valid YAML"
    return f"line {mark.line + 1}: {problem}" if mark else problem


# What the tables of book.yml hold: key -> type. A Python list of strings is `list`.
TOP = {"format": str, "root": str, "parts": list, "meta": dict}
META = {
    "title": str,
    "parts": list,
    "chapters": dict,
    "planned": dict,
    "routes": dict,
}
PLANNED = {"part": str, "title": str, "summary": str, "prerequisites": list}
WRITTEN = {
    "title": str,
    "summary": str,
    "prerequisites": list,
    "run_minutes": dict,
    "study_minutes": float,
    "introduces": list,
    "exercises": list,
    "studies": list,
}
RUN_MINUTES = {"cpu": float, "gpu": float}
ROUTE = {"title": str, "weeks": float, "hours": float, "chapters": list}
WORDS = {str: "text", list: "a list", dict: "a mapping", float: "a number"}


def _book(path: Path, data: Any) -> Book:
    _check_table(data, TOP, "")
    meta = data["meta"]
    _check_table(meta, META, "meta")
    captions = _strings(meta["parts"], "meta.parts")
    for group in ("chapters", "planned", "routes"):
        _strings(list(meta[group]), f"meta.{group}: its keys")
    part_of = _toc(data, captions)
    written = [_written(slug, table, part_of) for slug, table in meta["chapters"].items()]
    planned = [_planned(slug, table, captions) for slug, table in meta["planned"].items()]
    _check_listed(part_of, {chapter.slug for chapter in written})
    chapters = sorted(written + planned, key=lambda chapter: chapter.slug)
    _check_slugs(chapters)
    _check_prerequisites(chapters)
    routes = [_route(name, table, chapters) for name, table in meta["routes"].items()]
    return Book(
        title=meta["title"],
        path=path,
        parts=tuple(
            Part(caption, tuple(c for c in chapters if c.part == caption))
            for caption in (None, *captions)
        ),
        routes=tuple(routes),
    )


def _toc(data: dict, captions: tuple[str, ...]) -> dict[str, str | None]:
    """Read what sphinx-external-toc reads: the slug of each listed file -> its part."""
    if data["format"] != "jb-book":
        raise _Wrong(f"format: expected 'jb-book', got {data['format']!r}")
    part_of: dict[str, str | None] = {_slug(data["root"], "root"): None}
    for i, part in enumerate(data["parts"]):
        key = f"parts[{i}]"
        _check_table(part, {"caption": str, "chapters": list}, key)
        if part["caption"] not in captions:
            raise _Wrong(f"{key}.caption: {part['caption']!r} is not in meta.parts")
        for j, entry in enumerate(part["chapters"]):
            _check_table(entry, {"file": str}, f"{key}.chapters[{j}]")
            slug = _slug(entry["file"], f"{key}.chapters[{j}].file")
            if slug in part_of:
                raise _Wrong(f"{key}.chapters[{j}].file: {slug} is listed twice")
            part_of[slug] = part["caption"]
        files = [entry["file"] for entry in part["chapters"]]
        if files != sorted(files):
            raise _Wrong(f"{key}.chapters: not in the order of their numbers")
    return part_of


def _slug(file: str, key: str) -> str:
    folder, _, slug = file.rpartition("/")
    if folder != "notebooks" or not slug or slug.endswith(".ipynb"):
        raise _Wrong(f"{key}: expected notebooks/NN_slug without a suffix, got {file!r}")
    return slug


def _written(slug: str, table: Any, part_of: dict[str, str | None]) -> Chapter:
    key = f"meta.chapters.{slug}"
    _check_table(table, WRITTEN, key)
    _check_table(table["run_minutes"], RUN_MINUTES, f"{key}.run_minutes")
    if slug not in part_of:
        raise _Wrong(f"{key}: the chapter is not listed in `parts`")
    lists = {
        name: _strings(table[name], f"{key}.{name}")
        for name in ("prerequisites", "introduces", "exercises", "studies")
    }
    return Chapter(
        slug=slug,
        title=table["title"],
        summary=table["summary"],
        part=part_of[slug],
        planned=False,
        run_minutes_cpu=float(table["run_minutes"]["cpu"]),
        run_minutes_gpu=float(table["run_minutes"]["gpu"]),
        study_minutes=float(table["study_minutes"]),
        **lists,
    )


def _planned(slug: str, table: Any, captions: tuple[str, ...]) -> Chapter:
    key = f"meta.planned.{slug}"
    _check_table(table, PLANNED, key)
    if table["part"] not in captions:
        raise _Wrong(f"{key}.part: {table['part']!r} is not in meta.parts")
    return Chapter(
        slug=slug,
        title=table["title"],
        summary=table["summary"],
        part=table["part"],
        prerequisites=_strings(table["prerequisites"], f"{key}.prerequisites"),
        planned=True,
    )


def _route(name: str, table: Any, chapters: list[Chapter]) -> Route:
    key = f"meta.routes.{name}"
    _check_table(table, ROUTE, key)
    slugs = _strings(table["chapters"], f"{key}.chapters")
    _check_known(slugs, {chapter.slug for chapter in chapters}, f"{key}.chapters")
    return Route(name, table["title"], float(table["weeks"]), float(table["hours"]), slugs)


def _check_listed(part_of: Collection[str], written: Collection[str]) -> None:
    for slug in part_of:
        if slug not in written:
            raise _Wrong(f"meta.chapters.{slug}: missing, but notebooks/{slug} is listed")


def _check_slugs(chapters: list[Chapter]) -> None:
    seen: dict[str, str] = {}
    for chapter in chapters:
        if chapter.slug in seen.values():
            raise _Wrong(f"meta.planned.{chapter.slug}: the chapter is also in meta.chapters")
        for alias in sorted(_aliases(chapter)):
            if alias in seen:
                raise _Wrong(f"meta: {seen[alias]} and {chapter.slug} are both called {alias!r}")
        seen.update((alias, chapter.slug) for alias in _aliases(chapter))


def _check_prerequisites(chapters: list[Chapter]) -> None:
    known = {chapter.slug: chapter for chapter in chapters}
    for chapter in chapters:
        group = "planned" if chapter.planned else "chapters"
        _check_known(
            chapter.prerequisites, known.keys(), f"meta.{group}.{chapter.slug}.prerequisites"
        )
    for chapter in chapters:
        for trail in _trails(chapter, known, ()):
            if trail[-1] in trail[:-1]:
                raise _Wrong(f"meta: prerequisites go round in a circle: {' -> '.join(trail)}")


def _trails(
    chapter: Chapter, known: dict[str, Chapter], before: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Yield every trail of prerequisites from `chapter`, up to the first repeated chapter."""
    trail = (*before, chapter.slug)
    yield trail
    if chapter.slug not in before:
        for slug in chapter.prerequisites:
            yield from _trails(known[slug], known, trail)


def _check_known(slugs: tuple[str, ...], known: Collection[str], key: str) -> None:
    for slug in slugs:
        if slug not in known:
            close = difflib.get_close_matches(slug, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise _Wrong(f"{key}: unknown chapter {slug!r}{hint}")


def _check_table(table: Any, types: dict[str, type], key: str) -> None:
    """Raise unless `table` has exactly the keys of `types`, with values of those types."""
    if not isinstance(table, dict):
        raise _Wrong(f"{key or 'the file'}: expected a mapping, got {table!r}")
    dot = f"{key}." if key else ""
    for name in table:
        if name not in types:
            raise _Wrong(f"{dot}{name}: unknown key; known are {', '.join(types)}")
    for name, wanted in types.items():
        if name not in table:
            raise _Wrong(f"{dot}{name}: missing")
        accepted = (int, float) if wanted is float else wanted
        value = table[name]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise _Wrong(f"{dot}{name}: expected {WORDS[wanted]}, got {value!r}")


def _strings(values: list, key: str) -> tuple[str, ...]:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise _Wrong(f"{key}[{i}]: expected text, got {value!r}")
        if value in values[:i]:
            raise _Wrong(f"{key}[{i}]: {value!r} is given twice")
    return tuple(values)


def _aliases(chapter: Chapter) -> set[str]:
    """The lower-case names that `Book.chapter` accepts: "03_planning", "03", "3", "planning"."""
    number, _, topic = chapter.slug.lower().partition("_")
    return {chapter.slug.lower(), number, number.lstrip("0") or "0", topic}
