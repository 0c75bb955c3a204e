"""Random changes of a training image and its mask, for training and for a look beforehand."""

import os

import cv2

from pipeline.recipe.schema import Augment
from pipeline.support.arrays import UInt8


class Augmentation:
    """Flips, a small affine change, a color change; the same for the same seed."""

    def __init__(self, ranges: Augment) -> None:
        """Take the ranges, symmetric about "no change" where they are single numbers.

        `hflip` and `vflip` are the probabilities of a left-right and of an upside-down flip.
        `affine` is the probability that shift (share of the side), scale (about 1) and rotation
        (degrees) are drawn, each uniformly. `color` is the probability that lighten (added; share
        of white), and that brightness, contrast, saturation (factors about 1, or from one number
        to another) and hue (share of the color circle) are drawn, each uniformly. What leaves
        0..255 is clipped.
        """
        # Importing albumentations asks the network for a newer release unless told not to.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A

        # Left out where it does nothing, for each transform takes numbers from the generator.
        up_down = [A.VerticalFlip(p=ranges.vflip)] if ranges.vflip else []
        lighten = ranges.lighten
        lightening = [A.RandomBrightnessContrast(lighten, 0, p=ranges.color)] if lighten else []
        shift, scale, rotate = ranges.shift, ranges.scale, ranges.rotate
        self._compose = A.Compose(
            [
                A.HorizontalFlip(p=ranges.hflip),
                *up_down,
                A.Affine(
                    translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                    scale=(1 - scale, 1 + scale),
                    rotate=(-rotate, rotate),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_LINEAR,  # the target is soft
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=ranges.affine,
                ),
                *lightening,
                A.ColorJitter(
                    brightness=_factors(ranges.brightness),
                    contrast=_factors(ranges.contrast),
                    saturation=_factors(ranges.saturation),
                    hue=(-ranges.hue, ranges.hue),
                    p=ranges.color,
                ),
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
        return changed["image"], changed["mask"]


def _factors(given: float | tuple[float, float]) -> tuple[float, float]:
    return given if isinstance(given, tuple) else (1 - given, 1 + given)
