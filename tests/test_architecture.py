"""Who may import whom: the rules of the house as a table, checked by reading the sources.

Imports inside functions count, except in cli.py, which puts everything together.
"""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlbook"

ALGORITHMS = {
    "functional", "tabular", "control", "lm", "posttrain", "audit", "loop", "statistics", "report",
}  # fmt: skip
EVERYTHING = ALGORITHMS | {"studies", "paths"}

# component of rlbook -> components it may import. A dotted entry allows that module alone.
MAY_IMPORT: dict[str, set[str]] = {
    "report": set(),
    "paths": set(),
    "statistics": {"report"},
    "functional": {"report"},
    "tabular": {"report"},
    "loop": {"report"},
    "control": {"report", "functional", "loop"},
    "lm": {"report", "loop", "paths", "tabular.maps", "tabular.mdp"},
    "posttrain": {"report", "functional", "loop", "lm"},
    "audit": {"report", "functional", "lm.tabular_lm", "lm.exact", "lm.groups"},
    "studies": ALGORITHMS | {"paths", "show"},
    "checks": EVERYTHING,
    "show": EVERYTHING,
    "book": {"paths"},
}
# A component's other packages; a component that is not here may use any.
MAY_USE: dict[str, set[str]] = {
    "report": set(),
    "paths": set(),
    "statistics": {"numpy", "jaxtyping"},
    "functional": {"torch", "jaxtyping"},
    "tabular": {"numpy", "scipy", "gymnasium", "jaxtyping"},
    "loop": {"torch", "numpy", "jaxtyping", "safetensors"},
    "control": {"torch", "numpy", "gymnasium", "jaxtyping"},
    "lm": {"torch", "transformers", "tokenizers", "safetensors", "numpy", "jaxtyping"},
    "posttrain": {"torch", "numpy", "jaxtyping"},
    "audit": {"torch", "numpy", "jaxtyping"},
}
# A narrower rule for one module than for its component.
ONLY_IN = {"tabular.mdp": {"lm.token_mdp"}}
HEAVY = {"torch", "transformers", "scipy", "matplotlib", "gymnasium", "jupyterlab", "ipywidgets"}


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield the dotted names that `source` imports, those inside functions included.

    `from a import b` gives both a and a.b, since b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - (node.level - 1)]
                base = ".".join([*parents, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return the imports of `module` that the tables forbid, one line each."""
    inside = module.removeprefix("rlbook").lstrip(".")
    component = inside.partition(".")[0]
    if component in ("", "cli"):
        return []
    if component not in MAY_IMPORT:
        return [f"{module}: the component {component!r} is not in the table"]
    found = []
    for name in dict.fromkeys(imports(module, source, is_package=is_package)):
        top, _, target = name.partition(".")
        if top == "rlbook":
            if target and not _is_allowed(component, inside, target):
                found.append(f"{module} imports {name}")
        elif top not in sys.stdlib_module_names and top not in MAY_USE.get(component, {top}):
            found.append(f"{module} uses {top}")
    return found


def _is_allowed(component: str, inside: str, target: str) -> bool:
    if target.partition(".")[0] in {component, "__version__"}:
        return True
    for allowed in MAY_IMPORT[component]:
        exact = target == allowed or target.startswith(allowed + ".")
        # `from rlbook.lm import tabular_lm` also names the package rlbook.lm itself.
        is_parent = allowed.startswith(target + ".")
        if (exact or is_parent) and inside in ONLY_IN.get(allowed, {inside}):
            return True
    return False


@functools.cache
def modules() -> dict[str, Path]:
    """All modules of the package: dotted name -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_it_may(module: str) -> None:
    path = modules()[module]
    source = path.read_text(encoding="utf-8")
    assert breaches(module, source, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("rlbook.tabular.td", "import torch", "rlbook.tabular.td uses torch"),
        ("rlbook.tabular.td", "def f():\n    import torch.nn", "rlbook.tabular.td uses torch"),
        (
            "rlbook.tabular.td",
            "from rlbook.lm import policy",
            "rlbook.tabular.td imports rlbook.lm",
        ),
        ("rlbook.tabular.td", "from ..control import dqn", "imports rlbook.control"),
        ("rlbook.control.ppo", "from rlbook import posttrain", "imports rlbook.posttrain"),
        ("rlbook.posttrain.ppo", "import rlbook.control.ppo", "imports rlbook.control.ppo"),
        ("rlbook.posttrain.ppo", "import transformers", "rlbook.posttrain.ppo uses transformers"),
        ("rlbook.lm.policy", "import gymnasium", "rlbook.lm.policy uses gymnasium"),
        ("rlbook.lm.policy", "from rlbook.tabular.mdp import MDP", "imports rlbook.tabular.mdp"),
        ("rlbook.audit", "from rlbook.lm.policy import load_policy", "imports rlbook.lm.policy"),
        ("rlbook.functional.kl", "from rlbook import paths", "imports rlbook.paths"),
        ("rlbook.book.site", "from rlbook.show import plots", "imports rlbook.show"),
        ("rlbook.report", "import numpy", "rlbook.report uses numpy"),
        ("rlbook.helpers", "", "the component 'helpers' is not in the table"),
    ],
)
def test_a_breach_is_found(module: str, source: str, message: str) -> None:
    assert any(message in breach for breach in breaches(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlbook.tabular.td", "import numpy as np\nfrom rlbook.tabular.mdp import MDP"),
        ("rlbook.tabular.td", "from .mdp import MDP\nfrom . import mdp\nfrom rlbook import report"),
        ("rlbook.lm.token_mdp", "from rlbook.tabular.mdp import MDP\nimport torch"),
        ("rlbook.posttrain.ppo", "from rlbook.functional.returns import gae"),
        ("rlbook.audit", "from rlbook.lm.tabular_lm import TabularLM"),
        ("rlbook.book.site", "from rlbook import paths\nimport nbformat"),
        ("rlbook.cli", "def f():\n    from rlbook.posttrain import grpo"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches(module, source) == []


def test_there_are_no_import_cycles() -> None:
    known = modules()
    graph = {}
    for module, path in known.items():
        is_package = path.name == "__init__.py"
        names = imports(module, path.read_text(encoding="utf-8"), is_package=is_package)
        graph[module] = {name for name in names if name in known and name != module}
    assert cycle(graph) is None


def test_a_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return one cycle of a graph, or None, by walking depth first."""
    done: set[str] = set()

    def walk(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph[node]):
            if found := walk(target, [*trail, node]):
                return found
        done.add(node)
        return None

    for start in sorted(graph):
        if found := walk(start, []):
            return found
    return None


def loaded_by(statement: str) -> set[str]:
    """The names of HEAVY that are loaded after `statement`, in a Python of its own."""
    code = f"{statement}; import sys; print(*(n for n in {sorted(HEAVY)!r} if n in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_packages_import_nothing_heavy() -> None:
    """Neither the package itself, nor any __init__.py, nor the command line."""
    packages = [name for name, path in modules().items() if path.name == "__init__.py"]
    assert loaded_by(f"import {', '.join(packages)}, rlbook.cli") == set()
    assert loaded_by("import scipy") == {"scipy"}


def test_tabular_never_loads_torch() -> None:
    names = [name for name in modules() if name.startswith("rlbook.tabular")]
    assert "torch" not in loaded_by(f"import {', '.join(names)}")


def test_core_dependencies_are_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        assert re.fullmatch(r"[\w-]+>=[\w.]+", requirement), requirement


def test_every_core_dependency_is_pinned_for_validation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in pins if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    extras = project["optional-dependencies"]
    for requirement in project["dependencies"] + extras["lab"] + extras["test"] + extras["teach"]:
        assert requirement.partition(">=")[0].lower() in pinned, requirement


def test_there_is_no_utils_module() -> None:
    names = {path.name for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")}
    assert names.isdisjoint({"utils.py", "util.py", "helpers.py", "misc.py", "common.py"})
