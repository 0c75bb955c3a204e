"""Images a second of prediction end to end, against the bare forward pass of the same networks.

    python benchmarks/predict_gpu.py --raw data/carvana/raw             on a GPU
    python benchmarks/predict_gpu.py --raw data/carvana/raw --rehearse  small, on a CPU

End to end is the stage's own stream: images decoded from the zip, networks, levels compressed and
written in chunks. Bare forward runs the same networks on images that lie on the device already.
Both clocks start after the first batches of the same thread, because cuDNN tunes in each thread
anew; compiling is told and not counted. First one network eager, then folded and compiled as the
stage does it, then five with flips. Their weights are random: shifted so that about a fifth of the
pixels are foreground, they cost what trained ones do.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data.archives import Archives
from pipeline.data.decoding import decode_batches
from pipeline.data.images import read_size
from pipeline.data.samples import Sample
from pipeline.levels import kept
from pipeline.networks import model
from pipeline.networks.predictor import Prediction, Predictor, Tta
from pipeline.recipe import read
from pipeline.recipe.schema import Train
from pipeline.support import hardware
from pipeline.support.concurrency import ordered, read_ahead
from pipeline.support.progress import Timers

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
VARIANTS: tuple[tuple[int, Tta, bool], ...] = (
    (1, "none", False),
    (1, "none", True),
    (5, "hflip", True),
)  # networks, flips, folded and compiled


class Smooth(torch.nn.Module):
    """A network whose output is blurred and shifted, so that its masks are as plain as real ones.

    Random weights alone make noise, which no trained network does.
    """

    def __init__(self, network: torch.nn.Module, height: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("ramp", torch.linspace(-8, 2, height)[:, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 0.001 * self.network(images) + self.ramp
        return logits


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder with test.zip")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "carvana.yaml")
    parser.add_argument("--images", type=int, default=16_000, help="that pass through networks")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rehearse", action="store_true", help="few small images, on any device")
    args = parser.parse_args(arguments)
    hardware.reuse_freed_memory()
    settings = read.load(args.recipe).train
    if args.rehearse:
        small = {"encoder": "tu-test_resnet", "decoder_channels": (8,) * 5}
        phase = settings.phases[-1].model_copy(update={"size": (64, 64)})
        network = settings.model.model_copy(update=small)
        settings = settings.model_copy(update={"phases": (phase,), "model": network})
        args.images = 4 * args.batch
    fabric = hardware.launch("auto", "auto", 0, 1, 1)
    print(f"{hardware.describe(fabric)}, {args.workers} decoding threads, batches of {args.batch}")
    rows = repeated(args.raw, args.images)
    lines = ["| | bare forward, img/s | end to end, img/s | share | waited for images |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for count, tta, ready in VARIANTS:
        models = {f"network {fold}": build(settings, fold) for fold in range(count)}
        predictor = predict_with(models, tta, ready, fabric, args)
        some = rows[: max(4 * args.batch, len(rows) // (count * (1 if tta == "none" else 2)))]
        bare = bare_forward(some, args.raw, predictor)
        whole, waited = end_to_end(some, args.raw, predictor)
        how = "folded, compiled" if ready and fabric.device.type == "cuda" else "eager"
        lines.append(
            f"| {args.recipe.stem} at {settings.size[0]}, {count} network(s), {tta}, {how} | "
            f"{bare:.0f} | {whole:.0f} | {whole / bare:.2f} | {waited:.0%} |"
        )
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


def predict_with(
    models: dict[str, model.Segmenter],
    tta: Tta,
    ready: bool,
    fabric: Fabric,
    args: argparse.Namespace,
) -> Predictor:
    """As the stage predicts, or with the networks as they are."""
    if ready:
        return Predictor.of(models, tta, fabric, args.batch, args.workers, compiled=True)
    description = next(iter(models.values())).description
    plain = {name: one.to(fabric.device) for name, one in models.items()}
    return Predictor(
        plain, description.size, description.resize, tta, fabric, args.batch, args.workers, True
    )


def repeated(raw: Path, count: int) -> list[Sample]:
    archives = Archives(raw)
    members = [name for name in archives.members("test.zip") if name.endswith(".jpg")]
    size = read_size(archives.read(members[0]), members[0])
    names = itertools.islice(itertools.cycle(members), count)
    return [Sample(f"{i}", "test", "", name, "", -1, *size, 0.0) for i, name in enumerate(names)]


def build(settings: Train, fold: int) -> model.Segmenter:
    built = model.build(model.describe(settings, fold), "none")
    built.network = Smooth(built.network, settings.size[0])
    return built.eval()


def synchronise(fabric: Fabric) -> None:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()


def bare_forward(rows: list[Sample], raw: Path, predictor: Predictor) -> float:
    """Images a second of the networks alone: one batch that stays on the device."""
    size, batch_size, fabric = predictor.size, predictor.batch_size, predictor.fabric
    some = rows[:batch_size]
    (batch,) = decode_batches(some, Archives(raw), size, "linear", batch_size, 1, False)
    times = max(3, len(rows) // batch_size // 2)

    @torch.inference_mode()
    def run(repeats: int) -> None:
        # Made in this mode, as the stream's are: for others, compiled networks compile again.
        images = batch.images.to(fabric.device).clone()
        with fabric.autocast():
            for _ in range(repeats):
                for network in predictor.networks.values():
                    network(images)
                    if predictor.tta == "hflip":
                        network(images.flip(2)).flip(2)
        synchronise(fabric)

    run(3)  # cuDNN chooses its kernels
    begin = time.perf_counter()
    run(times)
    return times * len(some) / (time.perf_counter() - begin)


def end_to_end(rows: list[Sample], raw: Path, predictor: Predictor) -> tuple[float, float]:
    """Images a second from the zip to chunks of levels, and the share waited for images.

    Both after the first batches.
    """
    size = predictor.batch_size
    warm = min(4, len(rows) // size // 2) * size
    timers, began = Timers(), [0.0, 0.0]

    def predictions() -> Generator[Prediction, None, None]:
        with contextlib.closing(predictor.predict(rows, Archives(raw), timers)) as made:
            for number, prediction in enumerate(made):
                if number == warm:  # a whole batch is done then, and is not counted
                    began[:] = time.perf_counter(), timers.seconds["images"]
                yield prediction

    packed = ordered(
        lambda one: kept.Image.of(one.row.sample_id, one.levels, one.disagreement, one.error),
        read_ahead(predictions(), 2 * size), 2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        kept.write(Path(folder, "kept"), "benchmark", packed, len(rows))
        seconds = time.perf_counter() - began[0]
    waited = (timers.seconds["images"] - began[1]) / seconds
    return (len(rows) - warm - size) / seconds, waited


if __name__ == "__main__":
    main()
