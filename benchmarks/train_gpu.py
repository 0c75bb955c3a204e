"""Time training on one GPU, then prove the recipe's score on real cars.

    python benchmarks/train_gpu.py --data DIR --out DIR [--minutes 9] [--also RECIPE ...]

`--data` is a folder of the competition's archives; `--out` keeps what is finished, so that the
same command, run again, goes on: pieces of at most `--minutes`. First the speed of the recipe's
network (and of those of `--also`), each piece in a process of its own:

(a) bare steps on a batch that is on the GPU already, at several batch sizes, with and without
    torch.compile and a moving average;
(b) the real loop, with its loader, decoded cache and augmentation;
(c) a plain loop as public solutions write it: float32, channels first, no compile, pictures
    decoded, augmented and made floats by the loader each epoch, the loss read every step.

Then the recipe's fold 0: split, train, validate, tune on that fold, predict the test images.
`--size 64 --accelerator cpu` rehearses all of it in minutes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("train", "validate", "tune", "predict", "encode")
PEAK = 790e12  # FLOP/s of bfloat16 matrix products that an H200 has been seen to reach
ALSO = list(ROOT.glob("recipes/*unet-1024.yaml"))
BATCHES = (8, 16, 32)
LATE = 3  # exit code of a run that must be started again to go on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of archives")
    parser.add_argument("--out", type=Path, required=True, help="outside the repository")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/carvana.yaml")
    parser.add_argument("--also", type=Path, nargs="*", default=ALSO, help="more networks to time")
    parser.add_argument("--minutes", type=float, default=9, help="stop after so long, to go on")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--size", type=int, help="the only phase's: a side in pixels")
    parser.add_argument("--epochs", type=int, help="of the last phase, instead of the recipe's")
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", nargs="*", default=[], help="train.optimizer.weight_decay=0.02")
    parser.add_argument("--skip", choices=["speed", "score"], help="leave out one half")
    parser.add_argument("--piece", help=argparse.SUPPRESS)  # one measurement, as JSON
    args = parser.parse_args()
    if args.piece:
        print(json.dumps(measure(args, **json.loads(args.piece))))
        return
    deadline = time.monotonic() + 60 * args.minutes
    prepare(args, deadline)
    if args.skip != "speed":
        time_all(args, deadline)
    if args.skip != "score":
        score(args, deadline)


def changed(path: Path, args: argparse.Namespace, runtime: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the command line's changes."""
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    last = recipe["train"]["phases"][-1]
    if args.size:
        recipe["train"]["phases"] = [last | {"size": [args.size, args.size]}]
    if args.epochs:
        recipe["train"]["phases"][-1]["epochs"] = args.epochs
    recipe["runtime"] |= {"accelerator": args.accelerator, "workers": args.workers}
    recipe["runtime"] |= {"tensorboard": False, **runtime}
    for item in args.set:
        keys, _, value = item.partition("=")
        section, *inner, last = keys.split(".")
        place = recipe[section]
        for key in inner:
            place = place[key]
        place[last] = yaml.safe_load(value)
    return recipe


# Speed ----------------------------------------------------------------------------------------


def pieces(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is measured, in the order of its worth."""
    found: list[dict[str, Any]] = []
    compiles = (False,) if args.accelerator == "cpu" else (False, True)
    for path in [args.recipe, *args.also]:
        name = {"recipe": str(path.resolve())}
        own = yaml.safe_load(path.read_text())["train"]["phases"][-1]["batch_size"]
        found += [{**name, "part": "a", "batch": own, "compile": c} for c in compiles]
        found += [{**name, "part": "b", "batch": own, "compile": c} for c in compiles]
        found += [{**name, "part": "c", "batch": own}]
        found += [{**name, "part": "a", "batch": own, "compile": compiles[-1], "ema": True}]
        found += [{**name, "part": "a", "batch": own, "compile": False, "channels_last": False}]
        others = [batch for batch in BATCHES if batch != own]
        found += [{**name, "part": "a", "batch": b, "compile": c} for b in others for c in compiles]
    return found


def time_all(args: argparse.Namespace, deadline: float) -> None:
    results = args.out / ("-".join(["speed", *shortened(args)]) + ".jsonl")
    args.out.mkdir(parents=True, exist_ok=True)
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    for piece in pieces(args):
        if any(row["piece"] == piece for row in done):
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--piece", json.dumps(piece)]
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
        name, part, batch = (piece.pop(key) for key in ("recipe", "part", "batch"))
        settings = ", ".join(f"{key} {value}" for key, value in piece.items())
        cells = [part, Path(name).stem, str(batch), settings]
        if "failed" in row:
            lines.append(f"| {' | '.join(cells)} | {row['failed']} |")
            continue
        waiting = f"{row['waiting']:.0%}" if "waiting" in row else ""
        share = f"{row['share']:.1%}" if row["share"] else ""
        cells += [f"{row['speed']:.1f}", share, f"{row['memory']:.1f}", waiting]
        lines.append(f"| {' | '.join(cells)} |")
    for name in dict.fromkeys(row["piece"]["recipe"] for row in rows):
        best = {}
        for part in "abc":
            own = [r for r in rows if r["piece"]["recipe"] == name and r["piece"]["part"] == part]
            batches = {r["piece"]["batch"] for r in rows if r["piece"]["part"] == "b"}
            speeds = [r["speed"] for r in own if "speed" in r and r["piece"]["batch"] in batches]
            best[part] = max(speeds, default=float("nan"))
        lines.append(
            f"\n{Path(name).stem}: (b)/(a) = {best['b'] / best['a']:.2f}, "
            f"(b)/(c) = {best['b'] / best['c']:.2f}, the best of each at the recipe's batch size"
        )
    return "\n".join(lines) + "\n"


def measure(
    args: argparse.Namespace, recipe: str, part: str, batch: int, **how: bool
) -> dict[str, float]:
    """One measurement, in a process of its own."""
    sys.path.insert(0, str(Path(__file__).parent))
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
    path, text = project / f"recipes/{name}.yaml", yaml.safe_dump(recipe, sort_keys=False)
    if path.exists() and path.read_text() != text:  # results of other settings do not count
        for mark in project.glob("done-*"):
            mark.unlink()
    path.write_text(text)
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
    print(f"{project / 'submission.csv.gz'} with {project / f'recipes/{name}.yaml'}")


def run_stage(stage: str, args: argparse.Namespace, deadline: float) -> None:
    """Run a stage that has not been run to its end yet."""
    project, name = project_of(args), args.recipe.stem
    mark = project / f"done-{stage}"
    if not mark.exists():
        command: str = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["cmd"]
        command = command.replace("${item.recipe}", name).replace("${item.fold}", "0")
        run_until(command, project, deadline)
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


def run_until(command: str, project: Path, deadline: float) -> None:
    """Run a stage; when time is up, ask it to save and stop, and end this run."""
    words = [sys.executable if word == "python" else word for word in command.split()]
    process = subprocess.Popen(words, cwd=project, env=environment())
    try:
        code = process.wait(timeout=max(1.0, deadline - time.monotonic() - 20))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        leave(words[2])
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
