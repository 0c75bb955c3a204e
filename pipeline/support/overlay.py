"""Pictures of what a model got right and wrong."""

import cv2
import numpy as np

from pipeline.support.arrays import Mask, Size, UInt8

HIT = (0, 158, 115)  # RGB, from Okabe and Ito's palette, told apart by the color-blind
MISSED = (0, 114, 178)
FALSE_POSITIVE = (213, 94, 0)
OPACITY = 0.6

_JPEG_QUALITY = 85

# Classes of `compare`.
AGREED_BACKGROUND, IS_HIT, IS_MISSED, IS_FALSE = 0, 1, 2, 3
_COLOURS = np.array([(0, 0, 0), HIT, MISSED, FALSE_POSITIVE], np.float32)


def compare(prediction: Mask, truth: Mask) -> UInt8:
    """Tell the pixels of two (H, W) masks apart: uint8 0 neither, 1 hit, 2 missed, 3 false."""
    return np.where(truth, np.where(prediction, 1, 2), np.where(prediction, 3, 0)).astype(np.uint8)


def overlay(image: UInt8, prediction: Mask, truth: Mask) -> UInt8:
    """Paint hits green, missed pixels blue and false positives orange over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction, truth: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB; background agreed on by both keeps the picture's colors.
    """
    return paint(image, compare(prediction, truth))


def paint(image: UInt8, classes: UInt8) -> UInt8:
    """Paint (H, W) classes, as `compare` makes them, over an (H, W, 3) uint8 RGB picture."""
    mixed = (1 - OPACITY) * image + OPACITY * _COLOURS[classes]
    return np.where(classes[..., None] == 0, image, mixed.round()).astype(np.uint8)


def shrink(image: UInt8, classes: UInt8, width: int) -> tuple[UInt8, UInt8]:
    """Shrink a picture and its classes to `width` pixels; narrower ones stay as they are.

    A pixel of the small picture shows a mistake when a quarter or more of its area is wrong,
    so that thin lines do not disappear; else it shows what most of it is.
    """
    if image.shape[1] <= width:
        return image, classes
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    hit, missed, false = (
        cv2.resize((classes == one).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for one in (IS_HIT, IS_MISSED, IS_FALSE)
    )
    found = np.where(hit >= 0.5, IS_HIT, AGREED_BACKGROUND)
    found[(missed >= 0.25) & (missed >= false)] = IS_MISSED
    found[(false >= 0.25) & (false > missed)] = IS_FALSE
    return small, found.astype(np.uint8)


def worst_window(classes: UInt8, size: Size) -> tuple[slice, slice]:
    """The rows and columns of the window of `size` that holds the most wrong pixels.

    The window lies inside the picture and is smaller where that is smaller.
    """
    height, width = (min(wanted, there) for wanted, there in zip(size, classes.shape, strict=True))
    wrong = (classes >= IS_MISSED).astype(np.float32)
    sums = cv2.boxFilter(
        wrong, -1, (width, height), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    inside = sums[: classes.shape[0] - height + 1, : classes.shape[1] - width + 1]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return slice(int(top), int(top) + height), slice(int(left), int(left) + width)


def encode_jpeg(image: UInt8) -> bytes:
    """An RGB picture as JPEG bytes."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def encode_webp(image: UInt8, quality: int) -> bytes:
    """An RGB picture as lossy WebP bytes, about two thirds of the JPEG's; quality 0 to 100."""
    return _encode(image, ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])


def _encode(image: UInt8, ending: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, f"{ending} encoding of an array of shape {image.shape} failed"
    return data.tobytes()


def outline(image: UInt8, mask: Mask, width: int) -> UInt8:
    """Shrink a picture to `width` pixels and draw the edge of its (H, W) mask, light on dark."""
    small, classes = shrink(image, mask.astype(np.uint8), width)
    edges, _ = cv2.findContours(classes, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    drawn = small.copy()
    for color, thickness in (((0, 0, 0), 4), ((240, 228, 66), 2)):
        cv2.drawContours(drawn, edges, -1, color, thickness)
    return drawn
