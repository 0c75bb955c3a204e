"""Textures: painted with decals once a car, read at every pixel."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sample.car import Decal
from sample.paint import Colour
from sample.shape import Outline

TEXELS = 400  # a metre of texture
_PAINT_GLOSS = 120  # 0 (rubber) to 255 (glass)
_FRACTION_BITS = 4  # OpenCV draws at sixteenths of a texel
_REMAP_ROWS = 32000  # OpenCV's remap takes less than 32768


def placed(decal: Decal, outline: Outline, corner: float) -> Decal:
    """The decal with its first coordinate as u, metres along the outline.

    A `corner` above 0 is how far from either end the side begins, and a side's first
    coordinate a share of it; with 0 a side's first coordinate is x.
    """
    first, second = np.asarray(decal.points, np.float64).T
    if decal.frame == "rear":
        first = outline.size - first
    elif decal.frame == "side" and corner:
        first = corner + first * (outline.size - 2 * corner)
    elif decal.frame == "side":
        first = outline.distance(first)
    return decal._replace(points=np.stack([first, second], axis=1))


def painted(size: tuple[float, float], paint: Colour, decals: Sequence[Decal]) -> NDArray[np.uint8]:
    """A texture (v, u, 4) of RGB and gloss, 0-255.

    Args:
        size: u and v it reaches to, metres.
        paint: its colour where no decal is.
        decals: in the order they are painted; their points are u and v.
    """
    rows, columns = int(size[1] * TEXELS) + 1, int(size[0] * TEXELS) + 2
    texture = np.empty((rows, columns, 4), np.uint8)
    texture[:] = (*paint, _PAINT_GLOSS)
    for decal in decals:
        texels = np.asarray(decal.points) * TEXELS
        points = [np.round(texels * 2**_FRACTION_BITS).astype(np.int32)]
        ink = (*decal.colour, decal.gloss)
        if decal.width:
            cv2.polylines(texture, points, False, ink, decal.width, cv2.LINE_AA, _FRACTION_BITS)
        else:
            cv2.fillPoly(texture, points, ink, cv2.LINE_AA, _FRACTION_BITS)
    return texture


def plain(colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """A texture (1, N, 4) of a texel a colour, read at the u that `texel_middle` gives."""
    return np.array([[(*colour, _PAINT_GLOSS) for colour in colours]], np.uint8)


def texel_middle(number: int) -> float:
    """The u (metres) of the middle of a texel."""
    return (number + 0.5) / TEXELS


def sampled(
    texture: NDArray[np.uint8], u: NDArray[np.float32], v: NDArray[np.float32]
) -> NDArray[np.float32]:
    """RGB and gloss (4, N), 0-1, of the texture at u and v (N,), metres."""
    pieces = []
    for start in range(0, len(u), _REMAP_ROWS):
        here = slice(start, start + _REMAP_ROWS)
        columns, rows = ((side[here, None] * TEXELS - 0.5).astype(np.float32) for side in (u, v))
        pieces.append(
            cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
    texels = np.concatenate(pieces)[:, 0]
    return np.divide(texels.T, 255, dtype=np.float32)
