"""Which studies there are, and the fingerprint that tells one version of a study from another.

Standard library only; a study is imported when it is run, not when it is listed.
"""

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import rlbook.studies


class StudyError(ValueError):
    """A study that cannot be found, run or recorded; the message is one line."""


@dataclass(frozen=True)
class Study:
    """A module that describes a study.

    Attributes:
        module: its dotted name, which worker processes import.
        title: the first line of its docstring. seeds: how many it runs by default.
        source: the text of the module.
        models: names of the models that it trains, from MODELS; none for most studies.
    """

    module: str
    title: str
    seeds: int
    source: str
    models: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name on the command line and in data/runs: hyphens for underscores."""
        return self.module.rpartition(".")[2].replace("_", "-")

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(self.module)

    def fingerprint(self) -> str:
        """SHA-256 of the settings and of the module's code; comments and docstrings do not count.

        The functions that the module calls elsewhere are not part of it: after a change to an
        algorithm, `rlbook study NAME --fresh` records the study anew.
        """
        settings = json.dumps(self.load().SETTINGS, sort_keys=True, allow_nan=False)
        tree = _without_docstrings(ast.parse(self.source))
        return hashlib.sha256(f"{settings}\n{_spelt(tree)}".encode()).hexdigest()


def study_of(module: str) -> Study:
    """Return the study in the module with a dotted name; StudyError if it holds none."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin:
        raise StudyError(f"no module is called {module}")
    source = Path(spec.origin).read_text(encoding="utf-8")
    study = _parsed(module, source)
    if study is None:
        raise StudyError(f"{module} is not a study: it needs SETTINGS, SEEDS = a number, and run")
    return study


def all_studies() -> list[Study]:
    """Return the book's studies, by name."""
    names = sorted(found.name for found in pkgutil.iter_modules(rlbook.studies.__path__))
    sources = {name: Path(rlbook.studies.__path__[0], f"{name}.py") for name in names}
    found = (
        _parsed(f"rlbook.studies.{name}", path.read_text(encoding="utf-8"))
        for name, path in sources.items()
    )
    return [study for study in found if study is not None]


def find_study(name: str) -> Study:
    """Return the study called `name`; StudyError, with the nearest name, where there is none."""
    studies = {study.name: study for study in all_studies()}
    wanted = name.lower().replace("_", "-")
    if wanted in studies:
        return studies[wanted]
    close = difflib.get_close_matches(wanted, studies, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "see `rlbook study`"
    raise StudyError(f"no study is called {name!r}; {hint}")


@functools.cache  # to parse them all takes a tenth of a second, and every look-up does
def _parsed(module: str, source: str) -> Study | None:
    """The study that a source describes, read without importing it; None if it is not one."""
    tree = ast.parse(source)
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    seeds = values.get("SEEDS")
    if "run" not in names or "SETTINGS" not in values or not isinstance(seeds, ast.Constant):
        return None
    title = (ast.get_docstring(tree) or module).splitlines()[0].rstrip(".")
    models = ast.literal_eval(values["MODELS"]) if "MODELS" in values else ()
    return Study(module, title, int(seeds.value), source, tuple(models))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if is_text and isinstance(first.value.value, str):
                node.body = node.body[1:]
    return tree


def _spelt(node: Any) -> str:
    """A syntax tree as text. Empty fields are left out: ast.dump lists those that the running
    Python knows of, so its text differs between versions of Python for the same source."""
    if isinstance(node, list):
        return "[" + ",".join(map(_spelt, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    # A literal None has no other field than its value: the name of its class is enough.
    return type(node).__name__ + "(" + ",".join(f"{n}={_spelt(v)}" for n, v in fields) + ")"
