"""A finished seed is neither lost nor run twice, whatever happens to the processes."""

import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import counted
import numpy as np
import pytest

from rlbook import __version__
from rlbook.studies import runner
from rlbook.studies.catalogue import Study, StudyError, study_of
from rlbook.studies.recorded import load_run
from rlbook.studies.runner import checked, run_study

HERE = Path(__file__).resolve().parent


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which every run of a seed leaves a line."""
    path = tmp_path / "log"
    path.touch()
    for name in ("COUNTED_FAIL", "COUNTED_PAUSE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COUNTED_LOG", str(path))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def times_run(log: Path) -> dict[int, int]:
    """Seed → how often it was begun."""
    return dict(Counter(int(line.split()[0]) for line in log.read_text().splitlines()))


def study() -> Study:
    return study_of("counted")


# --- a run without accidents -----------------------------------------------------------------


def test_the_command_says_at_which_preset(log: Path, runs: Path, monkeypatch) -> None:
    monkeypatch.setenv("RLBOOK_PRESET", "gpu")
    run = run_study(study(), folder=runs, seeds=1, workers=1)
    assert run.provenance["command"] == "RLBOOK_PRESET=gpu rlbook study counted --seeds 1"


def test_an_accelerator_counts_where_it_was_used(monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "a card")
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert runner._device(2).startswith("a card" if used else "CPU ")


def test_a_run_is_recorded_with_its_provenance(log: Path, runs: Path) -> None:
    run = run_study(study(), folder=runs, workers=2)
    assert times_run(log) == {0: 1, 1: 1, 2: 1}  # SEEDS is 3
    assert run == load_run("counted", folder=runs)
    assert (run.name, run.seeds, run.settings) == ("counted", (0, 1, 2), counted.SETTINGS)
    assert run.title == "A tiny study for the tests"
    curves = run.curves("curve")
    for seed in range(3):
        expected = np.random.default_rng(seed).random(4)
        assert curves["a"][seed] == pytest.approx(expected, rel=5e-6)  # 6 digits are kept
        assert curves["b"][seed].tolist() == [seed, 1.0, 2.5, 0.333333]
    assert run.curves("number") == {"threads": pytest.approx(1), "big": pytest.approx(123457000.0)}
    provenance = run.provenance
    assert provenance["command"] == "rlbook study counted --seeds 3"
    assert provenance["device"].startswith("CPU ") and provenance["device"].endswith("2 workers")
    assert provenance["versions"]["rlbook"] == __version__
    assert provenance["versions"]["numpy"] == np.__version__
    assert "torch" not in provenance["versions"]  # the study does not load it
    assert len(provenance["seconds_per_seed"]) == 3
    assert provenance["seconds"] == pytest.approx(sum(provenance["seconds_per_seed"]), abs=1e-3)
    text = (runs / "counted.json").read_text(encoding="utf-8")
    assert os.uname().nodename not in text and str(runs.parent) not in text
    assert [path.name for path in runs.iterdir()] == ["counted.json"]  # nothing is left behind


def test_more_seeds_are_added_and_none_is_run_again(log: Path, runs: Path) -> None:
    first = run_study(study(), folder=runs, seeds=2, workers=1)
    more = run_study(study(), folder=runs, seeds=4, workers=2)
    fewer = run_study(study(), folder=runs, seeds=1)
    assert times_run(log) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert more == fewer
    assert more.seeds == (0, 1, 2, 3)
    assert more.measures["curve"]["a"][:2] == first.measures["curve"]["a"]
    assert more.provenance["command"] == "rlbook study counted --seeds 4"
    device = first.provenance["device"]
    assert more.provenance["device"] == f"{device}; {device.replace('1 worker', '2 workers')}"


def test_the_users_own_number_of_threads_is_kept(
    log: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run = run_study(study(), folder=runs, seeds=1, workers=1)
    assert run.measures["number"]["threads"] == [3]


# --- failures --------------------------------------------------------------------------------


def test_a_seed_that_raises_is_named_and_loses_no_other(
    log: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTED_FAIL", "0,2")
    with pytest.raises(StudyError) as caught:
        run_study(study(), folder=runs, seeds=4, workers=1)
    assert str(caught.value) == (
        "2 of 4 seeds of counted failed (seed 0: ArithmeticError: no luck with 0; seed 2: "
        "ArithmeticError: no luck with 2); the others are kept, and the same command tries these "
        "again"
    )
    assert not (runs / "counted.json").exists()
    monkeypatch.delenv("COUNTED_FAIL")
    run_study(study(), folder=runs, seeds=4, workers=1)
    assert times_run(log) == {0: 2, 1: 1, 2: 2, 3: 1}


def test_numbers_that_are_not_finite_are_refused() -> None:
    for value in (float("nan"), float("inf"), [1.0, [2.0, -float("inf")]], np.array([np.nan])):
        with pytest.raises(
            ValueError, match=r"measure 'regret', arm 'UCB': .* not a finite number"
        ):
            checked({"regret": {"greedy": 1.0, "UCB": value}})
    with pytest.raises(ValueError, match="measure 'regret', arm 'UCB': 'low' is not a number"):
        checked({"regret": {"UCB": "low"}})
    with pytest.raises(ValueError, match="must return measure -> arm -> number or list"):
        checked({"regret": [1.0]})


def test_numbers_are_plain_and_keep_six_digits() -> None:
    result = checked({"m": {"a": np.float64(1 / 3), "b": np.arange(2), "c": (1e-9 / 3, True)}})
    assert result == {"m": {"a": 0.333333, "b": [0, 1], "c": [3.33333e-10, 1]}}
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(("seeds", "workers"), [(0, 1), (1, -1)])
def test_nothing_to_run_is_an_error(runs: Path, seeds: int, workers: int) -> None:
    with pytest.raises(StudyError, match="both must be at least 1"):
        run_study(study(), folder=runs, seeds=seeds, workers=workers)


# --- accidents -------------------------------------------------------------------------------

RUN = (
    "from pathlib import Path\n"
    "from rlbook.studies.catalogue import study_of\n"
    "from rlbook.studies.runner import run_study\n"
    "if __name__ == '__main__':\n"
    "    try:\n"
    "        run_study(study_of('counted'), folder=Path({runs!r}), seeds=4, workers=1)\n"
    "    except KeyboardInterrupt as stop:\n"
    "        print(stop)\n"
)


REARM = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, sys.argv[1]])"
)


@pytest.fixture
def started(log: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that starts a run of 4 seeds in processes of its own, one seed at a time."""
    processes = []

    def start(pause: float) -> subprocess.Popen:
        monkeypatch.setenv("COUNTED_PAUSE", str(pause))
        script = tmp_path / "script.py"
        script.write_text(RUN.format(runs=str(runs)))
        path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        process = subprocess.Popen(
            # Tests that a shell runs in the background inherit that SIGINT is ignored.
            [sys.executable, "-c", REARM, str(script)],
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(timeout=20)
        process.stdout.close()


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


def finished(runs: Path) -> set[int]:
    """The seeds that have a file of their own."""
    return {int(path.stem) for path in (runs / ".unfinished" / "counted").glob("[0-9]*.json")}


def test_after_kill_9_the_same_command_goes_on(
    started: Callable, log: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(pause=1.5)  # wide enough a window on a busy machine
    wait_until(lambda: finished(runs) != set())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    kept = finished(runs)
    begun = times_run(log)
    assert kept and len(kept) < 4 and not (runs / "counted.json").exists()
    (runs / ".unfinished" / "counted" / ".3.json.77.part").write_text('{"fing')  # half a file

    monkeypatch.delenv("COUNTED_PAUSE")
    run = run_study(study(), folder=runs, seeds=4, workers=2)
    after = times_run(log)
    assert all(after[seed] == 1 for seed in kept)  # finished seeds were not run again
    assert all(after[seed] == begun.get(seed, 0) + 1 for seed in set(range(4)) - kept)
    whole = run_study(study(), folder=tmp_path / "other", seeds=4, workers=2)
    assert (run.measures, run.seeds) == (whole.measures, whole.seeds)
    assert [path.name for path in runs.iterdir()] == ["counted.json"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(started: Callable, log: Path) -> None:
    process = started(pause=60.0)
    wait_until(lambda: times_run(log) != {})
    worker = int(log.read_text().split()[1])
    assert worker != process.pid and is_running(worker)
    process.kill()  # the parent alone
    wait_until(lambda: not is_running(worker))


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


def test_ctrl_c_says_what_is_kept(started: Callable, log: Path, runs: Path) -> None:
    process = started(pause=1.5)  # wide enough a window on a busy machine
    wait_until(lambda: finished(runs) != set())
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    kept = len(finished(runs))
    plural = "" if kept == 1 else "s"  # and no traceback, neither here nor of a worker
    assert out == (f"interrupted; {kept} new seed{plural} finished, and the same command goes on\n")
    assert 1 <= kept < 4


def test_a_run_that_dies_while_it_tidies_up_is_tidied_up_later(
    log: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between writing counted.json and removing the seeds, for seeds added and replaced."""
    original = Path.unlink

    def die(path: Path, missing_ok: bool = False) -> None:
        if path.stem == "1":
            raise ZeroDivisionError("killed here")
        original(path, missing_ok)

    for fresh in (False, True):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(Path, "unlink", die)
            run_study(study(), folder=runs, fresh=fresh, workers=2)
        assert finished(runs) == {1, 2}
        run_study(study(), folder=runs)
        assert finished(runs) == set() and not (runs / ".unfinished").exists()
    assert times_run(log) == {0: 2, 1: 2, 2: 2}  # once each, and once each anew


def test_a_worker_that_dies_is_reported(
    log: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deadly = variant(
        tmp_path, monkeypatch, "deadly", "import os, signal\n", "os.kill(os.getpid(), 9)"
    )
    with pytest.raises(StudyError, match=r"a worker of deadly died .*; 0 new seeds finished, and"):
        run_study(deadly, folder=runs, workers=1)


def test_two_processes_do_not_run_the_same_study(log: Path, runs: Path) -> None:
    lock = runs / ".unfinished" / "counted.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StudyError, match="another process is running the study counted"):
            run_study(study(), folder=runs)
    assert times_run(log) == {}


# --- a study that has changed ----------------------------------------------------------------


def variant(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: str = "", body: str = "pass"
) -> Study:
    """A study in a file of its own, with other code."""
    text = (HERE / "counted.py").read_text(encoding="utf-8")
    text = text.replace("import os\n", f"{head}import os\n", 1)
    text = text.replace("    generator =", f"    {body}\n    generator =", 1)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    if str(folder) not in sys.path:
        monkeypatch.syspath_prepend(folder)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return study_of(name)


def test_what_a_study_lacks_is_said_once_and_in_its_own_words(
    log: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = variant(
        tmp_path, monkeypatch, "poor", head="from rlbook.studies.catalogue import StudyError\n",
        body="raise StudyError('poor needs a coin: find one')",
    )  # fmt: skip
    with pytest.raises(StudyError) as caught:
        run_study(poor, folder=runs, workers=1)
    assert str(caught.value) == "poor needs a coin: find one"


def test_a_changed_study_is_refused_until_it_is_run_afresh(
    log: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run_study(variant(tmp_path, monkeypatch, "shifting"), folder=runs, workers=2)
    changed = variant(tmp_path, monkeypatch, "shifting", body="seed += 10")
    message = (
        "the study shifting has changed since it was recorded: `rlbook study shifting --fresh` "
        "runs all seeds anew"
    )
    with pytest.raises(StudyError) as caught:
        run_study(changed, folder=runs)
    assert str(caught.value) == message

    monkeypatch.setenv("COUNTED_FAIL", "1")
    with pytest.raises(StudyError, match="1 of 3 seeds of shifting failed"):
        run_study(changed, folder=runs, fresh=True, workers=2)
    assert load_run("shifting", folder=runs) == old  # kept until the new one is complete
    monkeypatch.delenv("COUNTED_FAIL")
    new = run_study(changed, folder=runs, fresh=True, workers=2)  # the same command goes on
    assert times_run(log) == {0: 2, 1: 3, 2: 2}
    assert new.curves("curve")["b"][:, 0].tolist() == [10, 11, 12]
    assert new.fingerprint != old.fingerprint

    monkeypatch.setenv("COUNTED_FAIL", "4")
    with pytest.raises(StudyError, match="failed"):
        run_study(changed, folder=runs, seeds=5)
    monkeypatch.delenv("COUNTED_FAIL")
    again = variant(tmp_path, monkeypatch, "shifting", body="seed += 20")
    with pytest.raises(StudyError, match="has changed since its unfinished seeds were run"):
        run_study(again, folder=runs, seeds=5)


def test_fresh_runs_all_seeds_again(log: Path, runs: Path) -> None:
    first = run_study(study(), folder=runs, seeds=3)
    second = run_study(study(), folder=runs, seeds=2, fresh=True)
    assert times_run(log) == {0: 2, 1: 2, 2: 1}
    assert second.seeds == (0, 1)
    assert second.measures["curve"]["a"] == first.measures["curve"]["a"][:2]


def test_seeds_that_do_not_fit_together_are_refused(
    log: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ragged = variant(tmp_path, monkeypatch, "ragged", body="SETTINGS['length'] = 4 + seed")
    with pytest.raises(StudyError, match="ragged: seeds 0 and 1 return different measures"):
        run_study(ragged, folder=runs, seeds=2)


def test_a_folder_of_that_name_is_needed(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        run_study(study(), folder=tmp_path / "file")
    assert runner.UNFINISHED == ".unfinished"  # the name that .gitignore knows
    ignored = (HERE.parents[1] / ".gitignore").read_text(encoding="utf-8")
    assert f"data/runs/{runner.UNFINISHED}/" in ignored.splitlines()
