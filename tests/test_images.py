import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from conftest import gif, jpeg, tiny_image, tiny_mask
from PIL import Image

from pipeline.data.images import (
    BadImageError,
    decode_image,
    decode_mask,
    read_size,
    resize_image,
    soft_target,
)
from pipeline.levels.scale import full_resolution
from pipeline.metrics.dice import dice

MASK = tiny_mask(1)
IMAGE = tiny_image(MASK, 1)
SIZE = MASK.shape


def test_an_image_is_rgb_at_its_own_size() -> None:
    decoded = decode_image(jpeg(IMAGE), SIZE, "a.jpg")
    assert decoded.shape == IMAGE.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - IMAGE).mean() < 12, "channels swapped?"


def test_the_size_is_read_from_the_header() -> None:
    assert read_size(jpeg(IMAGE), "a.jpg") == SIZE


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg(IMAGE)[:500], jpeg(IMAGE)[:-2]], ids=len)
def test_what_does_not_decode_is_named(data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"a\.jpg: \d+ bytes that are no readable picture"):
        decode_image(data, SIZE, "a.jpg")


def test_another_size_is_refused() -> None:
    with pytest.raises(BadImageError, match="a.jpg: found 64x96 pixels .* expected 64x97"):
        decode_image(jpeg(IMAGE), (64, 97), "a.jpg")
    with pytest.raises(BadImageError, match="m.gif: found 64x96 pixels .* expected 64x97"):
        decode_mask(gif(MASK), (64, 97), "m.gif", (0, 1))


def test_a_rotation_tag_is_ignored_in_size_and_pixels() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to display
    Image.fromarray(IMAGE).save(stream, "JPEG", exif=exif)
    assert read_size(stream.getvalue(), "a.jpg") == SIZE
    assert decode_image(stream.getvalue(), SIZE, "a.jpg").shape == IMAGE.shape


def test_a_mask_is_its_palette_indices() -> None:
    decoded = decode_mask(gif(MASK), SIZE, "m.gif", (0, 1))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, MASK)


def test_a_picture_is_no_mask() -> None:
    with pytest.raises(
        BadImageError, match="found several channels, expected one channel of 0 and 1"
    ):
        decode_mask(jpeg(IMAGE), SIZE, "m.gif", (0, 1))
    deep = cv2.imencode(".png", MASK.astype(np.uint16) * 256)[1].tobytes()
    with pytest.raises(BadImageError, match="found pixels of 256, expected one channel"):
        decode_mask(deep, SIZE, "m.png", (0, 1))


@pytest.mark.parametrize("values", [(0, 255), (255, 0), (7, 3)])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_mask_files_values_become_class_indices(values: tuple[int, int], ending: str) -> None:
    data = cv2.imencode(ending, np.array(values, np.uint8)[MASK])[1].tobytes()
    np.testing.assert_array_equal(decode_mask(data, SIZE, "m", values), MASK)
    with pytest.raises(BadImageError, match=r"found pixels of .* 0 and 1; .* give each a Label"):
        decode_mask(data, SIZE, "m", (0, 1))


def test_three_values_are_three_classes() -> None:
    trimap = MASK + np.tile(np.arange(1, 3, dtype=np.uint8), (*SIZE[:1], SIZE[1] // 2))
    data = cv2.imencode(".png", trimap)[1].tobytes()
    index = decode_mask(data, SIZE, "m.png", (2, 1, 3))
    np.testing.assert_array_equal(index, np.array([9, 1, 0, 2], np.uint8)[trimap])
    with pytest.raises(BadImageError, match="found pixels of 3, expected .* 2 and 1; .* Label"):
        decode_mask(data, SIZE, "m.png", (2, 1))


def test_unusual_pictures_are_rgb_too() -> None:
    """Some files of public data sets are grey, have a palette, or are no JPEG at all."""
    grey = Image.fromarray(IMAGE).convert("L")
    for picture, kind in [
        (grey, "JPEG"),
        (grey.convert("LA"), "PNG"),
        (Image.fromarray(IMAGE).convert("P"), "PNG"),
        (Image.fromarray(IMAGE).convert("P"), "GIF"),
        (Image.fromarray(IMAGE).convert("RGBA"), "PNG"),
        (Image.fromarray(IMAGE).convert("CMYK"), "JPEG"),
        (Image.fromarray(IMAGE), "TIFF"),
        (Image.fromarray(np.dstack([IMAGE, IMAGE[:, :, 0]])), "TIFF"),
        (Image.fromarray(np.dstack([IMAGE, IMAGE[:, :, 0]])), "PNG"),
    ]:
        stream = io.BytesIO()
        picture.save(stream, kind)
        decoded = decode_image(stream.getvalue(), SIZE, "a.jpg")
        assert decoded.shape == IMAGE.shape and decoded.dtype == np.uint8
        expected = np.asarray(picture.convert("RGB"), dtype=int)
        assert np.abs(decoded - expected).mean() < 12, (picture.mode, kind)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_a_jpeg_is_what_pillow_makes_of_it(
    subsampling: str, progressive: bool, size: tuple[int, int]
) -> None:
    photo = cv2.GaussianBlur(IMAGE, (0, 0), 3)[: size[0], : size[1]]
    stream = io.BytesIO()
    Image.fromarray(photo).save(
        stream, "JPEG", quality=90, subsampling=subsampling, progressive=progressive
    )
    decoded = decode_image(stream.getvalue(), size, "a.jpg")
    expected = np.asarray(Image.open(stream), dtype=int)
    # Where color has fewer pixels, it is spread without smoothing.
    assert np.abs(decoded - expected).mean() <= (0 if subsampling == "4:4:4" else 1)


def test_a_jpeg_damaged_inside_is_taken_as_far_as_it_decodes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = jpeg(IMAGE)
    whole = decode_image(data, SIZE, "a.jpg")
    assert capsys.readouterr().err == ""
    longer = data[:-2] + bytes(40) + data[-2:]
    np.testing.assert_array_equal(decode_image(longer, SIZE, "a.jpg"), whole)
    assert "a.jpg: taken as far as it decodes: " in capsys.readouterr().err
    shorter = data[: len(data) * 2 // 3] + data[-2:]
    np.testing.assert_array_equal(decode_image(shorter, SIZE, "b.jpg")[:16], whole[:16])
    assert "b.jpg: taken as far as it decodes: " in capsys.readouterr().err


def test_a_jpeg_cut_short_is_found_without_decoding() -> None:
    data = jpeg(IMAGE)
    thumbnail = data[:2] + b"\xff\xe1\x00\x06Ex\xff\xd9" + data[2:]  # its end, in the header
    for cut in (data[:-2], data[: len(data) // 2], thumbnail[:-100]):
        with pytest.raises(BadImageError, match="cut short"):
            read_size(cut, "a.jpg")
        with pytest.raises(BadImageError, match="cut short"):
            decode_image(cut, SIZE, "a.jpg")


@pytest.mark.parametrize("film", [bytes(5000), b"\xff\xd9 a film \xff\xda and no end"])
def test_a_jpeg_may_be_followed_by_anything(film: bytes) -> None:
    data = jpeg(IMAGE) + film
    assert read_size(data, "a.jpg") == SIZE
    np.testing.assert_array_equal(
        decode_image(data, SIZE, "a.jpg"), decode_image(jpeg(IMAGE), SIZE, "a.jpg")
    )


def sampled(luminance: int) -> bytes:
    """The picture as a JPEG of three components, the first with these sampling factors."""
    stream = io.BytesIO()
    Image.fromarray(IMAGE).save(stream, "JPEG", subsampling="4:4:4")
    data = bytearray(stream.getvalue())
    data[data.index(b"\xff\xc0") + 11] = luminance
    return bytes(data)


def test_a_jpeg_of_an_unusual_sampling_is_read() -> None:
    """simplejpeg knows no name for it: it is left to OpenCV, whose pixels Pillow's are near to."""
    data = sampled(0x13)  # 1x3, against 1x1 of the colors
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg_header(data, strict=True)
    decoded = decode_image(data, SIZE, "a.jpg")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
    assert decoded.shape == IMAGE.shape
    assert np.abs(decoded - expected).mean() < 2


# By what stands in a byte of the first segment: those that no decoder gets over. They are in the
# markers and lengths of this segment and the next; the rest is what hardly anybody reads.
FATAL = {0: {2, 20, 21, 23}, 255: {4, 5, 21, 22, 23}}


@pytest.mark.parametrize("at", range(2, 24))
@pytest.mark.parametrize("value", [0, 255])
def test_a_damaged_header_is_refused_or_does_not_matter(at: int, value: int) -> None:
    data = bytearray(jpeg(IMAGE))
    data[at] = value
    if at in FATAL[value]:
        with pytest.raises(BadImageError, match=r"^a\.jpg: \d+ bytes that are no readable"):
            decode_image(bytes(data), SIZE, "a.jpg")
        return
    assert read_size(bytes(data), "a.jpg") == SIZE
    whole = decode_image(jpeg(IMAGE), SIZE, "a.jpg").astype(int)
    # OpenCV spreads color with smoothing, where simplejpeg has given up.
    assert np.abs(decode_image(bytes(data), SIZE, "a.jpg") - whole).mean() < 4


@pytest.mark.parametrize("size", [(30_000, 60_000), (20_000, 20_000)])
def test_a_picture_too_large_to_decode_is_said_to_be_that(size: tuple[int, int]) -> None:
    data = bytearray(cv2.imencode(".png", MASK)[1].tobytes())
    data[16:24] = struct.pack(">II", size[1], size[0])
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    for read in (
        lambda: read_size(bytes(data), "a.png"),
        lambda: decode_mask(bytes(data), size, "a.png", (0, 1)),
    ):
        with pytest.raises(BadImageError, match=r"a.png: found [\d,]+ pixels, expected [\d,]+ at"):
            read()


@pytest.mark.parametrize(
    "read", [lambda d: read_size(d, "a"), lambda d: decode_mask(d, SIZE, "a", (0, 1))]
)
def test_no_message_speaks_of_objects_in_memory(read) -> None:
    with pytest.raises(BadImageError, match="a: 8 bytes that are no readable picture") as raised:
        read(b"no image")
    assert "object" not in str(raised.value) and "0x" not in str(raised.value)


@pytest.mark.parametrize("method", ["linear", "area"])
def test_resizing_keeps_type_and_mean(method: str) -> None:
    small = resize_image(IMAGE, (32, 48), method)  # type: ignore[arg-type]
    assert small.shape == (32, 48, 3) and small.dtype == np.uint8
    assert abs(small.mean() - IMAGE.mean()) < 2


def test_a_soft_target_is_the_share_of_foreground() -> None:
    target = soft_target(MASK, (32, 48), 1)
    expected = MASK.reshape(32, 2, 48, 2).mean(axis=(1, 3)) * 255
    assert np.abs(target - expected).max() <= 1


def test_a_soft_target_of_classes_holds_the_share_of_each() -> None:
    index = MASK + np.flip(MASK, 0)
    target = soft_target(index, (32, 48), 3)
    assert target.shape == (32, 48, 3) and target.dtype == np.uint8
    for label in range(3):
        expected = (index == label).reshape(32, 2, 48, 2).mean(axis=(1, 3)) * 255
        assert np.abs(target[:, :, label] - expected).max() <= 1
    assert np.abs(target.astype(int).sum(axis=2) - 255).max() <= 2


def test_a_soft_target_survives_the_way_to_network_size_and_back() -> None:
    mask = np.zeros((1280, 1918), np.uint8)
    cv2.ellipse(mask, (900, 650), (620, 330), 3, 0, 360, 1, -1)
    cv2.line(mask, (900, 350), (960, 200), 1, 5)
    target = soft_target(mask, (1024, 1024), 1)
    back = full_resolution(target, (1280, 1918)) >= 128
    assert dice(back, mask > 0) > 0.9995
