"""Images a second of prediction end to end, against the bare forward pass of the same network.

    python benchmarks/predict_gpu.py --raw data/carvana/raw             on a GPU
    python benchmarks/predict_gpu.py --raw data/carvana/raw --rehearse  small, on a CPU

End to end is the stage's own stream: images decoded from the zip, networks, masks at full
resolution packed on the device, rows encoded, compressed and written in chunks. Bare forward
runs the same networks on images that lie on the device already. Both are timed after warming
up, one model without flips first, then five with them. The networks' weights are random: shifted
so that about a fifth of the pixels are foreground, they cost what trained ones do.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric

from pipeline.data.archives import Archives
from pipeline.data.decoding import decoded
from pipeline.data.samples import Sample
from pipeline.networks import model
from pipeline.networks.predictor import forward
from pipeline.predict.chunks import Chunks
from pipeline.predict.mask_stream import masks
from pipeline.predict.stage import AHEAD, CHUNK, predict
from pipeline.recipe.schema import Predict
from pipeline.support import hardware
from pipeline.support.concurrency import ahead
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
        bare = bare_forward(some, args, networks, size, tta, fabric)
        whole, waits = end_to_end(some, args, networks, size, tta, fabric)
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


def bare_forward(rows, args, networks, size, tta, fabric) -> float:
    """Images a second of the networks alone: one batch that stays on the device."""
    some = rows[: args.batch]
    (batch,) = decoded(some, Archives(args.raw), size, "linear", args.batch, 1, False)
    images = batch.images.to(fabric.device)
    times = max(3, len(rows) // args.batch // 2)

    @torch.inference_mode()
    def run(repeats: int) -> None:
        with fabric.autocast():
            for _ in range(repeats):
                for network in networks:
                    network(images)
                    if tta == "hflip":
                        network(images.flip(2)).flip(2)
        synchronise(fabric)

    run(3)  # cuDNN chooses its kernels
    forward(images, networks, tta, fabric, 0.5)
    begin = time.perf_counter()
    run(times)
    return times * args.batch / (time.perf_counter() - begin)


def end_to_end(rows, args, networks, size, tta, fabric) -> tuple[float, Timers]:
    """Images a second from the zip to compressed chunks."""
    archives = Archives(args.raw)

    def run(some: list[Sample], folder: Path) -> Timers:
        waits = Timers()
        stream = masks(
            some, archives, networks, size, "linear", tta, 0.5, fabric, args.batch, args.workers,
            waits,
        )  # fmt: skip
        chunks = Chunks(folder, some, CHUNK // args.batch * args.batch)
        numbers = chunks.missing()
        settings = Predict(on_bad_image="fail", keep="all", compression=2)
        predict(ahead(stream, AHEAD), chunks, numbers, {}, settings, lambda images: None)
        return waits

    with tempfile.TemporaryDirectory() as folder:
        run(rows[: 2 * args.batch], Path(folder, "warm"))
        waits = run(rows, Path(folder, "timed"))
        return len(rows) / waits.elapsed(), waits


if __name__ == "__main__":
    main()
