"""Photographs of every kind become upright RGB, and cutouts hold their pixels."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import jpeg, tiny_image, tiny_mask
from PIL import Image, ImageCms

from pipeline import predict_folder
from pipeline.data.images import BadImageError

IMAGE = tiny_image(tiny_mask(1), 1)[:51, :77]
GREY = np.arange(51 * 77, dtype=np.uint32).reshape(51, 77) * 16
# How to lay an upright picture out so that the EXIF orientation turns it upright again.
LAID = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", LAID)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_what_the_camera_says_about_up_is_done(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    laid = np.ascontiguousarray(LAID[orientation](IMAGE))
    Image.fromarray(laid).save(tmp_path / f"a.{ending}", exif=exif)
    np.testing.assert_array_equal(predict_folder.read_photo(tmp_path / f"a.{ending}").pixels, IMAGE)


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_a_tiff_of_any_mode_is_turned(tmp_path: Path, orientation: int, mode: str) -> None:
    upright = Image.fromarray(IMAGE).convert(mode)
    laid = np.ascontiguousarray(LAID[orientation](np.asarray(upright)))
    picture = Image.fromarray(laid, mode) if mode == "CMYK" else Image.fromarray(laid)
    picture.save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
    found = predict_folder.read_photo(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(found, np.asarray(upright.convert("RGB")))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    high = (GREY >> 8).astype(np.uint8)
    for name in ("grey.png", "grey.tif", "grey.pgm"):
        cv2.imwrite(str(tmp_path / name), GREY.astype(np.uint16))
        found = predict_folder.read_photo(tmp_path / name).pixels
        assert found.dtype == np.uint8 and found.shape == (51, 77, 3)
        np.testing.assert_array_equal(found, np.dstack([high] * 3))
    colors = IMAGE.astype(np.uint16) * 256 + 99
    cv2.imwrite(str(tmp_path / "rgb.png"), colors[..., ::-1])
    np.testing.assert_array_equal(predict_folder.read_photo(tmp_path / "rgb.png").pixels, IMAGE)


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    upright, grey = Image.fromarray(IMAGE), Image.fromarray(IMAGE[..., 0])
    alpha = Image.fromarray(IMAGE[..., 1])

    transparent = upright.copy()
    transparent.putalpha(alpha)
    transparent.save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(predict_folder.read_photo(tmp_path / "rgba.png").pixels, IMAGE)

    Image.merge("LA", (grey, alpha)).save(tmp_path / "la.png")
    grey.save(tmp_path / "l.png")
    for name in ("la.png", "l.png"):
        expected = np.dstack([IMAGE[..., 0]] * 3)
        np.testing.assert_array_equal(predict_folder.read_photo(tmp_path / name).pixels, expected)

    palette = upright.quantize(16)
    for name, kept in (("p.png", None), ("int.png", 3), ("bytes.png", bytes(range(16)))):
        palette.save(tmp_path / name, **({} if kept is None else {"transparency": kept}))
        found = predict_folder.read_photo(tmp_path / name).pixels
        np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))

    upright.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    found = predict_folder.read_photo(tmp_path / "cmyk.jpg").pixels.astype(int)
    assert np.abs(found - IMAGE).mean() < 6

    Image.fromarray(IMAGE[..., 0] > 190).save(tmp_path / "one.png")
    np.testing.assert_array_equal(
        predict_folder.read_photo(tmp_path / "one.png").pixels[..., 1],
        (IMAGE[..., 0] > 190) * np.uint8(255),
    )


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, values: type) -> None:
    Image.fromarray(GREY.astype(values) * 1000).save(tmp_path / "a.tif")
    with pytest.raises(BadImageError, match=r"a\.tif: .*expected 8 or 16 bits"):
        predict_folder.read_photo(tmp_path / "a.tif")


def test_what_is_no_picture_is_named_in_one_line(tmp_path: Path) -> None:
    whole = jpeg(IMAGE)
    for name, data, said in (
        ("text.jpg", b"no picture", "a format that Pillow does not know"),
        ("empty.jpg", b"", "a format that Pillow does not know"),
        ("cut.jpg", whole[:-200], "truncated"),
        ("cut.png", cv2.imencode(".png", IMAGE)[1].tobytes()[:-2000], "truncated"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImageError, match=re.escape(name)) as caught:
            predict_folder.read_photo(tmp_path / name)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadImageError, match=r"none\.jpg: .*\(No such file or directory\)"):
        predict_folder.read_photo(tmp_path / "none.jpg")
    with pytest.raises(BadImageError, match=r"\(Is a directory\)"):
        predict_folder.read_photo(tmp_path)


def test_a_large_photo_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", IMAGE[..., 0].size - 1)
    np.testing.assert_array_equal(predict_folder.read_photo(tmp_path / "a.png").pixels, IMAGE)


def test_a_cutout_has_the_pixels_and_the_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "a camera that knows where it was"
    Image.fromarray(IMAGE).save(tmp_path / "a.png", icc_profile=profile, exif=exif)
    mask = tiny_mask(1)[:51, :77]
    photo = predict_folder.read_photo(tmp_path / "a.png")
    predict_folder.write_cutout(tmp_path / "new/b.png", photo, mask)
    with Image.open(tmp_path / "new/b.png") as written:
        assert written.mode == "RGBA" and written.info["icc_profile"] == profile
        assert not written.getexif()
        pixels = np.asarray(written)
    np.testing.assert_array_equal(pixels[..., :3], IMAGE)
    np.testing.assert_array_equal(pixels[..., 3], np.where(mask > 0, 255, 0))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.png"]


def test_a_profile_of_other_colors_is_left_out(tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"CMYK"
    Image.fromarray(IMAGE).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=bytes(profile))
    assert predict_folder.read_photo(tmp_path / "a.jpg").profile is None
