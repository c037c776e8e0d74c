"""Runs a chapter in a clean kernel and writes its outputs back, ready to be committed.

What is written depends on the code alone: no times, no widget states, no versions, no paths of
this machine. A chapter that fails is left as it was.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
IGNORE = "nbval-ignore-output"  # the tag of a cell whose output is not compared

# The environment of a run whose outputs are committed: the one `make test` validates in.
# A value of None means that the variable is removed.
CLEAN_ENVIRONMENT: dict[str, str | None] = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": None,  # it would keep figures out of the notebook
    "OMP_NUM_THREADS": "1",
    "PYTHONSTARTUP": None,
    "RLBOOK_PRESET": "cpu",
    "TQDM_DISABLE": "1",  # heeded by tqdm.tqdm, not by tqdm.auto in a notebook
}


class ChapterError(Exception):
    """A chapter did not run: which one, the cell as in `In [n]`, its first line, the error."""

    def __init__(self, chapter: str, cell: int, first_line: str, error: str) -> None:
        super().__init__(f"{chapter}, cell [{cell}] `{first_line}`: {error}")
        self.chapter = chapter
        self.cell = cell
        self.first_line = first_line
        self.error = error


def execute_notebook(
    path: Path,
    *,
    output: Path | None = None,
    preset: str = "cpu",
    cell_timeout: int = 300,
    on_cell: Callable[[int, int], None] | None = None,
) -> float:
    """Run the notebook at `path` in a clean kernel, write it back, and return the seconds.

    output: where to write it; without it, `path` itself. Written only if every cell ran.
    preset: "cpu" runs in CLEAN_ENVIRONMENT; "small" and "gpu" keep the machine's own environment
        and may take hours, so no cell is timed out.
    cell_timeout: seconds a cell may take under the preset "cpu".
    on_cell: called after each code cell with (cells done, cells in all).

    The working directory of the kernel is the folder of `path`.
    Raises ChapterError if a cell fails, takes too long, prints a path of this machine, or shows
    a widget without the tag nbval-ignore-output.
    """
    notebook = nbformat.read(path, as_version=4)
    total = len(code_cells(notebook))
    done = 0

    def count(**_: Any) -> None:
        nonlocal done
        done += 1
        if on_cell:
            on_cell(done, total)

    with tempfile.TemporaryDirectory(prefix="rlbook-") as scratch:
        client = NotebookClient(
            notebook,
            timeout=cell_timeout if preset == "cpu" else None,
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,  # how a stream was cut depends on timing
            resources={"metadata": {"path": str(path.resolve().parent)}},
            on_cell_executed=count,
        )
        client.km = _kernel_manager(Path(scratch))
        started = time.perf_counter()
        try:
            client.execute(env=_environment(preset, Path(scratch)))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise _chapter_error(path, notebook, done, error) from None
        seconds = time.perf_counter() - started
    _refuse_outputs(path, notebook)
    clean(notebook)
    write_notebook(notebook, output or path)
    return seconds


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that run: those with more than white space in them."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def clean(notebook: NotebookNode) -> None:
    """Remove, in place, what differs between two runs or two machines.

    Timing, widget views, widget states, and all notebook metadata but the kernel's name.
    """
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            for output in cell.outputs:
                if "metadata" in output:
                    output.metadata.pop("execution", None)


def machine_paths(text: str) -> list[str]:
    """Return the absolute paths in `text` that belong to one machine, in order, once each.

    Those are paths below the usual top folders, the current folder, the home folder, the folder
    for temporary files, and the running Python.
    """
    here = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), sys.prefix} - {"/"}
    tops = "home|Users|root|tmp|usr|opt|mnt|srv|var|private"
    prefixes = "|".join([rf"/(?:{tops})(?=/)", r"[A-Z]:\\", *map(re.escape, sorted(here))])
    found = re.findall(rf"(?<![\w./:<)\]-])((?:{prefixes})[^\s\"'`<>)\],;:]*)", text)
    return list(dict.fromkeys(found))


def text_of(output: NotebookNode) -> str:
    """Everything readable in one output of a cell: streams, text, HTML and SVG."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return "\n".join(
        value for mime, value in data.items() if isinstance(value, str) and _is_text(mime)
    )


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write `notebook` to `path` in one step: a reader sees the old file or the new one."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.stem}-", delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, mode)
    os.replace(file.name, path)


def _is_text(mime: str) -> bool:
    return mime.startswith("text/") or mime == "image/svg+xml"


def _environment(preset: str, scratch: Path) -> dict[str, str]:
    """The kernel's environment; IPython's and the book's own state go to `scratch`."""
    environment = dict(os.environ)
    changes = CLEAN_ENVIRONMENT if preset == "cpu" else {"RLBOOK_PRESET": preset}
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    if preset == "cpu":
        environment["RLBOOK_STATE"] = str(scratch / "state")
        environment["IPYTHONDIR"] = str(scratch / "ipython")
    return environment


def _kernel_manager(scratch: Path) -> Any:
    """A manager whose kernel is the running Python, whatever kernels the user has installed.

    They talk through sockets in `scratch`, where the system has them, and not over a network.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=ThisPython(),
        transport="ipc" if os.name == "posix" else "tcp",
        connection_file=str(scratch / "kernel.json"),
    )


def _chapter_error(path: Path, notebook: NotebookNode, done: int, error: Exception) -> ChapterError:
    """Say which cell failed. nbclient counts a cell as executed also when it raised."""
    number = done if isinstance(error, CellExecutionError) else done + 1
    source = code_cells(notebook)[number - 1].source
    if isinstance(error, CellExecutionError):
        reason = f"{error.ename}: {error.evalue}".rstrip(": ")
    elif isinstance(error, CellTimeoutError):
        reason = "took longer than the time limit of a cell"
    else:
        reason = "the kernel died (out of memory?)"
    return ChapterError(path.stem, number, source.strip().splitlines()[0], reason)


def _refuse_outputs(path: Path, notebook: NotebookNode) -> None:
    """Raise for an output that validation could not compare on another machine."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        first_line = cell.source.strip().splitlines()[0]
        for output in cell.outputs:
            if found := machine_paths(text_of(output)):
                reason = f"prints a path of this machine: {found[0]}"
                raise ChapterError(path.stem, number, first_line, reason)
            if WIDGET in output.get("data", {}) and IGNORE not in cell.metadata.get("tags", []):
                reason = f"shows a widget: tag it {IGNORE} (for a bar, use tqdm, not tqdm.auto)"
                raise ChapterError(path.stem, number, first_line, reason)
