"""Time training on one GPU, then prove the recipe's score on real cars.

    python benchmarks/train_gpu.py --data DIR --out DIR [--minutes 9] [--also RECIPE ...]

`--data` is a folder of the competition's archives; `--out` keeps what is finished, so that the
same command, run again, goes on: pieces of at most `--minutes`. First the speed of the recipe's
network, each piece in a process of its own:

(a) bare steps on a batch that is on the GPU already, with and without torch.compile, and channels
    first in memory;
(b) the real loop, with its loader, decoded cache and augmentation;
(c) a plain loop as public solutions write it: float32 (convolutions in TF32, torch's default),
    channels first, no compile, pictures decoded, augmented and made floats by the loader each
    epoch, the loss read every step.

`--also` times other recipes, `--more` other batch sizes and a moving average.

Then the recipe's fold 0: split, train, validate, tune on that fold, predict the test images; what
is worth keeping is copied to `--out`/results. `--part` does one of both, or a training of an epoch
by two processes (`smoke`). `--size 64 --accelerator cpu` rehearses all of it in minutes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STAGES = ("train", "validate", "tune", "predict", "encode")
PEAK = 790e12  # FLOP/s of bfloat16 matrix products that an H200 has been seen to reach
BATCHES = (8, 16, 32)
SHARED = Path("/dev/shm")  # through which loader processes hand over batches
LATE = 3  # exit code of a run that must be started again to go on


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of archives")
    parser.add_argument("--out", type=Path, required=True, help="outside the repository")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/carvana.yaml")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more networks to time")
    parser.add_argument("--more", action="store_true", help="more settings to time")
    parser.add_argument("--minutes", type=float, default=9, help="stop after so long, to go on")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--size", type=int, help="the only phase's: a side in pixels")
    parser.add_argument("--epochs", type=int, help="of the last phase, instead of the recipe's")
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--workers", type=int, help="as many as cores and /dev/shm allow")
    parser.add_argument("--set", nargs="*", default=[], help="train.optimizer.weight_decay=0.02")
    parser.add_argument("--part", choices=["speed", "score", "smoke"], help="this one alone")
    parser.add_argument("--piece", help=argparse.SUPPRESS)  # one measurement, as JSON
    args = parser.parse_args(given)
    if args.piece:
        print(json.dumps(measure(args, **json.loads(args.piece))))
        return
    deadline = time.monotonic() + 60 * args.minutes
    prepare(args, deadline)
    if args.part in (None, "speed"):
        time_all(args, deadline, given)
    if args.part in (None, "score"):
        score(args, deadline)
    if args.part == "smoke":
        smoke(args, deadline)


def changed(path: Path, args: argparse.Namespace, runtime: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the command line's changes."""
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    last = recipe["train"]["phases"][-1]
    if args.size:
        recipe["train"]["phases"] = [last | {"size": [args.size, args.size]}]
    if args.epochs:
        recipe["train"]["phases"][-1]["epochs"] = args.epochs
    recipe["runtime"] |= {"accelerator": args.accelerator, "tensorboard": False, **runtime}
    phases = recipe["train"]["phases"]
    largest = max(4 * p["batch_size"] * p["size"][0] * p["size"][1] for p in phases)  # bytes
    recipe["runtime"]["workers"] = fitting_workers(args.workers, largest, 4)
    for item in args.set:
        keys, _, value = item.partition("=")
        section, *inner, last = keys.split(".")
        place = recipe[section]
        for key in inner:
            place = place[key]
        place[last] = yaml.safe_load(value)
    return recipe


def fitting_workers(asked: int | None, batch_bytes: int, ahead: int) -> int:
    """As many loader processes as asked, or all cores but one, if /dev/shm has room for them.

    Each holds `ahead` batches there.
    """
    cores = len(os.sched_getaffinity(0))
    workers = max(1, cores - 1) if asked is None else min(asked, cores)
    if SHARED.is_dir():
        workers = min(workers, int(0.9 * shutil.disk_usage(SHARED).free / (batch_bytes * ahead)))
    return workers


# Speed ----------------------------------------------------------------------------------------


def pieces(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is measured, in the order of its worth."""
    found: list[dict[str, Any]] = []
    compiles = (False,) if args.accelerator == "cpu" else (True, False)
    for path in (args.recipe, *args.also):
        name = {"recipe": str(path.resolve())}
        batch = yaml.safe_load(path.read_text())["train"]["phases"][-1]["batch_size"]
        one = {**name, "batch": batch}
        for compile in compiles:
            found += [{**one, "part": "b", "compile": compile}]
            found += [{**one, "part": "a", "compile": compile}]
        found += [{**one, "part": "c"}]
        if path == args.recipe or args.more:
            found += [{**one, "part": "a", "compile": False, "channels_last": False}]
        if args.more:
            found += [{**one, "part": "a", "compile": compiles[0], "ema": True}]
            found += [
                {**name, "batch": other, "part": "a", "compile": compile}
                for other in BATCHES for compile in compiles if other != batch
            ]  # fmt: skip
    return found


def time_all(args: argparse.Namespace, deadline: float, given: list[str]) -> None:
    results = args.out / ("-".join(["speed", *shortened(args)]) + ".jsonl")
    args.out.mkdir(parents=True, exist_ok=True)
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    for piece in pieces(args):
        if any(row["piece"] == piece for row in done):
            continue
        command = [sys.executable, __file__, *given, "--piece", json.dumps(piece)]
        began = time.monotonic()
        try:
            ran = subprocess.run(
                command, env=environment(), capture_output=True, text=True,
                timeout=max(1.0, deadline - time.monotonic() - 10),
            )  # fmt: skip
            lines = ran.stdout.strip().splitlines()
            row = {"piece": piece, **(json.loads(lines[-1]) if ran.returncode == 0 else {})}
            if ran.returncode:
                row["failed"] = (ran.stderr.strip().splitlines() or ["killed"])[-1]
        except subprocess.TimeoutExpired:
            if time.monotonic() - began < 0.8 * 60 * args.minutes:
                leave(json.dumps(piece))
            row = {"piece": piece, "failed": f"not done in {args.minutes} minutes"}
        with results.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        done.append(row)
        print(json.dumps(row), flush=True)
    table = describe(done)
    results.with_suffix(".md").write_text(table)
    print(table)


def describe(rows: list[dict[str, Any]]) -> str:
    lines = ["| part | network | batch | settings | img/s | of the peak | memory, GB | waiting |"]
    lines += ["| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        piece = dict(row["piece"])
        part, batch = piece.pop("part"), piece.pop("batch")
        network = Path(piece.pop("recipe")).stem
        settings = ", ".join(f"{key} {value}" for key, value in piece.items())
        cells = [part, network, str(batch), settings or "float32 (TF32 convolutions)"]
        if "failed" in row:
            lines.append(f"| {' | '.join(cells)} | {row['failed']} |")
            continue
        waiting = f"{row['waiting']:.0%}" if "waiting" in row else ""
        share = f"{row['share']:.1%}" if row["share"] else ""
        cells += [f"{row['speed']:.1f}", share, f"{row['memory']:.1f}", waiting]
        lines.append(f"| {' | '.join(cells)} |")
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        networks.setdefault(Path(row["piece"]["recipe"]).stem, []).append(row)
    for name, own in networks.items():
        batches = {row["piece"]["batch"] for row in own if row["piece"]["part"] == "b"}
        best = dict.fromkeys("abc", 0.0)
        for row in own:
            if "speed" in row and row["piece"]["batch"] in batches:
                part = row["piece"]["part"]
                best[part] = max(best[part], row["speed"])
        of_a, of_c = (f"{best['b'] / best[part]:.2f}" if best[part] else "?" for part in "ac")
        lines.append(
            f"\n{name}: (b)/(a) = {of_a}, (b)/(c) = {of_c}, the best of each at the recipe's "
            f"batch size"
        )
    return "\n".join(lines) + "\n"


def measure(
    args: argparse.Namespace, recipe: str, part: str, batch: int, **how: bool
) -> dict[str, float]:
    """One measurement, in a process of its own."""
    import train_speed

    content = changed(Path(recipe), args, {"compile": how.get("compile", False)})
    last = content["train"]["phases"][-1]
    content["train"]["phases"] = [last | {"batch_size": batch}]  # the largest size alone
    path = args.out / "piece.yaml"
    path.write_text(yaml.safe_dump(content))
    data = project_of(args) / f"data/{args.recipe.stem}"
    return train_speed.measure(path, part, data, args.out, args.seconds, PEAK, **how)


# Score ----------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace, deadline: float) -> None:
    """Make a project of the recipe, its archives and its samples."""
    project, name = project_of(args), args.recipe.stem
    recipe = changed(args.recipe, args, {"cache": "disk", "checkpoint_seconds": 60})
    raw = project / f"data/{name}/raw"
    (project / "recipes").mkdir(parents=True, exist_ok=True)
    raw.mkdir(parents=True, exist_ok=True)
    for file in [*recipe["download"]["files"], *recipe["download"]["optional_files"]]:
        if (archives(args) / file).exists() and not (raw / file).exists():
            (raw / file).symlink_to((archives(args) / file).resolve())
    path = project / f"recipes/{name}.yaml"
    before = yaml.safe_load(path.read_text()) if path.exists() else recipe
    if before | {"runtime": None} != recipe | {"runtime": None}:
        for mark in project.glob("done-*"):  # results of other settings do not count
            mark.unlink()
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    (project / "params.yaml").write_text(yaml.safe_dump({"recipes": [name], "folds": [0]}))
    run_stage("split", args, deadline)


def score(args: argparse.Namespace, deadline: float) -> None:
    """Run the other stages of fold 0 as dvc.yaml has them."""
    for stage in STAGES:
        run_stage(stage, args, deadline)
    project, name = project_of(args), args.recipe.stem
    metrics = json.loads((project / f"eval/{name}/metrics.json").read_text())
    shutil.copy(project / f"submissions/{name}/submit.csv.gz", project / "submission.csv.gz")
    line = json.dumps({"recipe": name, "changes": [*shortened(args), *args.set], **metrics}) + "\n"
    tried = args.out / "scores.jsonl"
    if not tried.exists() or line not in tried.read_text():
        with tried.open("a") as stream:
            stream.write(line)
    print(json.dumps(metrics, indent=2))
    keep_results(project, name, args.out / "results")


def keep_results(project: Path, name: str, to: Path) -> None:
    """Copy what proves the score; of the weights float16, half the bytes to carry."""
    import torch

    from pipeline.support import tensor_file

    to.mkdir(exist_ok=True)
    fold = project / f"runs/{name}/fold0"
    for path in (
        fold / "history.csv",
        project / f"eval/{name}/metrics.json",
        project / f"submissions/{name}/submit.csv.gz",
    ):
        shutil.copy(path, to / path.name)
    content = torch.load(fold / "model.pt", map_location="cpu", weights_only=True)
    content["weights"] = {
        key: value.half() if value.is_floating_point() else value
        for key, value in content["weights"].items()
    }
    tensor_file.save(to / "model-float16.pt", content)
    print(f"{to}: {', '.join(sorted(path.name for path in to.iterdir()))}")


def smoke(args: argparse.Namespace, deadline: float) -> None:
    """Train an epoch of tiny images by two processes: two GPUs if there are, else on the CPU."""
    import torch

    gpus = torch.cuda.device_count() if args.accelerator == "cuda" else 0
    project, name = project_of(args), args.recipe.stem
    recipe = changed(args.recipe, args, {"devices": 2, "cache": "none", "compile": False})
    if gpus < 2:
        recipe["runtime"] |= {"accelerator": "cpu", "precision": "32-true"}
        recipe["train"]["sync_batchnorm"] = False  # torch can on GPUs only
    last = recipe["train"]["phases"][-1]
    recipe["train"]["phases"] = [last | {"size": [64, 64], "epochs": 1}]
    (project / "recipes/smoke.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    data = (project / f"data/{name}").resolve()
    at = f"--at raw={data / 'raw'} --at samples={data / 'samples.csv'}"
    run_until(f"python -m pipeline train smoke --fold 0 {at}", project, deadline)
    print(f"two processes trained an epoch on {'two GPUs' if gpus > 1 else 'the CPU'}")


def run_stage(stage: str, args: argparse.Namespace, deadline: float) -> None:
    """Run a stage that has not been run to its end yet."""
    project, name = project_of(args), args.recipe.stem
    mark = project / f"done-{stage}"
    if not mark.exists():
        command: str = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["cmd"]
        command = command.replace("${item.recipe}", name).replace("${item.fold}", "0")
        last = project / f"runs/{name}/fold0/model.pt" if stage == "train" else None
        run_until(command, project, deadline, last)
        mark.touch()


def project_of(args: argparse.Namespace) -> Path:
    """Its folder: one for each set of changes."""
    found: Path = args.out / "-".join(["score", args.recipe.stem, *shortened(args), *args.set])
    return found


def shortened(args: argparse.Namespace) -> list[str]:
    """What tells a rehearsal's files from the real ones."""
    return [
        f"{name}{value}" for name, value in (("size", args.size), ("epochs", args.epochs)) if value
    ]


def run_until(command: str, project: Path, deadline: float, last: Path | None = None) -> None:
    """Run a stage; when time is up, ask it to save and stop, and end this run.

    But for a training that has written its `last` file and is only clearing up: it is done.
    """
    if last:
        last.unlink(missing_ok=True)  # an earlier one's, as DVC does it
    words = [sys.executable if word == "python" else word for word in command.split()]
    process = subprocess.Popen(words, cwd=project, env=environment())
    try:
        code = process.wait(timeout=max(1.0, deadline - time.monotonic() - 20))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if last is None or not last.exists():
            leave(" ".join(words[2:4]))
        return
    if code:
        sys.exit(code)


def leave(what: str) -> NoReturn:
    print(f"out of time before {what}: run the same command again to go on", flush=True)
    sys.exit(LATE)


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def archives(args: argparse.Namespace) -> Path:
    nested = args.data / "competitions/carvana-image-masking-challenge"
    found: Path = nested if nested.is_dir() else args.data
    return found


if __name__ == "__main__":
    main()
