"""Predict and encode a test set of the competition's size: is memory bounded, is the file right?

    python benchmarks/soak.py --raw data/carvana/raw --names sample_submission.csv.zip \
        --folder /tmp/soak

`--raw` holds Carvana's archives (a part of them will do), `--names` is the official sample
submission with its 100,064 names. An archive with all of them is written to `--folder` (about
10 GB), the real test images again and again, stored as they are. Then the stages split, train
(a small network at 128x128, one epoch: real-looking masks are what matters), predict and encode run
as users run them, and the memory of every process of the last two is read once a second. At
last encode runs again for another threshold: that is what a changed decision costs.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from pipeline.data import rows as mask_rows
from pipeline.data.archives import base_name
from pipeline.data.samples import read, test
from pipeline.evaluation.decision import Decision
from pipeline.masks import submission

ROOT = Path(__file__).parent.parent
PLACES = (
    "raw=raw", "samples=samples.csv", "runs=runs", "evaluation=eval", "work=work", "kept=kept",
    "submission=out", "logs=logs",
)  # fmt: skip
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of Carvana's archives")
    parser.add_argument("--names", type=Path, required=True, help="sample_submission.csv.zip")
    parser.add_argument("--folder", type=Path, required=True, help="for 11 GB, emptied at the end")
    parser.add_argument("--count", type=int, help="only the first so many names")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    timed("archive", lambda: build(args.raw.resolve(), args.names, folder / "raw", args.count))
    write_settings(folder)
    timed("split", lambda: stage(folder, "split"))
    timed("train", lambda: stage(folder, "train", "--fold", "0"))
    watched(folder, "predict")
    size = sum(path.stat().st_size for path in (folder / "kept").iterdir()) / 1e9
    print(f"kept: {size:.2f} GB")
    watched(folder, "encode")
    check(folder)
    decide(folder, 140)
    watched(folder, "encode")
    if not args.keep:
        shutil.rmtree(folder)


def timed(what: str, work) -> None:
    start = time.monotonic()
    work()
    print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)


def build(raw: Path, names: Path, folder: Path, count: int | None) -> None:
    """Link the training archives; write test.zip and the sample submission with `names`."""
    folder.mkdir(parents=True)
    for name in ("train.zip", "train_masks.zip"):
        (folder / name).symlink_to(raw / name)
    wanted = list(itertools.islice((name for name, _ in mask_rows.read_rows(names)), count))
    listed = "".join(f"{name},\n" for name in wanted)
    (folder / "sample_submission.csv").write_text(f"{mask_rows.HEADER}\n{listed}")
    with (
        zipfile.ZipFile(raw / "test.zip") as real,
        zipfile.ZipFile(folder / "test.zip", "w") as archive,
    ):
        members = [name for name in real.namelist() if name.endswith(".jpg")]
        images = [real.read(name) for name in members]
        for name, image in zip(wanted, itertools.cycle(images)):
            archive.writestr(f"test/{name}", image)
    size = (folder / "test.zip").stat().st_size / 1e9
    print(f"{len(wanted):,} names over {len(images)} images, {size:.1f} GB", flush=True)


def write_settings(folder: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes/carvana-laptop.yaml").read_text())
    recipe["train"]["model"] |= {
        "encoder": "tu-mobilenetv3_small_050", "decoder_channels": [32, 24, 16, 16, 8],
        "pixel_unshuffle": 1,
    }  # fmt: skip
    phase = recipe["train"]["phases"][-1] | {"size": [128, 128], "epochs": 1, "batch_size": 4}
    recipe["train"] |= {"resize": "linear", "phases": [phase]}
    recipe["validate"]["tta"] = "none"
    recipe["runtime"] |= {"batch_size": BATCH, "workers": 2, "cache": "none", "tensorboard": False}
    (folder / "recipes").mkdir()
    (folder / "recipes/recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "params.yaml").write_text("recipes: [recipe]\nfolds: [0]\n")
    (folder / "eval").mkdir()
    decide(folder, 128)


def decide(folder: Path, level: int) -> None:
    (folder / "eval/metrics.json").write_text(json.dumps(Decision(level).as_metrics()))


def command(name: str, *more: str) -> list[str]:
    at = [word for place in PLACES for word in ("--at", place)]
    return [sys.executable, "-m", "pipeline", name, "recipe", *at, *more]


def stage(folder: Path, name: str, *more: str) -> None:
    done = subprocess.run(
        command(name, *more), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def watched(folder: Path, name: str) -> None:
    """Run a stage, and tell its memory over time."""
    start = time.monotonic()
    with (folder / "printed.txt").open("w") as printed:
        process = subprocess.Popen(command(name), cwd=folder, env=environment(), stderr=printed)
        samples = list(watch(process))
    seconds = time.monotonic() - start
    assert process.returncode == 0, (folder / "printed.txt").read_text()[-2000:]
    figures = {"predict": "prediction", "encode": "submission"}[name]
    report(name, samples, seconds, json.loads((folder / f"eval/{figures}.json").read_text()))


def check(folder: Path) -> None:
    begin = time.monotonic()
    sizes = {base_name(row.image): row.size for row in test(read(folder / "samples.csv"))}
    file = folder / "out/submit.csv.gz"
    summary = submission.check(file, folder / "raw/sample_submission.csv", sizes)
    size = file.stat().st_size / 1e6
    print(f"check: {summary}, {size:.0f} MB, read in {time.monotonic() - begin:.1f} s")


def watch(process: subprocess.Popen) -> Iterator[tuple[float, list[float]]]:
    """(seconds, MB resident of each process), once a second until it ends."""
    start = time.monotonic()
    while process.poll() is None:
        found = [resident(pid) for pid in family(process.pid)]
        if any(found):
            yield time.monotonic() - start, sorted(filter(None, found), reverse=True)
        time.sleep(1)


def family(process: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{process}/task/{process}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:
        return [process]
    return [process, *itertools.chain.from_iterable(map(family, found))]


def resident(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(
    name: str, samples: list[tuple[float, list[float]]], seconds: float, figures: dict
) -> None:
    """Memory is compared at a fifth of the time and at the end: by then all has been used once."""
    early = next(memory for when, memory in samples if when >= seconds / 5)
    late, rows = samples[-1][1], figures["images"]
    most = max(memory[0] for _, memory in samples)
    print(f"{name}: {rows:,} images in {seconds:.0f} s, {rows / seconds:.0f} a second")
    print(f"resident after a fifth: {early[0]:.0f} MB; at the end: {late[0]:.0f} MB")
    print(f"ratio: {late[0] / early[0]:.3f}; the most at any second: {most:.0f} MB")
    step = max(1, len(samples) // 10)
    print("s, MB:", *(f"{when:.0f}: {memory[0]:.0f}" for when, memory in samples[::step]))
    print(f"figures: {json.dumps(figures)}", flush=True)


if __name__ == "__main__":
    main()
