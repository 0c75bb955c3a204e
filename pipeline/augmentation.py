"""Random changes of a training image and its mask, for training and for a look beforehand."""

import os

import cv2
import numpy as np

from pipeline.recipe.schema import Augment
from pipeline.support.arrays import Float32, UInt8


class Augmentation:
    """Flips, a small affine change, a color change; the same for the same seed."""

    def __init__(self, ranges: Augment) -> None:
        """Take the ranges, symmetric about "no change" where they are single numbers.

        `hflip` and `vflip` are the probabilities of a left-right and of an upside-down flip.
        `affine` is the probability that shift (share of the side), scale (about 1; with
        `keep_aspect` one for both sides, else one for each) and rotation (degrees) are drawn, each
        uniformly. `color` is the probability that lighten (added; share of white), and that
        brightness, contrast, saturation (factors about 1, or from one number to another) and hue
        (share of the color circle) are drawn, each uniformly. What leaves 0..255 is clipped. With
        `color_like: tensorflow` the colors change as `like_tensorflow` says.
        """
        # Importing albumentations asks the network for a newer release unless told not to.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A

        # Left out where it does nothing, for each transform takes numbers from the generator.
        up_down = [A.VerticalFlip(p=ranges.vflip)] if ranges.vflip else []
        self._ranges = ranges
        lighten = ranges.lighten
        lightening = [A.RandomBrightnessContrast(lighten, 0, p=ranges.color)] if lighten else []
        jitter = A.ColorJitter(
            brightness=_factors(ranges.brightness),
            contrast=_factors(ranges.contrast),
            saturation=_factors(ranges.saturation),
            hue=(-ranges.hue, ranges.hue),
            p=ranges.color,
        )
        colors = [*lightening, jitter] if ranges.color_like == "torchvision" else []
        border = cv2.BORDER_REFLECT_101 if ranges.border == "mirror" else cv2.BORDER_CONSTANT
        shift, scale, rotate = ranges.shift, ranges.scale, ranges.rotate
        self._compose = A.Compose(
            [
                A.HorizontalFlip(p=ranges.hflip),
                *up_down,
                A.Affine(
                    translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                    scale=(1 - scale, 1 + scale),
                    keep_ratio=ranges.keep_aspect,
                    rotate=(-rotate, rotate),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_LINEAR,  # the target is soft
                    border_mode=border,
                    p=ranges.affine,
                ),
                *colors,
            ]
        )

    def __call__(self, image: UInt8, target: UInt8, seed: int) -> tuple[UInt8, UInt8]:
        """Change an (H, W, 3) uint8 RGB image and its uint8 soft target (0..255).

        The target is (H, W), or (H, W, C) with a channel a class.

        The change depends on the seed alone, not on the process or on earlier calls, so
        results are the same for any number of workers and after any interruption.
        """
        self._compose.set_random_seed(seed)
        changed = self._compose(image=image, mask=target)
        ranges, moved, target = self._ranges, changed["image"], changed["mask"]
        if ranges.border == "black" and target.ndim == 3:  # what is uncovered is background
            target[..., 0] = 255 - np.minimum(target[..., 1:].sum(axis=2, dtype=np.int64), 255)
        if ranges.color_like == "tensorflow":
            random = np.random.default_rng(seed)
            if random.random() < ranges.color:
                moved = like_tensorflow(
                    moved,
                    random.uniform(-ranges.lighten, ranges.lighten),
                    random.uniform(*_factors(ranges.contrast)),
                    random.uniform(*_factors(ranges.saturation)),
                )
        return moved, target


def like_tensorflow(image: UInt8, added: float, contrast: float, saturation: float) -> UInt8:
    """Change the colors of an (H, W, 3) uint8 RGB image one after another, as `tf.image` does.

    `added` (share of white) to all channels; `contrast` times the distance from each channel's
    mean; `saturation` times that of HSV, which ends at 1. Values may leave 0..1 between the
    steps, and are clipped and rounded to bytes only after the last one.
    Source: TensorFlow's `adjust_brightness`, `adjust_contrast` and `adjust_saturation`.
    """
    pixels: Float32 = image.astype(np.float32) / np.float32(255) + np.float32(added)
    mean = pixels.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    pixels = (pixels - mean) * np.float32(contrast) + mean
    # A pixel's hue and value stay, so all channels keep their order and move towards the highest
    # by one factor. A value of 0 or less has no saturation in HSV: it becomes grey.
    value = pixels.max(axis=2, keepdims=True)
    chroma = value - pixels.min(axis=2, keepdims=True)
    wanted = np.minimum(chroma * np.float32(saturation), value).clip(0)
    factor = np.divide(wanted, chroma, out=np.zeros_like(chroma), where=chroma > 0)
    pixels = value - (value - pixels) * factor
    rounded: UInt8 = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    return rounded


def _factors(given: float | tuple[float, float]) -> tuple[float, float]:
    return given if isinstance(given, tuple) else (1 - given, 1 + given)
