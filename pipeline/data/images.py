"""Picture files to arrays, and arrays to network size.

Sizes are (height, width) in pixels. Every decoded size is checked against what the caller
expects, because a picture of another size decodes without complaint.
"""

import contextlib
import io
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.data.archives import Archives
from pipeline.data.samples import COLOR, Sample, shown
from pipeline.recipe.schema import Resize
from pipeline.support.arrays import Size, UInt8
from pipeline.support.errors import UserError

JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_SCAN = b"\xff\xda"  # the start of one; a progressive picture has several


# What Pillow raises for bytes that are no picture it can read.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error)  # of these, it knows the format


_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")  # Pillow's modes of whole numbers
_VALUES_SHOWN = 6  # of a mask, in an error

_INTERPOLATION: dict[Resize, int] = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST_EXACT,  # Pillow's; the other one is half a pixel off
}


class BadImageError(UserError):
    """A picture that does not decode, or has an unexpected size."""


def read_image(archives: Archives, row: Sample) -> UInt8:
    """A row's picture, see `decode_image`."""
    return decode_image(archives.read(row.image), row.size, row.image)


def read_mask(archives: Archives, row: Sample) -> UInt8:
    """A training row's mask, see `decode_mask`."""
    return decode_mask(archives.read(row.mask), row.size, row.mask, row.values)


def read_size(data: bytes, name: str) -> Size:
    """Height and width of a picture that is there to its end.

    A JPEG is not decoded for that, nor a PNG, whose checksums are read; others are.

    Raises:
        BadImageError: no picture format is recognised, it is cut short, or too large to decode.
    """
    _check_end(data, name)
    with opened(data, name) as image:
        size = image.height, image.width
        if image.format == "PNG":
            image.verify()
        elif image.format != "JPEG":
            image.load()
        return size


@contextlib.contextmanager
def opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """A picture that Pillow has opened; what it finds wrong with it becomes a `BadImageError`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError:  # its words name the object the bytes are in
        raise _undecodable(name, len(data), "no picture format begins so") from None
    except Image.DecompressionBombError as error:
        found, allowed = (int(word) for word in re.findall(r"\d+", str(error))[:2])
        raise BadImageError(
            f"{name}: found {found:,} pixels, expected {allowed:,} at most, which is what Pillow "
            f"opens; cut the picture into smaller ones"
        ) from None
    except _UNREADABLE as error:
        raise _undecodable(name, len(data), str(error)) from None


def _check_end(data: bytes, name: str) -> None:
    """Refuse a JPEG that is cut short: libjpeg paints what is missing grey and is content.

    Its end comes after its last scan's start; a thumbnail in its header has an end too.
    """
    if data.startswith(JPEG_START) and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN):
        with contextlib.suppress(ValueError):
            _rgb(data, strict=True)
            return  # what follows the picture, a phone's film say, holds these bytes
        raise _undecodable(name, len(data), "the JPEG is cut short")


def decode_image(data: bytes, size: Size, name: str) -> UInt8:
    """Decode a color picture.

    Args:
        data: the file's bytes (JPEG, PNG, TIFF, ...).
        size: the height and width it must have.
        name: what to call it in an error.

    Returns:
        uint8 array (H, W, 3), RGB, 0..255. An EXIF rotation is not applied, as masks have none.
        Of a JPEG that is damaged inside, what can be had; a line printed says so.

    Raises:
        BadImageError: it does not decode, is cut short, or has another size.
    """
    if data.startswith(JPEG_START):
        return _decode_jpeg(data, size, name)
    return _decode_other(data, size, name)


def _decode_jpeg(data: bytes, size: Size, name: str) -> UInt8:
    """Decode with libjpeg-turbo itself, in a quarter less time than through OpenCV.

    Half of that is color upsampled without smoothing: on Carvana's photographs it moves a
    value by 0.08 of 255 on average.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (KeyError, ValueError):  # of an unusual sampling of color, or damaged
        colors = "unknown"
    else:
        _check_size((height, width), size, name)  # first: a false header may claim gigabytes
    if colors in ("CMYK", "YCCK", "unknown"):  # for OpenCV alone
        _check_end(data, name)
        return _decode_other(data, size, name)
    try:
        return _rgb(data, strict=True)
    except ValueError as damage:
        _check_end(data, name)
        # Public data sets hold such files; other readers take them without a word.
        print(f"{name}: taken as far as it decodes: {damage}", file=sys.stderr)
    with contextlib.suppress(ValueError):
        return _rgb(data, strict=False)
    return _decode_other(data, size, name)


def _rgb(data: bytes, strict: bool) -> UInt8:
    image: UInt8 = simplejpeg.decode_jpeg(data, "RGB", fastupsample=True, strict=strict)
    return image


def _decode_other(data: bytes, size: Size, name: str) -> UInt8:
    if data.startswith(_TIFF_STARTS) and (seen := _without_alpha(data)) is not None:
        _check_size((seen.shape[0], seen.shape[1]), size, name)
        return seen
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # of a header that claims an absurd size, say
        raise _undecodable(name, len(data), str(error).partition("\n")[0]) from None
    if image is None:
        raise _undecodable(name, len(data), "OpenCV does not decode it")
    _check_size((image.shape[0], image.shape[1]), size, name)
    return image.astype(np.uint8, copy=False)


def _without_alpha(data: bytes) -> UInt8 | None:
    """A TIFF's colors, where it has transparency that Pillow can tell from them; else None.

    OpenCV makes such pixels darker, in this format alone.
    """
    with contextlib.suppress(*_UNREADABLE), Image.open(io.BytesIO(data)) as picture:
        if picture.mode in ("RGBA", "LA"):
            return np.asarray(picture.convert("RGB"))
    return None


def decode_mask(
    data: bytes, size: Size, name: str, values: Sequence[int], advice: str = ""
) -> UInt8:
    """Decode a mask whose palette indices, grey levels or colors are `values`, one a class.

    Pillow's palette mode gives the indices themselves; OpenCV's GIF reader returns other
    values in other versions.

    Args:
        values: all below 65,536, or all colors, see `pipeline.data.samples.Label`.
        advice: why it must have this size and what to do, where it has not.

    Returns:
        uint8 array (H, W) of class indices: the positions in `values`.

    Raises:
        BadImageError: it does not decode, has another size, or other values.
    """
    pixels = mask_values(data, name, colored=max(values) >= COLOR)
    if pixels is None:
        raise BadImageError(f"{name}: found several channels, {_expected(values)}")
    _check_size((pixels.shape[0], pixels.shape[1]), size, name, advice)
    if pixels.dtype == np.uint8 and tuple(values) == tuple(range(len(values))):
        mask = pixels.astype(np.uint8, copy=False)
    else:
        mask = _indices(pixels, values)
    if mask.max(initial=0) >= len(values):
        others = sorted(set(np.unique(pixels).tolist()) - set(values))
        said = ", ".join(map(shown, others[:_VALUES_SHOWN]))
        more = f" and {len(others) - _VALUES_SHOWN} more" if len(others) > _VALUES_SHOWN else ""
        raise BadImageError(
            f"{name}: found pixels of {said}{more}, {_expected(values)} if those are classes, "
            f"give each a Label in the recipe's source (pipeline/sources/), or a name in "
            f"split.source.classes"
        )
    return mask


def mask_values(data: bytes, name: str, colored: bool) -> NDArray[np.integer[Any]] | None:
    """The values of a mask's pixels (H, W), as `Label` counts them.

    Args:
        colored: whether they are colors, which a palette or grey levels stand for as well.

    Returns:
        None where there are several channels although they are not to be colors.

    Raises:
        BadImageError: it does not decode.
    """
    with opened(data, name) as image:
        if colored:
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), -1, 0)
            packed: NDArray[np.int32] = COLOR + (red << 16) + (green << 8) + blue
            return packed
        if image.mode not in _ONE_CHANNEL:
            return None
        pixels = np.asarray(image)
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def _indices(pixels: NDArray[np.integer[Any]], values: Sequence[int]) -> UInt8:
    """The position in `values` of each pixel's value, 255 for others."""
    if pixels.dtype == np.uint8:
        index_of = np.full(256, 255, np.uint8)
        for index, value in enumerate(values):
            if value < 256:
                index_of[value] = index
        found: UInt8 = index_of[pixels]
        return found
    mask = np.full(pixels.shape, 255, np.uint8)
    for index, value in enumerate(values):
        mask[pixels == value] = index
    return mask


def _expected(values: Sequence[int]) -> str:
    *first, last = map(shown, values)
    what = "colors" if max(values) >= COLOR else "one channel"
    return f"expected {what} of {', '.join(first)} and {last}; is it a mask?"


def resize_image(image: UInt8, size: Size, method: Resize, out: UInt8 | None = None) -> UInt8:
    """Resize an (H, W, 3) uint8 picture, into `out` if that is given.

    `area` averages all pixels; `linear` looks at four and costs a seventh, but aliases more
    the more the picture shrinks; `nearest` looks at one.
    """
    resized = cv2.resize(image, size[::-1], dst=out, interpolation=_INTERPOLATION[method])
    return resized.astype(np.uint8, copy=False)


def soft_target(mask: UInt8, size: Size, classes: int, method: Resize = "area") -> UInt8:
    """Shrink a mask of class indices to the share of each class in each pixel, uint8 0..255.

    Area-averaged and never thresholded again: a hard target at 1024x1024 costs 0.0009 Dice
    at full resolution, a nearest-neighbour one 0.002, this one 0.00001. Other methods are for
    those who have to do as others did.

    Returns:
        (h, w) shares of the foreground for one class, else (h, w, classes), the shares of
        all classes, background included, which add up to 255 but for rounding.
    """
    if classes == 1:
        return _shares(mask, size, method)
    return np.stack([_shares(mask == index, size, method) for index in range(classes)], axis=-1)


def _shares(inside: UInt8 | NDArray[np.bool_], size: Size, method: Resize) -> UInt8:
    whole = inside.astype(np.uint8) * np.uint8(255)
    shares = cv2.resize(whole, size[::-1], interpolation=_INTERPOLATION[method])
    return shares.astype(np.uint8, copy=False)


def _check_size(found: Size, expected: Size, name: str, advice: str = "") -> None:
    if found != expected:
        advice = advice or (
            "; replace the file, or run the split stage again if the archives have changed"
        )
        raise BadImageError(
            f"{name}: found {found[0]}x{found[1]} pixels (height x width), expected "
            f"{expected[0]}x{expected[1]}{advice}"
        )


def _undecodable(name: str, length: int, reason: str) -> BadImageError:
    return BadImageError(
        f"{name}: {length} bytes that are no readable picture ({reason}); replace the file"
    )
