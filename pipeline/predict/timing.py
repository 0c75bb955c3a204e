"""The figures of a prediction: what it measured of itself, as values and as a few words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from pipeline.support import hardware
from pipeline.support.progress import Timers


def measure(waits: Timers, images: int, workers: int, fabric: Fabric) -> dict[str, Any]:
    """Speed, share of the time that each part waited, and memory, of this run.

    Timers and memory are this process's; `images` are those that all processes predicted. The
    device's waits are those of the thread that drives it.
    """
    seconds = waits.elapsed()
    values = {
        "predicted_now": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "decoders_waited": max(0.0, 1 - waits.fraction("decoding") / max(1, workers)),
        "device_waited_for_images": waits.fraction("images"),
        "device_waited_for_writer": waits.fraction("writer"),
        "writer_waited": waits.fraction("masks"),
        "peak_memory_mb": hardware.peak_memory(),
        "peak_gpu_memory_mb": 1000 * hardware.peak_gpu_memory(fabric),
    }
    return {name: round(value, 4) for name, value in values.items()}


def tell(submission: Path, values: Mapping[str, Any], errors: Sequence[str]) -> None:
    """Print what a user wants to see at the end."""
    print(
        f"{submission}: {values['images']} rows, {values['empty_rows']} of them empty, "
        f"at threshold {values['threshold']:.4f}"
    )
    if values["predicted_now"]:
        print(
            f"{values['images_per_second']:.1f} img/s; waited: decoders "
            f"{values['decoders_waited']:.0%}, device {values['device_waited_for_images']:.0%} for "
            f"images and {values['device_waited_for_writer']:.0%} for the writer, writer "
            f"{values['writer_waited']:.0%}; peak memory {values['peak_memory_mb']:.0f} MB, of "
            f"the GPU {values['peak_gpu_memory_mb']:.0f} MB"
        )
    if errors:
        print(f"{len(errors)} bad images, predict.on_bad_image is empty:")
    for error in errors:
        print(f"left empty: {error}")
