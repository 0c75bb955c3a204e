"""Trained networks made ready to predict with on a GPU: folded, then compiled.

In evaluation mode a BatchNorm is a factor and a shift a channel, which the convolution before it
can do by itself. What is left is compiled for batches of one shape. Both change logits by rounding
alone, and pay on GPUs: there, moving numbers between the layers takes longer than convolving.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.fx.experimental.optimization import fuse

from pipeline.networks.model import Segmenter
from pipeline.support import hardware


def prepare(
    models: Mapping[str, Segmenter], fabric: Fabric, batch_size: int, compiled: bool
) -> dict[str, nn.Module]:
    """The networks on the device of `fabric`, in evaluation mode; on a GPU folded.

    Args:
        batch_size: of every batch to come, for which they are compiled, if `compiled`.

    What a network cannot have done to it is said in a line, and it runs without, slower.
    """
    ready: dict[str, nn.Module] = {}
    compiled = hardware.compiles(compiled, fabric)
    for name, model in models.items():
        network = model.to(fabric.device).eval()
        if fabric.device.type == "cuda":
            network = _folded_or_not(network, name, fabric)
        ready[name] = compile_for(network, name, fabric, batch_size) if compiled else network
    return ready


def fold(model: Segmenter) -> Segmenter:
    """A copy in which convolutions do what the BatchNorm layers right after them did.

    The library that does it follows the network's operations once, which raises almost anything
    where one of them depends on a number that is only known later.
    """
    network = copy.deepcopy(model.network).eval()
    for layer in network.modules():
        if isinstance(layer, SegmentationModel):
            layer.requires_divisible_input_shape = False  # checked when it was built
    folded = fuse(network, inplace=True).to(memory_format=torch.channels_last)
    return Segmenter(folded, model.description).to(model.mean.device).eval()


def compile_for(network: Segmenter, name: str, fabric: Fabric, batch_size: int) -> nn.Module:
    """The network compiled now for batches of one size, or as it is where that fails."""
    shape = (batch_size, *network.description.size, 3)
    made: Any = torch.compile(network, dynamic=False)

    @torch.inference_mode()
    def step() -> None:
        # Made here: for tensors of another mode it would be compiled again.
        images = torch.zeros(shape, dtype=torch.uint8, device=fabric.device)
        with fabric.autocast():
            made(images)

    done = hardware.compile_now(step, fabric, f"{name}: the network", "it predicts without")
    return made if done else network


def _folded_or_not(network: Segmenter, name: str, fabric: Fabric) -> Segmenter:
    try:
        return fold(network)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        fabric.print(
            f"WARNING: {name}: BatchNorm cannot be folded into this network's convolutions "
            f"({words}); it predicts without, which is slower",
            flush=True,
        )
        return network
