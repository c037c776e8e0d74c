"""Run a study's seeds in parallel processes, so that no finished seed is lost or run twice.

Each worker writes the result of a seed to a file of its own, in one step (a temporary file that
is renamed), under .unfinished/NAME beside the recorded runs. Once all seeds asked for are there
they are merged with those recorded before into NAME.json, again in one step, and removed after
that. So whatever stops the run, kill -9 included, the same command goes on where it was.

A study with MODELS gets a folder as well, ``run(seed, folder)``, and leaves a subfolder for each
model there. Those of seed 0 are the ones that are kept.
"""

import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlbook import __version__
from rlbook.studies.catalogue import Study, StudyError
from rlbook.studies.recorded import Run, load_run, written

try:
    import fcntl
except ImportError:  # Windows has no such lock: there two runs at once may repeat a seed
    fcntl = None

DIGITS = 6
VERSIONS_OF = ("numpy", "scipy", "gymnasium", "torch", "transformers", "tokenizers")
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of its run."""

    study: Study
    fingerprint: str
    folder: Path  # of the seed files, and of the models of each seed
    workers: int


def run_study(
    study: Study,
    *,
    folder: Path,
    models: Path | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    fresh: bool = False,
) -> Run:
    """Run seeds 0 .. seeds - 1 of a study, those that are missing, and record them.

    Args:
        study: from ``catalogue.find_study`` or ``catalogue.study_of``.
        folder: of the recorded runs; NAME.json is written there.
        models: where the models of seed 0 go, for a study that trains some; default
            ``folder/models``. Missing ones are made anew, even where the run is recorded.
        seeds: how many; default the study's own number.
        workers: processes; default one per CPU.
        fresh: run all seeds anew; the recorded file stays until the new one is complete.

    Returns:
        The recorded run, with the seeds recorded before.

    Raises:
        StudyError: the study has changed since seeds were recorded (and not ``fresh``); seeds
            failed (which, and how); another process is running it; a worker died; ``run`` itself
            raised it, since something that every seed needs is missing.
        KeyboardInterrupt: says how many seeds are finished.
        OSError: the folder cannot be written to.
    """
    seeds = study.seeds if seeds is None else seeds
    workers = workers or os.cpu_count() or 1
    if seeds < 1 or workers < 1:
        raise StudyError(f"{seeds} seeds on {workers} workers: both must be at least 1")
    models = folder / "models" if models is None else models
    fingerprint = study.fingerprint()
    job = Job(study, fingerprint, folder / UNFINISHED / study.name, workers)
    job.folder.mkdir(parents=True, exist_ok=True)
    with _alone(job.folder.with_suffix(".lock"), study):
        recorded = _begin(job, folder, fresh)
        known = set(recorded.seeds if recorded else ())
        if not all((models / name / "config.json").is_file() for name in study.models):
            known.discard(0)
        todo = [s for s in range(seeds) if s not in known and not _seed_file(job, s).is_file()]
        with tqdm(
            total=seeds, initial=seeds - len(todo), unit="seed", desc=study.name, disable=None
        ) as bar:
            failures = _run_seeds(job, todo, bar)
        if failures:
            listed = "; ".join(f"seed {seed}: {error}" for seed, error in failures.items())
            raise StudyError(
                f"{len(failures)} of {seeds} seeds of {study.name} failed ({listed}); the others "
                "are kept, and the same command tries these again"
            )
        _keep_models(job, models)
        return _finish(job, folder, recorded, seeds)


# --- what is there already -------------------------------------------------------------------


def _begin(job: Job, folder: Path, fresh: bool) -> Run | None:
    """The recorded run to be added to, or None; clears away what is to be run anew.

    A file `fresh` among the seeds says that they are to replace the recorded run. It holds the
    fingerprint, so that the same command goes on with the same seeds.
    """
    study, mark = job.study, job.folder / "fresh"
    replaces = mark.is_file() and mark.read_text(encoding="utf-8") == job.fingerprint
    if fresh and not replaces:
        mark.unlink(missing_ok=True)
        for path in _seed_files(job):
            path.unlink()
            shutil.rmtree(_models_of(job, path.stem), ignore_errors=True)
        _write_whole(mark, job.fingerprint)
        replaces = True
    for path in _seed_files(job):
        if _read_seed(path)["fingerprint"] != job.fingerprint:
            raise _changed(study, "its unfinished seeds were run")
    if replaces or not (folder / f"{study.name}.json").exists():
        return None
    recorded = load_run(study.name, folder=folder)
    if recorded.fingerprint != job.fingerprint:
        raise _changed(study, "it was recorded")
    return recorded


def _changed(study: Study, since: str) -> StudyError:
    return StudyError(
        f"the study {study.name} has changed since {since}: `rlbook study {study.name} --fresh` "
        "runs all seeds anew"
    )


def _seed_file(job: Job, seed: int) -> Path:
    return job.folder / f"{seed}.json"


def _models_of(job: Job, seed: int | str) -> Path:
    return job.folder / f"{seed}.models"


def _seed_files(job: Job) -> list[Path]:
    """The finished seeds, in order."""
    return sorted(job.folder.glob("[0-9]*.json"), key=lambda path: int(path.stem))


def _read_seed(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _alone(path: Path, study: Study) -> Iterator[None]:
    """Hold the lock of a study; the system lets go of it when this process ends, however."""
    with path.open("w", encoding="utf-8") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before us may have removed the file between our open and our lock.
                free = path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except BlockingIOError:
                free = False
            if not free:
                raise StudyError(f"another process is running the study {study.name}")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # another study's seeds are in it
                path.parent.rmdir()


# --- running seeds ---------------------------------------------------------------------------


def _run_seeds(job: Job, seeds: list[int], bar: tqdm) -> dict[int, str]:
    """Run seeds in worker processes; return the errors of those that failed."""
    failures: dict[int, str] = {}
    if not seeds:
        return failures
    before = set(multiprocessing.active_children())
    with _one_thread_each():
        executor = ProcessPoolExecutor(
            min(job.workers, len(seeds)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
        )
        try:
            futures = {executor.submit(_run_seed, job, seed): seed for seed in seeds}
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise StudyError(
                        f"a worker of {job.study.name} died (out of memory?); {_so_far(job)}"
                    )
                if isinstance(error, StudyError):  # it holds for every seed: say it once
                    raise error from None
                if error is None:
                    bar.update()
                else:
                    failures[futures[future]] = f"{type(error).__name__}: {error}"
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted; {_so_far(job)}") from None
            raise
        finally:
            executor.shutdown(cancel_futures=True)
    return dict(sorted(failures.items()))


def _so_far(job: Job) -> str:
    count = len(_seed_files(job))
    return f"{count} new seed{'' if count == 1 else 's'} finished, and the same command goes on"


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers share the cores among them: one thread each, unless the user says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _start_worker() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


def _run_seed(job: Job, seed: int) -> None:
    """In a worker: run one seed and write its file."""
    begun = time.perf_counter()
    if job.study.models:
        models = _models_of(job, seed)
        shutil.rmtree(models, ignore_errors=True)  # of an attempt that did not come to its end
        models.mkdir()
        results = checked(job.study.load().run(seed, models))
    else:
        results = checked(job.study.load().run(seed))
    document = {
        "fingerprint": job.fingerprint,
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - begun, 3),
        "versions": _versions(),
        "device": _device(job.workers),
        "results": results,
    }
    _write_whole(_seed_file(job, seed), json.dumps(document, allow_nan=False))


def checked(results: Any) -> dict[str, dict[str, Any]]:
    """The results of a seed as plain numbers of 6 significant digits.

    Raises ValueError for a number that is not finite (measure and arm), or another structure.
    """
    if not isinstance(results, dict) or not all(isinstance(v, dict) for v in results.values()):
        raise ValueError("run(seed) must return measure -> arm -> number or list")
    return {
        measure: {arm: _plain(value, measure, arm) for arm, value in arms.items()}
        for measure, arms in results.items()
    }


def _plain(value: Any, measure: str, arm: str) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy and of torch
    if isinstance(value, list | tuple):
        return [_plain(entry, measure, arm) for entry in value]
    if not isinstance(value, int | float):
        raise ValueError(f"measure {measure!r}, arm {arm!r}: {value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"measure {measure!r}, arm {arm!r}: {value} is not a finite number")
    return int(value) if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _versions() -> dict[str, str]:
    """Of Python, the book, and the libraries that the study has loaded."""
    found = {"python": platform.python_version(), "rlbook": __version__}
    loaded = [name for name in VERSIONS_OF if name in sys.modules]
    return found | {name: importlib.metadata.version(name) for name in loaded}


def _device(workers: int) -> str:
    """What the seed ran on: the accelerator that it has used, or the kind of CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.get_device_name(0)
    return f"CPU {platform.machine()}, {workers} worker{'' if workers == 1 else 's'}"


# --- recording -------------------------------------------------------------------------------


def _finish(job: Job, folder: Path, recorded: Run | None, seeds: int) -> Run:
    """Merge the seeds asked for with the recorded ones, write the file, remove the seed files.

    Finished seeds beyond those asked for stay where they are: a recorded run has no gaps.
    """
    done = [path for path in _seed_files(job) if int(path.stem) < seeds]
    if done:
        run = _merged(job, recorded, [_read_seed(path) for path in done])
        _write_whole(folder / f"{job.study.name}.json", written(run))
    # The mark goes first: without it the file just written counts, and no seed is missed.
    (job.folder / "fresh").unlink(missing_ok=True)
    for path in [*done, *job.folder.glob(".*.part")]:
        path.unlink()
        shutil.rmtree(_models_of(job, path.stem), ignore_errors=True)
    with suppress(OSError):  # it holds more seeds than were asked for
        job.folder.rmdir()
    return load_run(job.study.name, folder=folder)


def _keep_models(job: Job, folder: Path) -> None:
    """Put the models of seed 0 in their place, each in one step, and forget those of the others."""
    for name in job.study.models:
        new = _models_of(job, 0) / name
        if not new.is_dir():  # seed 0 was not run this time
            continue
        folder.mkdir(parents=True, exist_ok=True)
        arriving, leaving = folder / f".{name}.part", folder / f".{name}.old"
        for path in (arriving, leaving):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(new, arriving)  # the two folders may be on different disks
        if (folder / name).exists():
            (folder / name).rename(leaving)
        arriving.rename(folder / name)
        shutil.rmtree(leaving, ignore_errors=True)


def _merged(job: Job, recorded: Run | None, finished: list[dict[str, Any]]) -> Run:
    rows = {row["seed"]: row for row in _rows(recorded)} if recorded else {}
    rows |= {row["seed"]: row for row in finished if row["seed"] not in rows}
    ordered = [rows[seed] for seed in sorted(rows)]
    first = ordered[0]
    for row in ordered:
        if _shape(row["results"]) != _shape(first["results"]):
            raise StudyError(
                f"{job.study.name}: seeds {first['seed']} and {row['seed']} return different "
                "measures, arms or lengths"
            )
    measures = {
        measure: {arm: [row["results"][measure][arm] for row in ordered] for arm in arms}
        for measure, arms in first["results"].items()
    }
    seeds = [row["seed"] for row in ordered]
    return Run(
        name=job.study.name,
        title=job.study.title,
        settings=job.study.load().SETTINGS,
        seeds=tuple(seeds),
        measures=measures,
        provenance={
            "command": f"{_preset()}rlbook study {job.study.name} --seeds {seeds[-1] + 1}",
            "date": max(row["date"] for row in ordered),
            "versions": {
                name: _distinct(row["versions"].get(name) for row in ordered)
                for name in dict.fromkeys(
                    itertools.chain.from_iterable(row["versions"] for row in ordered)
                )
            },
            "device": _distinct(row["device"] for row in ordered),
            "seconds": round(sum(row["seconds"] for row in ordered), 3),
            "seconds_per_seed": [row["seconds"] for row in ordered],
        },
        fingerprint=job.fingerprint,
    )


def _preset() -> str:
    """RLBOOK_PRESET as it stands before a command, where it is set to another than "cpu"."""
    name = os.environ.get("RLBOOK_PRESET", "cpu")
    return "" if name == "cpu" else f"RLBOOK_PRESET={name} "


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    """A recorded run taken apart into its seeds again."""
    for i, seed in enumerate(run.seeds):
        yield {
            "seed": seed,
            "date": run.provenance["date"],
            "seconds": run.provenance["seconds_per_seed"][i],
            "versions": run.provenance["versions"],
            "device": run.provenance["device"],
            "results": {
                measure: {arm: values[i] for arm, values in arms.items()}
                for measure, arms in run.measures.items()
            },
        }


def _distinct(values: Any) -> str:
    """The different values in order, joined by commas: seeds may come from several sittings."""
    parts = itertools.chain.from_iterable(value.split("; ") for value in values if value)
    return "; ".join(dict.fromkeys(parts))


def _shape(value: Any) -> Any:
    """Keys and lengths of nested results, without the numbers."""
    if isinstance(value, dict):
        return {key: _shape(entry) for key, entry in value.items()}
    return [_shape(entry) for entry in value] if isinstance(value, list) else None


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, even when the power fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself is on disk once its folder is
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
