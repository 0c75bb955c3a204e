"""Command `folds`: train and validate several folds at once, each with GPUs or cores of its own.

DVC runs each fold and records it, so that `dvc repro` then takes it as done; concurrent.futures
deals the folds out. (joblib ends all at the first error, submitit starts all at once, and
`dvc queue` copies the project for each: 22 s for two folds of 5 s.)
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.paths import PARAMS, Paths
from pipeline.recipe import read
from pipeline.recipe.schema import Recipe, Runtime
from pipeline.support import files
from pipeline.support.errors import UserError, say
from pipeline.support.interrupt import Stop, note_signals

_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
_ADVICE = ("To track the", "git add", "To enable auto", "dvc config", "Use `dvc push`")  # DVC's


@dataclasses.dataclass(frozen=True)
class Place:
    """What one fold at a time has for itself."""

    cores: frozenset[int]
    gpus: str | None  # as CUDA_VISIBLE_DEVICES has them; None on a CPU


def run(recipe: Recipe, paths: Paths, folds: Sequence[int], jobs: int | None) -> None:
    """Train and validate `folds`, as many at once as there are `jobs`.

    Args:
        jobs: None: one for each GPU, or for each `runtime.devices` of them; on a CPU one.

    Raises:
        UserError: DVC or the GPUs are not there, `params.yaml` does not list the recipe, or a
            fold failed, which is said when it happens; the others go on.
    """
    _check(recipe, paths.recipe, folds)
    places = divide(recipe.runtime, jobs, len(folds))
    _prepare(paths.recipe)
    with note_signals() as stop, _Lines(folds) as lines:
        failed = _Run(paths, places, stop, lines).all(folds)
        if stop.signal:
            stop.leave()
    if failed:
        raise UserError(
            f"{failed} of {len(folds)} folds failed, see above; put right what they say and run "
            f"the command again: it goes on with them"
        )
    print(f"folds {', '.join(map(str, folds))} are trained and validated; dvc repro does the rest")


def _check(recipe: Recipe, name: str, folds: Sequence[int]) -> None:
    if importlib.util.find_spec("dvc") is None:
        raise UserError(
            f"the package dvc is missing, which records each fold; install it, or run "
            f"pipeline train {name} --fold {folds[0]}"
        )
    if name not in (listed := read.load_recipes(PARAMS)):
        raise UserError(f"{PARAMS}: recipes: found {list(listed)}, expected {name} among them")
    listed_folds = read.load_folds(PARAMS, recipe.split.folds)
    for fold in folds:
        if fold not in listed_folds:
            raise UserError(
                f"--fold: found {fold}, expected one that {PARAMS} lists: {list(listed_folds)}"
            )
    if recipe.runtime.nodes > 1:
        raise UserError(
            f"runtime.nodes: found {recipe.runtime.nodes}, but folds at once are of one machine; "
            f"set it to 1, or train each fold by torchrun or srun"
        )


def divide(runtime: Runtime, jobs: int | None, folds: int) -> list[Place]:
    """Give each of the jobs its share of the cores, and its GPUs if there are any.

    There are never more jobs than folds: no core is kept for one that does not run.

    Raises:
        UserError: there are fewer GPUs than that takes, or less than one job is asked for.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: found {jobs}, expected 1 or more")
    gpus: list[str] = [] if runtime.accelerator == "cpu" else _gpus()
    if gpus:
        devices = runtime.devices
        most = len(gpus) // devices
        if (jobs or 1) > most:
            raise UserError(
                f"--jobs: found {jobs or 1}, at {devices} GPUs each (runtime.devices), but torch "
                f"sees {len(gpus)}; lower one of them, or check CUDA_VISIBLE_DEVICES"
            )
        jobs = jobs or most
    jobs = min(jobs or 1, folds)
    cores = sorted(os.sched_getaffinity(0))
    places = []
    for job in range(jobs):
        first = job * len(cores) // jobs
        own = cores[first : max(first + 1, (job + 1) * len(cores) // jobs)]
        seen = gpus[job * runtime.devices : (job + 1) * runtime.devices]
        places.append(Place(frozenset(own), ",".join(seen) if gpus else None))
    return places


def _gpus() -> list[str]:
    """Names of the GPUs that torch sees, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed else map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in names][: torch.cuda.device_count()]


def _prepare(recipe: str) -> None:
    """Run what all folds need, where it is not done: DVC would not let several wait for it."""
    stages = [f"download@{recipe}", f"split@{recipe}"]
    environment = _environment()
    if subprocess.run([*_DVC, "status", "-q", *stages], env=environment).returncode:
        done = subprocess.run([*_DVC, "repro", stages[-1]], env=environment)
        if done.returncode:
            raise UserError(f"dvc repro {stages[-1]} failed, see above; no fold was begun")


def _environment() -> dict[str, str]:
    """The stages' commands begin with `python`: this one, also where no environment is active."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class _Run:
    """Folds on their way through the places."""

    def __init__(self, paths: Paths, places: Sequence[Place], stop: Stop, lines: "_Lines") -> None:
        self._paths, self._stop, self._lines = paths, stop, lines
        self._free: queue.SimpleQueue[Place] = queue.SimpleQueue()
        self._jobs = len(places)
        for place in places:
            self._free.put(place)
        self._running: list[subprocess.Popen[str]] = []

    def all(self, folds: Sequence[int]) -> int:
        """How many of them failed; Ctrl-C and SIGTERM stop those that run and begin no other."""
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            waiting = {pool.submit(self._one, fold) for fold in folds}
            done, told = set(waiting), set[int]()
            try:
                while waiting:
                    _, waiting = concurrent.futures.wait(waiting, timeout=0.2)
                    if self._stop.signal:
                        # As Ctrl-C in both cases: DVC then waits until the training is saved.
                        told |= self._interrupt(told)
            except KeyboardInterrupt:  # the second one, at which a training saves nothing
                self._interrupt(set())
                raise
        return sum(not one.result() for one in done)

    def _interrupt(self, told: set[int]) -> set[int]:
        """Interrupt all that run, each with what it has started, but for those `told` before."""
        new = {one.pid for one in self._running if one.poll() is None} - told
        for leader in new:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(leader, signal.SIGINT)
        return new

    def _one(self, fold: int) -> bool:
        """Run one fold in the next free place; whether it is done."""
        place = self._free.get()
        try:
            return bool(self._stop.signal) or self._train(fold, place)
        finally:
            self._free.put(place)

    def _train(self, fold: int, place: Place) -> bool:
        name, began = self._paths.recipe, time.monotonic()
        stages = [f"{stage}@{name}-{fold}" for stage in ("train", "validate")]
        environment = _environment()
        if place.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place.gpus
        os.sched_setaffinity(0, place.cores)  # of this thread, and of what it starts
        log = self._paths.work / f"fold{fold}.log"
        files.make_folder(log.parent)
        said = ""
        with (
            log.open("w", encoding="utf-8") as kept,
            subprocess.Popen(
                [*_DVC, "repro", "-s", *stages], env=environment, text=True, errors="replace",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            ) as child,
        ):  # fmt: skip
            self._running.append(child)
            assert child.stdout is not None
            for line in child.stdout:  # a bar's are as good as lines: text mode ends them at \r
                if not (line := line.strip()) or line.startswith(_ADVICE):
                    continue
                self._lines.show(fold, line)
                if not _is_bar(line):
                    print(line, file=kept, flush=True)
                    error = line.lower().startswith("error: ")
                    said = line if error and not said.startswith("error: ") else said
        if child.returncode == 0:
            log.unlink()
            self._lines.show(fold, f"done, in {time.monotonic() - began:.0f} s")
        elif self._stop.signal:
            log.unlink()
            self._lines.show(fold, "stopped")
        else:
            words = said.partition(": ")[2] or f"ended with exit code {child.returncode}"
            self._lines.show(fold, "failed")
            self._lines.say(f"error: fold {fold}: {words} (all it said: {log})")
        return child.returncode == 0


def _is_bar(line: str) -> bool:
    return "%|" in line


class _Lines:
    """One line a fold: on a terminal it is renewed, elsewhere what is new is a line of its own."""

    def __init__(self, folds: Sequence[int]) -> None:
        self._bars = {}
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1  # tqdm takes an unknown one for none
            self._bars = {
                fold: tqdm(
                    position=place, bar_format="{desc}", desc=f"fold {fold}: waits", ncols=width
                )
                for place, fold in enumerate(folds)
            }

    def show(self, fold: int, text: str) -> None:
        """Show what a fold is at."""
        text = f"fold {fold}: {text.removeprefix(f'fold {fold}: ')}"
        if self._bars:
            self._bars[fold].set_description_str(text)
        elif not _is_bar(text):
            say(text)

    def say(self, text: str) -> None:
        """Say what is to stay."""
        with tqdm.external_write_mode(file=sys.stderr):
            say(text)

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *raised: object) -> None:
        for bar in self._bars.values():
            bar.close()
