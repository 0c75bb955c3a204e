"""Pictures of what a network got right and wrong, to look at and never to compute with.

Masks are told apart pixel by pixel (`compare`) into four classes, which are painted over the
photograph, or kept as layers beside it: a photograph is stored once, and prediction, truth and
their difference are transparent pictures of a few hundred bytes that a page can switch between.
The colors are Okabe and Ito's, which the color-blind tell apart.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from pipeline.support.arrays import Mask, Size, UInt8

Kind = Literal["worst", "random"]

NEITHER, HIT, MISSED, FALSE_POSITIVE = 0, 1, 2, 3  # the classes of `compare`
COLORS = ((0, 0, 0), (0, 158, 115), (0, 114, 178), (213, 94, 0))  # RGB, of those classes
PREDICTION, TRUTH = (86, 180, 233), (240, 228, 66)  # RGB, of layers that show one mask
# RGB, of several classes but the first.
CLASS_COLORS = ((240, 228, 66), (86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
OPACITY = 0.6  # of what is painted over a photograph

_WIDTH = 960  # pixels of a photograph
_WINDOW = (288, 384)  # of the part shown pixel by pixel
_JPEG_QUALITY, _WEBP_QUALITY = 85, 65
_OPACITIES = bytes([0, 110, 255, 255])  # hits are most of a mask: mistakes shall stand out


# --- painting


def compare(prediction: Mask, truth: Mask) -> UInt8:
    """Tell the pixels of two (H, W) masks apart: uint8 NEITHER, HIT, MISSED, FALSE_POSITIVE."""
    found = np.where(truth, np.where(prediction, HIT, MISSED), prediction * FALSE_POSITIVE)
    return found.astype(np.uint8)


def overlay(image: UInt8, prediction: Mask, truth: Mask) -> UInt8:
    """Paint hits green, missed pixels blue and false positives orange over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction, truth: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB; background agreed on by both keeps the picture's colors.
    """
    return _paint(image, compare(prediction, truth))


def panels(image: UInt8, prediction: Mask, truth: Mask) -> UInt8:
    """One RGB picture for `dvc plots`: the difference, the truth, and the worst window."""
    classes = compare(prediction, truth)
    place = worst_window(classes, _WINDOW)
    small, found = shrink(image, classes, _WIDTH)
    wanted = np.isin(found, (HIT, MISSED)).astype(np.uint8)
    window = _paint(image[place], classes[place])
    height = len(small)
    width = round(window.shape[1] * height / len(window))
    window = cv2.resize(window, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return np.concatenate([_paint(small, found), _paint(small, wanted), window], axis=1)


def side_by_side(image: UInt8, prediction: UInt8, truth: UInt8) -> UInt8:
    """Several classes (H, W), each in its own color: those predicted, then the true ones."""
    small, *masks = _smaller(image, prediction, truth)
    return np.concatenate([tint(small, one, CLASS_COLORS) for one in masks], axis=1)


def _smaller(image: UInt8, *classes: UInt8) -> list[UInt8]:
    """A picture and maps of several classes, at most `_WIDTH` pixels wide."""
    if image.shape[1] <= _WIDTH:
        return [image, *classes]
    size = (_WIDTH, max(1, round(image.shape[0] * _WIDTH / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    nearest = (cv2.resize(one, size, interpolation=cv2.INTER_NEAREST) for one in classes)
    return [small, *(one.astype(np.uint8) for one in nearest)]


def outline(image: UInt8, mask: Mask, width: int) -> UInt8:
    """Shrink a picture to `width` pixels and draw the edge of its (H, W) mask, light on dark."""
    small, classes = shrink(image, mask.astype(np.uint8), width)
    edges, _ = cv2.findContours(classes, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    drawn = small.copy()
    for color, thickness in (((0, 0, 0), 4), (TRUTH, 2)):
        cv2.drawContours(drawn, edges, -1, color, thickness)
    return drawn


def tint(image: UInt8, classes: UInt8, colors: Sequence[tuple[int, int, int]]) -> UInt8:
    """Tint and outline the classes (H, W) from 1 on in RGB colors, which repeat if they must."""
    drawn = image.copy()
    for index in range(1, int(classes.max(initial=0)) + 1):
        mask, color = (classes == index).astype(np.uint8), colors[(index - 1) % len(colors)]
        drawn[mask > 0] = (0.7 * drawn[mask > 0] + 0.3 * np.array(color)).astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, edges, -1, color, 2)
    return drawn


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
        for one in (HIT, MISSED, FALSE_POSITIVE)
    )
    found = np.where(hit >= 0.5, HIT, NEITHER)
    found[(missed >= 0.25) & (missed >= false)] = MISSED
    found[(false >= 0.25) & (false > missed)] = FALSE_POSITIVE
    return small, found.astype(np.uint8)


def worst_window(classes: UInt8, size: Size) -> tuple[slice, slice]:
    """The rows and columns of the window of `size` that holds the most wrong pixels.

    The window lies inside the picture and is smaller where that is smaller.
    """
    height, width = (min(wanted, there) for wanted, there in zip(size, classes.shape, strict=True))
    wrong = (classes >= MISSED).astype(np.float32)
    sums = cv2.boxFilter(
        wrong, -1, (width, height), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    inside = sums[: classes.shape[0] - height + 1, : classes.shape[1] - width + 1]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return slice(int(top), int(top) + height), slice(int(left), int(left) + width)


def _paint(image: UInt8, classes: UInt8) -> UInt8:
    mixed = (1 - OPACITY) * image + OPACITY * np.array(COLORS, np.float32)[classes]
    return np.where(classes[..., None] == NEITHER, image, mixed.round()).astype(np.uint8)


# --- picture files


def encode_jpeg(image: UInt8, quality: int = _JPEG_QUALITY) -> bytes:
    """An RGB picture as JPEG bytes; quality 0 to 100."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_webp(image: UInt8, quality: int = _WEBP_QUALITY) -> bytes:
    """An RGB picture as lossy WebP bytes, about two thirds of the JPEG's; quality 0 to 100."""
    return _encode(image, ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])


def _encode(image: UInt8, ending: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, f"{ending} encoding of an array of shape {image.shape} failed"
    return data.tobytes()


def encode_layer(classes: UInt8, colors: Sequence[tuple[int, int, int]], opacities: bytes) -> bytes:
    """A PNG of (H, W) classes in a few RGB colors, with the opacity (0 to 255) of each."""
    layer = Image.fromarray(classes)
    layer.putpalette([part for color in colors for part in color])
    stream = io.BytesIO()
    bits = next(bits for bits in (1, 2, 4, 8) if len(opacities) <= 1 << bits)
    layer.save(stream, "PNG", bits=bits, transparency=opacities, optimize=True)
    return stream.getvalue()


# --- layers


@dataclasses.dataclass(frozen=True)
class Layers:
    """A WebP photograph and three transparent PNGs of its size to lay over it."""

    photograph: bytes
    prediction: bytes
    truth: bytes
    difference: bytes


def draw_layers(image: UInt8, prediction: Mask, truth: Mask) -> tuple[Layers, Layers]:
    """Draw one image (H, W, 3) uint8 RGB with its (H, W) bool masks.

    Returns:
        The whole, made smaller, and the window with the most wrong pixels, at full size.
    """
    classes = compare(prediction, truth)
    place = worst_window(classes, _WINDOW)
    return _layers(*shrink(image, classes, _WIDTH)), _layers(image[place], classes[place])


def draw_class_layers(image: UInt8, prediction: UInt8, truth: UInt8) -> tuple[Layers, Layers]:
    """Draw one image (H, W, 3) uint8 RGB with its (H, W) indices of several classes.

    Each class but the first has a color of `CLASS_COLORS`. The difference shows as hit what is
    right and not of the first class, as false positive whatever is taken for another class.

    Returns:
        As `draw_layers`.
    """

    def layers(image: UInt8, prediction: UInt8, truth: UInt8) -> Layers:
        found = np.where(prediction == truth, HIT * (truth > 0), FALSE_POSITIVE).astype(np.uint8)
        shown = max(int(prediction.max(initial=0)), int(truth.max(initial=0)), 1)
        repeated = [CLASS_COLORS[index % len(CLASS_COLORS)] for index in range(shown)]
        palette = ((0, 0, 0), *repeated)
        return Layers(
            photograph=encode_webp(image),
            prediction=encode_layer(prediction, palette, bytes([0] + shown * [255])),
            truth=encode_layer(truth, palette, bytes([0] + shown * [255])),
            difference=encode_layer(found, COLORS, _OPACITIES),
        )

    wrong = np.where(prediction == truth, NEITHER, FALSE_POSITIVE).astype(np.uint8)
    place = worst_window(wrong, _WINDOW)
    small, *masks = _smaller(image, prediction, truth)
    return layers(small, *masks), layers(image[place], prediction[place], truth[place])


def _layers(image: UInt8, classes: UInt8) -> Layers:
    predicted = np.isin(classes, (HIT, FALSE_POSITIVE)).astype(np.uint8)
    true = np.isin(classes, (HIT, MISSED)).astype(np.uint8)
    return Layers(
        photograph=encode_webp(image),
        prediction=encode_layer(predicted, ((0, 0, 0), PREDICTION), bytes([0, 255])),
        truth=encode_layer(true, ((0, 0, 0), TRUTH), bytes([0, 255])),
        difference=encode_layer(classes, COLORS, _OPACITIES),
    )


# --- which images


def choose(scores: Sequence[float], worst: int, random: int, seed: int) -> list[tuple[int, Kind]]:
    """Which images to draw: the indices of the lowest scores, worst first, then random others.

    The random ones are drawn without looking at the scores, so they show what is usual.
    """
    order = np.argsort(scores, kind="stable")
    others = np.random.default_rng(seed).permutation(np.sort(order[worst:]))
    lowest: list[tuple[int, Kind]] = [(int(index), "worst") for index in order[:worst]]
    return lowest + [(int(index), "random") for index in np.sort(others[:random])]
