"""Random changes of a training image and its mask."""

import os

import cv2

from pipeline.support.arrays import UInt8

Factor = float | tuple[float, float]


class Augmentation:
    """Left-right flip, small affine change, color change; the same for the same seed."""

    def __init__(
        self,
        *,
        hflip: float,
        affine: float,
        shift: float,
        scale: float,
        rotate: float,
        color: float,
        lighten: float,
        brightness: Factor,
        contrast: Factor,
        saturation: Factor,
        hue: float,
    ) -> None:
        """Set the ranges, symmetric about "no change" where they are single numbers.

        Args:
            hflip: probability of a left-right flip.
            affine: probability that shift (share of the side), scale (about 1) and rotation
                (degrees) are drawn, each uniformly.
            color: probability that lighten (added; share of white), and that brightness,
                contrast, saturation (factors about 1, or from one number to another) and hue
                (share of the color circle) are drawn, each uniformly. What leaves 0..255 is
                clipped.
        """
        # Importing albumentations asks the network for a newer release unless told not to.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A

        # Left out where it does nothing, for each transform takes numbers from the generator.
        lightening = [A.RandomBrightnessContrast(lighten, 0, p=color)] if lighten else []
        self._compose = A.Compose(
            [
                A.HorizontalFlip(p=hflip),
                A.Affine(
                    translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                    scale=(1 - scale, 1 + scale),
                    rotate=(-rotate, rotate),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_LINEAR,  # the target is soft
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=affine,
                ),
                *lightening,
                A.ColorJitter(
                    brightness=_factors(brightness),
                    contrast=_factors(contrast),
                    saturation=_factors(saturation),
                    hue=(-hue, hue),
                    p=color,
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


def _factors(given: Factor) -> tuple[float, float]:
    return given if isinstance(given, tuple) else (1 - given, 1 + given)
