"""Predict and encode a test set of the competition's size: is memory bounded, is the file right?

    python benchmarks/soak.py --raw data/carvana/raw --names sample_submission.csv.zip \
        --folder /tmp/soak [--host]

`--raw` holds Carvana's archives (a part of them will do), `--names` is a sample submission, the
official one of 100,064 names or any other. An archive with all of them is written to `--folder`
(about 10 GB), the real test images again and again, stored as they are. Then the stages split,
train (a small network at 128x128, one epoch: real-looking masks are what matters), predict and
encode run as users run them. `--host` leaves the network out: in the place of train and predict,
images are decoded for a network of 1024x1024 and levels of real masks are kept, which is all that
the host does in predict, and what encode then has to do is as much as with a real network.

Memory of every process of a stage is read once a second, and the CPU time of all is counted. What
encode takes is what another threshold costs: nothing else runs again.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from predict_host import real_maps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data import rows as mask_rows
from pipeline.data.archives import Archives, base_name
from pipeline.data.decoding import decode_batches
from pipeline.data.samples import read, test
from pipeline.evaluation.decision import Decision
from pipeline.levels import kept, scale
from pipeline.masks import submission
from pipeline.support import hardware

ROOT = Path(__file__).parent.parent
PLACES = (
    "raw=raw", "samples=samples.csv", "runs=runs", "evaluation=eval", "work=work", "kept=kept",
    "submission=out", "logs=logs",
)  # fmt: skip
BATCH = 16
SIZE, MASKS = (1024, 1024), 64  # of levels where no network runs; different masks, 64 MB
# When there was one stage for both, without kept levels (RESULTS.md, 2026-11-21).
ONE_STAGE = "7.1 to 7.8 ms of CPU an image without a network; every threshold anew"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, help="folder of Carvana's archives")
    parser.add_argument("--names", type=Path, help="sample_submission.csv.zip")
    parser.add_argument("--folder", type=Path, required=True, help="for 11 GB, emptied at the end")
    parser.add_argument("--count", type=int, help="only the first so many names")
    parser.add_argument("--host", action="store_true", help="no network: the host's part alone")
    parser.add_argument("--decode", type=int, help="with --host: only the first so many images")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.raw is None:  # started by itself, see below
        host_part(folder, args.decode)
        return
    timed("archive", lambda: build(args.raw.resolve(), args.names, folder / "raw", args.count))
    write_settings(folder)
    timed("split", lambda: stage(folder, "split"))
    images = len(test(read(folder / "samples.csv")))
    if args.host:
        decoded = images if args.decode is None else min(args.decode, images)
        alone = [sys.executable, __file__, "--folder", str(folder), "--decode", str(decoded)]
        watched(folder, f"predict without its network, {decoded:,} decoded", alone, images)
    else:
        timed("train", lambda: stage(folder, "train", "--fold", "0"))
        watched(folder, "predict", command("predict"), images)
    size = sum(path.stat().st_size for path in (folder / "kept").iterdir())
    print(f"kept: {size / 1e9:.2f} GB, {size / images / 1e3:.1f} kB an image")
    watched(folder, "encode", command("encode"), images)
    check(folder)
    print(f"one stage: {ONE_STAGE}")
    if not args.keep:
        shutil.rmtree(folder)


def host_part(folder: Path, decoded: int) -> None:
    """What predict does beside the network: decode and resize some images, keep levels of all."""
    hardware.reuse_freed_memory()
    archives, rows = Archives(folder / "raw"), test(read(folder / "samples.csv"))
    levels = [scale.of(one) for one in real_maps(archives, MASKS)]

    def images() -> Iterator[kept.Image]:
        found, start = itertools.cycle(levels), time.process_time()
        for batch in decode_batches(rows[:decoded], archives, SIZE, "linear", BATCH, 1, False):
            assert not any(batch.errors), batch.errors
            for row in batch.rows:
                yield kept.Image.of(row.sample_id, next(found), 0.0, "")
        if decoded:
            used = 1e3 * (time.process_time() - start) / decoded
            print(f"{decoded:,} images decoded and kept: {used:.2f} ms of CPU each", flush=True)
        for row in rows[decoded:]:
            yield kept.Image.of(row.sample_id, next(found), 0.0, "")

    kept.write(folder / "kept", "soak", images(), len(rows))


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


def watched(folder: Path, name: str, line: Sequence[str], images: int) -> None:
    """Run a stage, and tell what it took."""
    start, before = time.monotonic(), cpu_seconds()
    with (folder / "printed.txt").open("w") as printed:
        process = subprocess.Popen(line, cwd=folder, env=environment(), stderr=printed)
        samples = list(watch(process))
    seconds = time.monotonic() - start
    assert process.returncode == 0, (folder / "printed.txt").read_text()[-2000:]
    cpu = 1e3 * (cpu_seconds() - before) / images
    print(f"{name}: {images:,} images in {seconds:.0f} s, {cpu:.2f} ms of CPU an image, with start")
    report(samples, seconds)


def cpu_seconds() -> float:
    """Of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def report(samples: list[tuple[float, list[float]]], seconds: float) -> None:
    """Memory is compared at a fifth of the time and at the end: by then all has been used once."""
    early = next(memory for when, memory in samples if when >= seconds / 5)
    late = samples[-1][1]
    most = max(memory[0] for _, memory in samples)
    print(f"resident after a fifth: {early[0]:.0f} MB; at the end: {late[0]:.0f} MB")
    print(f"ratio: {late[0] / early[0]:.3f}; the most at any second: {most:.0f} MB")
    step = max(1, len(samples) // 10)
    print("s, MB:", *(f"{when:.0f}: {memory[0]:.0f}" for when, memory in samples[::step]))


if __name__ == "__main__":
    main()
