"""Photographs as people have them: of any format and size, turned as the camera says."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.images import BadImageError
from pipeline.support import files
from pipeline.support.arrays import UInt8

_COMPRESSION = 3  # zlib's level


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture as a viewer shows it.

    `pixels` is uint8 (H, W, 3), RGB, upright. `profile` is the ICC profile that says which red,
    green and blue are meant (phones use others than screens), None where the file has none.
    """

    pixels: UInt8
    profile: bytes | None


def read(path: Path) -> Photo:
    """Read a picture of any format that Pillow knows, the first of several in one file.

    Its EXIF rotation is applied. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB, the
    alpha of others is dropped. A JPEG's colors are upsampled smoothly, as viewers do;
    `pipeline.data.images.decode_image` does not, which moves a value by 0.08 of 255 on average, and
    on Carvana's photographs decides 1 to 2 pixels of 10,000 otherwise (a network of 256x256).

    Raises:
        BadImageError: it cannot be read, is cut short, or holds no 8 or 16 bits a channel.
    """
    try:
        # Pillow warns of more than 89 megapixels, which phones have, and refuses twice as many.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            ImageOps.exif_transpose(picture, in_place=True)
            return Photo(_rgb(picture), _profile(picture))
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise BadImageError(
            f"{path}: no readable picture ({_reason(error)}); save it as JPEG or PNG"
        ) from error


def write_cutout(path: Path, photo: Photo, mask: npt.NDArray[np.bool_]) -> None:
    """Write a PNG of the photo's pixels that is opaque inside the (H, W) mask, else transparent.

    What else the photo's file tells (place, time, camera) is left out.
    """
    assert mask.shape == photo.pixels.shape[:2], f"mask {mask.shape} of {photo.pixels.shape}"
    alpha = mask.astype(np.uint8) * np.uint8(255)
    picture = Image.fromarray(np.dstack([photo.pixels, alpha]))
    with files.written_whole(path) as temporary:
        picture.save(temporary, "PNG", icc_profile=photo.profile, compress_level=_COMPRESSION)


def _rgb(picture: Image.Image) -> UInt8:
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _eight_bits(np.asarray(picture))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "P":  # the way round RGBA drops transparency without a warning
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def _eight_bits(values: npt.NDArray[np.generic]) -> UInt8:
    """The high bytes of 16-bit grey, which Pillow may hold in wider integers."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 0xFFFF:
        raise ValueError(f"found {values.dtype} from {low} to {high}, expected 8 or 16 bits")
    return (values.astype(np.uint16) >> 8).astype(np.uint8)


def _profile(picture: Image.Image) -> bytes | None:
    """The ICC profile, if it is one of RGB: those of CMYK and grey mean nothing for RGB pixels."""
    profile: bytes = picture.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "a format that Pillow does not know"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or (str(error).strip().splitlines() or [type(error).__name__])[0]
