"""What trained networks say of images: out of fold, for the test set and of any photograph.

A predictor decodes, computes and hands out levels (`pipeline.levels.scale`) as one stream, each
part a few batches ahead of the next. Levels leave the device as bytes at network size; whatever
comes after them is the same code on every machine.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Mapping, Sequence
from typing import Literal, NamedTuple, Self

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.archives import Archives
from pipeline.data.decoding import Batch, decode_batches
from pipeline.data.images import resize_image
from pipeline.data.samples import Sample
from pipeline.levels.kept import Image
from pipeline.levels.scale import HALF, LEVELS
from pipeline.networks import inference
from pipeline.networks.model import Segmenter
from pipeline.recipe.schema import Resize
from pipeline.support import hardware
from pipeline.support.arrays import Size, UInt8
from pipeline.support.errors import UserError
from pipeline.support.progress import Timers

Tta = Literal["none", "hflip"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the networks say of one image.

    `levels` is uint8 (h, w) at network size, of the mean over networks and flips; of several
    classes (C, h, w). `disagreement` is the share of its pixels (0..1) on which the networks,
    deciding one by one at 0.5 after their flips, do not all agree. `error` says why the image
    could not be read, else it is empty; the levels of an unreadable image mean nothing.
    """

    row: Sample
    levels: UInt8
    disagreement: float
    error: str

    def packed(self) -> Image:
        """As it is kept in files."""
        return Image.of(self.row.sample_id, self.levels, self.disagreement, self.error)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Networks of one input size, and how they are run.

    `networks` go by what to call them in an error. They take (B, H, W, 3) uint8 RGB, return
    logits (B, H, W) of one class or (B, C, H, W), are in evaluation mode and on the device
    of `fabric`. `size` is their input's, to which images are resized as `resize` says. With
    `pad` every batch has `batch_size` images, black ones at the end: what is compiled and what
    cuDNN has tuned is for one shape, and an image's levels do not depend on its batch's size.
    """

    networks: Mapping[str, nn.Module]
    size: Size
    resize: Resize
    tta: Tta
    fabric: Fabric
    batch_size: int  # images at once
    workers: int  # threads that decode; 0: the one that asks
    pad: bool = False

    @classmethod
    def of(
        cls,
        models: Mapping[str, Segmenter],
        tta: Tta,
        fabric: Fabric,
        batch_size: int,
        workers: int,
        compiled: bool,
    ) -> Self:
        """Of trained networks, one or several, that take the same input.

        Args:
            compiled: see `pipeline.networks.inference.prepare`.
        """
        one = next(iter(models.values())).description
        networks = inference.prepare(models, fabric, batch_size, compiled)
        pad = fabric.device.type == "cuda"
        return cls(networks, one.size, one.resize, tta, fabric, batch_size, workers, pad)

    def predict(
        self, rows: Sequence[Sample], archives: Archives, timers: Timers | None = None
    ) -> Generator[Prediction, None, None]:
        """Predict `rows` in order; nothing grows with their number.

        Every image is read and decoded once, however many networks there are. On a GPU, a batch is
        handed to it before the one before it is waited for. `timers` learns how long `images`
        and whoever takes the predictions (`writer`) were waited for, and what decoding took.

        Raises:
            UserError: a network's output is NaN or infinite.
        """
        timers = Timers() if timers is None else timers
        pinned = self.fabric.device.type == "cuda"
        if pinned:
            torch.cuda.set_device(self.fabric.device)  # each thread has a current one of its own
        batches = decode_batches(
            rows, archives, self.size, self.resize, self.batch_size, self.workers, pinned
        )
        launched: _Launched | None = None
        with contextlib.closing(batches):
            for batch in timers.each("images", batches):
                timers.add("decoding", batch.seconds)
                following = self._launch(batch)
                done = self._finish(launched) if launched else []
                launched = following
                with timers.during("writer"):
                    yield from done
        if launched:
            yield from self._finish(launched)

    def of_image(self, image: UInt8, name: str) -> UInt8:
        """The levels (see `Prediction`) of one image, uint8 (H, W, 3) RGB of any size.

        Raises:
            UserError: a network's output for it is NaN or infinite; `name` says which image.
        """
        small = torch.from_numpy(resize_image(image, self.size, self.resize))
        said = self._forward(small[None])
        self._refuse_nonfinite(said.finite.cpu(), [name])
        levels: UInt8 = said.levels[0].cpu().numpy()
        return levels

    def _launch(self, batch: Batch) -> "_Launched":
        said = self._forward(batch.images)
        if self.fabric.device.type != "cuda":
            return _Launched(batch, said, None)
        # Into pinned memory; `_finish` waits for the copies.
        host = _Said(*(tensor.to("cpu", non_blocking=True) for tensor in said))
        finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
        finished.record(torch.cuda.current_stream(self.fabric.device))
        return _Launched(batch, host, finished)

    def _finish(self, launched: "_Launched") -> list[Prediction]:
        if launched.finished is not None:
            launched.finished.synchronize()
        batch, said = launched.batch, launched.said
        self._refuse_nonfinite(said.finite, [row.image for row in batch.rows])
        each = zip(
            batch.rows, said.levels.numpy(), said.disagreement.tolist(), batch.errors, strict=True
        )
        return [
            Prediction(row, levels, 0.0 if error else disagreement, error)
            for row, levels, disagreement, error in each
        ]

    @torch.inference_mode()
    def _forward(self, images: Tensor) -> "_Said":
        """Run all networks over (B, h, w, 3) uint8; on a GPU this returns before they are done."""
        count, images = len(images), self._upload(images)
        if self.pad:
            images = functional.pad(images, (0,) * 7 + (self.batch_size - count,))
        probabilities, finite = [], []
        for network in self.networks.values():
            _, probability, right = forward(network, images, self.tta, self.fabric)
            probabilities.append(probability)
            finite.append(right)
        first = _decide(probabilities[0])
        differs = torch.zeros_like(first, dtype=torch.bool)
        total = torch.zeros_like(probabilities[0])
        for probability in probabilities:
            total += probability
            differs |= first != _decide(probability)
        levels = levels_of(total / len(probabilities))
        disagreement = differs.float().mean(dim=(1, 2))
        return _Said(levels[:count], disagreement[:count], torch.stack(finite)[:, :count])

    @functools.cached_property
    def _upload(self) -> hardware.Upload:
        return hardware.Upload(self.fabric.device)

    def _refuse_nonfinite(self, finite: Tensor, images: Sequence[str]) -> None:
        if finite.all():
            return
        network, image = (~finite).nonzero()[0].tolist()
        raise UserError(
            f"{list(self.networks)[network]}: its output for {images[image]} is NaN or infinite, "
            f"expected numbers; train it again, or set runtime.precision to 32-true"
        )


class _Said(NamedTuple):
    """What the networks say of a batch, on the device or on the host.

    `levels` is uint8 (B, h, w) or (B, C, h, w), `disagreement` float32 (B,), `finite` bool
    (networks, B): whether all of a network's outputs for an image are numbers.
    """

    levels: Tensor
    disagreement: Tensor
    finite: Tensor


@dataclasses.dataclass(frozen=True)
class _Launched:
    """A batch whose results a GPU may still be computing, until `finished`."""

    batch: Batch
    said: _Said
    finished: torch.cuda.Event | None


class Output(NamedTuple):
    """What one network says of a batch of images, float32 on its device."""

    logits: Tensor  # (B, h, w) of one class, else (B, C, h, w); of the images unflipped
    probability: Tensor  # of the same shape, the mean over flips
    finite: Tensor  # (B,) whether all of an image's logits are numbers, flipped ones too


def forward(network: nn.Module, images: Tensor, tta: Tta, fabric: Fabric) -> Output:
    """Run a network over (B, h, w, 3) uint8, and over their mirror images as `tta` says."""

    def logits_of(images: Tensor) -> Tensor:
        with fabric.autocast():
            logits: Tensor = network(images)
        return logits.float()

    logits = logits_of(images)
    probability, finite = probability_of(logits), _is_finite(logits)
    if tta == "hflip":
        flipped = logits_of(images.flip(2))
        probability = (probability + probability_of(flipped).flip(-1)) / 2
        finite &= _is_finite(flipped)
    return Output(logits, probability, finite)


def probability_of(logits: Tensor) -> Tensor:
    """Logits (B, H, W) or (B, C, H, W) as probabilities: of the foreground, or of all classes."""
    return torch.sigmoid(logits) if logits.ndim == 3 else torch.softmax(logits, dim=1)


def levels_of(probability: Tensor) -> Tensor:
    """The level (see `pipeline.levels.scale`) of each probability, uint8 on the same device."""
    return (probability * LEVELS).clamp_(max=LEVELS - 1).to(torch.uint8)


def _is_finite(logits: Tensor) -> Tensor:
    """(B,) whether all of an image's logits are numbers: one that is none makes their sum none."""
    return torch.isfinite(logits.flatten(1).sum(dim=1))


def _decide(probability: Tensor) -> Tensor:
    """What each pixel (B, h, w) is decided to be at 0.5: foreground or not, or a class index."""
    return probability >= HALF / LEVELS if probability.ndim == 3 else probability.argmax(dim=1)
