import io

import cv2
import numpy as np
import pytest
from conftest import gif, jpeg, tiny_image, tiny_mask
from PIL import Image

from pipeline.dice import dice
from pipeline.images import (
    BadImageError,
    decode_image,
    decode_mask,
    read_size,
    resize_image,
    soft_target,
)
from pipeline.inference import full_resolution

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
        decode_mask(gif(MASK), (64, 97), "m.gif")


def test_a_rotation_tag_is_ignored_in_size_and_pixels() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to display
    Image.fromarray(IMAGE).save(stream, "JPEG", exif=exif)
    assert read_size(stream.getvalue(), "a.jpg") == SIZE
    assert decode_image(stream.getvalue(), SIZE, "a.jpg").shape == IMAGE.shape


def test_a_mask_is_its_palette_indices() -> None:
    decoded = decode_mask(gif(MASK), SIZE, "m.gif")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, MASK)


def test_a_picture_is_no_mask() -> None:
    with pytest.raises(BadImageError, match="expected one channel of 0 and 1"):
        decode_mask(jpeg(IMAGE), SIZE, "m.gif")
    grey = cv2.imencode(".png", MASK * 255)[1].tobytes()
    with pytest.raises(BadImageError, match="values up to 255"):
        decode_mask(grey, SIZE, "m.png")


@pytest.mark.parametrize("method", ["linear", "area"])
def test_resizing_keeps_type_and_mean(method: str) -> None:
    small = resize_image(IMAGE, (32, 48), method)  # type: ignore[arg-type]
    assert small.shape == (32, 48, 3) and small.dtype == np.uint8
    assert abs(small.mean() - IMAGE.mean()) < 2


def test_a_soft_target_is_the_share_of_foreground() -> None:
    target = soft_target(MASK, (32, 48))
    expected = MASK.reshape(32, 2, 48, 2).mean(axis=(1, 3)) * 255
    assert np.abs(target - expected).max() <= 1


def test_a_soft_target_survives_the_way_to_network_size_and_back() -> None:
    mask = np.zeros((1280, 1918), np.uint8)
    cv2.ellipse(mask, (900, 650), (620, 330), 3, 0, 360, 1, -1)
    cv2.line(mask, (900, 350), (960, 200), 1, 5)
    target = soft_target(mask, (1024, 1024)).astype(np.float32) / 255
    back = full_resolution(target, (1280, 1918)) > 0.5
    assert dice(back, mask > 0) > 0.9995
