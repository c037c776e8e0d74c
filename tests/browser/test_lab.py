"""The book in a real JupyterLab, in Debian's Chromium: widgets move, exercises answer.

One server and one page serve the whole test, which is therefore one function of four steps.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--no-sandbox --disable-quic --no-first-run --no-proxy-server --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]

STUB = "def advantage(Q, policy):\n    return NotImplemented"
CELLS = [
    "from rlbook.show.widgets import gridworld_sliders, value_iteration_stepper\n"
    "from rlbook.tabular import maps\nfrom rlbook.tabular.gridworld import GridWorld\n"
    "from rlbook.checks.harness import check",
    "value_iteration_stepper(GridWorld(maps.OPEN_5X5), sweeps=4)",
    "gridworld_sliders(maps.AIMA_4X3, slip=0.2, gamma=0.9, G=1.0, P=-1.0)",
    STUB,
    'check("advantage", advantage)',
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab server on loopback, with folders of its own, that serves one notebook."""
    work = tmp_path / "work"
    work.mkdir()
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, work / "lab.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {**os.environ, "RLBOOK_STATE": str(tmp_path / "state"), "JUPYTER_TOKEN": token}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        environment[name] = str(tmp_path / name)
    for name in ("SETTINGS", "WORKSPACES"):
        environment[f"JUPYTERLAB_{name}_DIR"] = str(tmp_path / name)
    command = f"-m jupyterlab --no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0"
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, *command.split(), "--allow-root"],
            cwd=work,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}")
        yield f"http://127.0.0.1:{port}/lab/tree/lab.ipynb?token={token}&reset"
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        try:
            opener.open(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("JupyterLab did not answer within a minute")


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator:
    """The notebook open in Chromium, its kernel idle."""
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1300, "height": 1800},
            args=QUIET,
        )
        page = context.pages[0] if context.pages else context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
        # The execution indicator says idle before there is a kernel; the status bar does not.
        page.wait_for_selector("#jp-main-statusbar :text-matches('\\\\| Idle')")
        yield page
        context.close()


def move(page, cell, slider: int) -> tuple[str, str]:
    """Press ArrowRight on a slider of a cell; the cell's line of text before and after.

    Fails unless the picture changes and stays where it was.
    """
    image, text = cell.locator(".widget-image"), cell.locator(".widget-label").last
    handle = cell.locator(".widget-slider .noUi-handle").nth(slider)
    handle.scroll_into_view_if_needed()
    picture, words, box = image.get_attribute("src"), text.inner_text(), image.bounding_box()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("([i, old]) => i.src !== old", arg=[image.element_handle(), picture])
    page.wait_for_function("([t, old]) => t.innerText !== old", arg=[text.element_handle(), words])
    assert image.bounding_box() == box
    return words, text.inner_text()


def answer(page, stub, check, source: str) -> str:
    """Write an answer into the stub's cell, run it and the check below; what the check says."""
    stub.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    old = check.locator(".jp-InputPrompt").inner_text()
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "([p, old]) => p.innerText !== old && !p.innerText.includes('*')",
        arg=[check.locator(".jp-InputPrompt").element_handle(), old],
    )
    return check.locator(".jp-OutputArea-output").last.inner_text()


def test_widgets_move_and_exercises_answer(page) -> None:
    page.locator(".lm-MenuBar-item:has-text('Run')").first.click()
    page.locator("li[data-command='runmenu:run-all']").click()
    cells = page.locator(".jp-CodeCell")
    stepper, sliders, stub, check = (cells.nth(i) for i in range(1, 5))
    sliders.locator(".widget-image").wait_for()
    check.locator(":text('not attempted yet')").first.wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0

    # With V = 0 nothing has changed; after one sweep every cell but the goal has lost 1.
    before, after = move(page, stepper, 0)
    assert (before, after) == ("sweep 0: largest change 0", "sweep 1: largest change 1")
    before, after = move(page, sliders, 1)  # more slip: the start is worth less
    assert float(after.split()[-1]) < float(before.split()[-1])

    wrong = "def advantage(Q, policy):\n    return Q - Q.max(axis=1, keepdims=True)"
    assert "this is Q minus max Q" in answer(page, stub, check, wrong)
    right = "def advantage(Q, policy):\n    return Q - (policy * Q).sum(axis=1, keepdims=True)"
    assert "right" in answer(page, stub, check, right)
