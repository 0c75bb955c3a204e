"""Images a second of prediction end to end, against the bare forward pass of the same network.

    python benchmarks/predict_gpu.py --raw data/carvana/raw             on a GPU
    python benchmarks/predict_gpu.py --raw data/carvana/raw --rehearse  small, on a CPU

End to end is the stage's own stream: images decoded from the zip, networks, levels compressed and
written in chunks. Bare forward runs the same networks on images that lie on the device already.
Both are timed after warming up (cuDNN tunes in each thread anew, so the stream's clock starts after
its first batches), one model without flips first, then five with them. The networks' weights are
random: shifted so that about a fifth of the pixels are foreground, they cost what trained ones do.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric

from pipeline.data.archives import Archives
from pipeline.data.decoding import decode_batches
from pipeline.data.samples import Sample
from pipeline.levels import kept
from pipeline.networks import model
from pipeline.networks.predictor import Predictor
from pipeline.support import hardware
from pipeline.support.concurrency import ordered, read_ahead
from pipeline.support.progress import Timers

FULL = (1280, 1918)  # height, width of Carvana's images


class Smooth(torch.nn.Module):
    """A network whose output is blurred and shifted, so that its masks are as plain as real ones.

    Random weights alone make noise, which no trained network does.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        ramp = torch.linspace(-8, 2, logits.shape[1], device=logits.device)
        return 0.001 * logits + ramp[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder with test.zip")
    parser.add_argument("--images", type=int, default=16_000, help="an end-to-end run predicts")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rehearse", action="store_true", help="few small images, on any device")
    args = parser.parse_args()
    hardware.reuse_freed_memory()
    size, encoder = ((64, 64), "resnet18") if args.rehearse else ((1024, 1024), "resnet34")
    images = 4 * args.batch if args.rehearse else args.images
    fabric = hardware.launch("auto", "auto", 0, 1, 1)
    print(f"{hardware.describe(fabric)}, {args.workers} decoding threads, batches of {args.batch}")
    rows = repeated(args.raw, images)
    print("\n| | bare forward, img/s | end to end, img/s | share | waited for images |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for count, tta in ((1, "none"), (5, "hflip")):
        networks = [build(encoder, size, fold).to(fabric.device) for fold in range(count)]
        some = rows[: max(args.batch, len(rows) // (count * (1 if tta == "none" else 2)))]
        named = {f"network {number}": one for number, one in enumerate(networks)}
        predictor = Predictor(named, size, "linear", tta, fabric, args.batch, args.workers)
        bare = bare_forward(some, args.raw, predictor)
        whole, waits = end_to_end(some, args.raw, predictor)
        print(
            f"| {encoder} at {size[0]}, {count} model(s), {tta} | {bare:.0f} | {whole:.0f} | "
            f"{whole / bare:.2f} | {waits.fraction('images'):.0%} |",
            flush=True,
        )


def repeated(raw: Path, count: int) -> list[Sample]:
    members = [name for name in Archives(raw).members("test.zip") if name.endswith(".jpg")]
    names = itertools.islice(itertools.cycle(members), count)
    return [Sample(f"{i}", "test", "", name, "", -1, *FULL, 0.0) for i, name in enumerate(names)]


def build(encoder: str, size: tuple[int, int], fold: int) -> torch.nn.Module:
    description = model.Description(
        {"architecture": "Unet", "encoder": encoder, "decoder_channels": (256, 128, 64, 32, 16),
         "pixel_unshuffle": 1},
        size, "linear", (0.5,) * 3, (0.25,) * 3, 1, fold,
    )  # fmt: skip
    return Smooth(model.build(description, "none")).eval()


def synchronise(fabric: Fabric) -> None:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()


def bare_forward(rows: list[Sample], raw: Path, predictor: Predictor) -> float:
    """Images a second of the networks alone: one batch that stays on the device."""
    size, batch_size, fabric = predictor.size, predictor.batch_size, predictor.fabric
    some = rows[:batch_size]
    (batch,) = decode_batches(some, Archives(raw), size, "linear", batch_size, 1, False)
    images = batch.images.to(fabric.device)
    times = max(3, len(rows) // batch_size // 2)

    @torch.inference_mode()
    def run(repeats: int) -> None:
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


def end_to_end(rows: list[Sample], raw: Path, predictor: Predictor) -> tuple[float, Timers]:
    """Images a second from the zip to chunks of levels, after the first batches."""
    warm = min(4, len(rows) // predictor.batch_size // 4) * predictor.batch_size
    timers, clock = Timers(), [0.0]

    def images() -> Iterator[kept.Image]:
        predictions = predictor.predict(rows, Archives(raw), timers)
        stream = read_ahead(predictions, 2 * predictor.batch_size)
        packed = ordered(
            lambda one: kept.Image.of(one.row.sample_id, one.levels, one.disagreement, one.error),
            stream, 2,
        )  # fmt: skip
        for number, image in enumerate(packed):
            if number == warm:
                clock[0] = time.perf_counter()
            yield image

    with tempfile.TemporaryDirectory() as folder:
        kept.write(Path(folder, "kept"), "benchmark", images(), len(rows))
        return (len(rows) - warm) / (time.perf_counter() - clock[0]), timers


if __name__ == "__main__":
    main()
