from collections.abc import Callable

import numpy as np
import pytest
from conftest import tiny_image, tiny_mask

from pipeline.augmentation import Augmentation
from pipeline.recipe.schema import Augment

MASK = tiny_mask(3) * np.uint8(255)
IMAGE = tiny_image(tiny_mask(3), 3)
NOTHING = dict(
    hflip=0, vflip=0, affine=0, shift=0, scale=0, keep_aspect=False, rotate=0,
    border="mirror", color=0, color_like="torchvision", lighten=0, brightness=0, contrast=0,
    saturation=0, hue=0, triple=False,
)  # fmt: skip


def augmentation(**changes: float | tuple[float, float]) -> Augmentation:
    return Augmentation(Augment(**{**NOTHING, **changes}))


def test_nothing_changes_nothing() -> None:
    image, target = augmentation()(IMAGE, MASK, 1)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(target, MASK)


def test_a_flip_moves_image_and_target_together() -> None:
    image, target = augmentation(hflip=1)(IMAGE, MASK, 1)
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    np.testing.assert_array_equal(target, MASK[:, ::-1])


def test_an_upside_down_flip_moves_image_and_target_together() -> None:
    image, target = augmentation(vflip=1)(IMAGE, MASK, 1)
    np.testing.assert_array_equal(image, IMAGE[::-1])
    np.testing.assert_array_equal(target, MASK[::-1])


def test_an_affine_change_moves_the_target_with_the_image() -> None:
    change = augmentation(affine=1, shift=0.1, scale=0.1, rotate=10)
    for seed in range(10):
        image, target = change(IMAGE, MASK, seed)
        red = image[:, :, 0].astype(int) - image[:, :, 1] > 80
        assert (red == (target > 127)).mean() > 0.97


@pytest.mark.parametrize("kept", [True, False])
def test_sides_are_scaled_alike_or_apart(kept: bool) -> None:
    square = np.zeros((200, 200), np.uint8)
    square[60:140, 60:140] = 255
    change = augmentation(affine=1, scale=0.3, keep_aspect=kept)
    ratios, sizes = [], []
    for seed in range(20):
        inside = change(np.zeros((200, 200, 3), np.uint8), square, seed)[1] > 127
        height, width = (int(inside.any(axis=axis).sum()) for axis in (1, 0))
        ratios.append(height / width)
        sizes.append(height)
    assert max(sizes) - min(sizes) > 20, "it is scaled at all"
    assert (max(ratios) < 1.04 and min(ratios) > 0.96) is kept


def test_a_warped_target_stays_soft() -> None:
    _, target = augmentation(affine=1, shift=0.1, scale=0.1, rotate=10)(IMAGE, MASK, 3)
    assert ((target > 0) & (target < 255)).any()


def test_color_leaves_the_target_alone() -> None:
    change = augmentation(color=1, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    image, target = change(IMAGE, MASK, 1)
    assert (image != IMAGE).any() and image.dtype == np.uint8
    np.testing.assert_array_equal(target, MASK)


def test_the_seed_alone_decides() -> None:
    every = dict(hflip=0.5, affine=0.5, shift=0.1, scale=0.1, rotate=9, color=0.5, brightness=0.3)
    every["lighten"] = 0.2
    one, other = augmentation(**every), augmentation(**every)
    other(IMAGE, MASK, 99)  # an earlier call must not matter
    seen = set()
    for seed in range(20):
        image, target = one(IMAGE, MASK, seed)
        np.testing.assert_array_equal(image, other(IMAGE, MASK, seed)[0])
        seen.add((image.tobytes(), target.tobytes()))
    assert len(seen) > 10


def test_a_target_of_several_classes_moves_as_one() -> None:
    shares = np.stack([255 - MASK, MASK, np.zeros_like(MASK)], axis=-1)
    change = augmentation(hflip=0.5, affine=1, shift=0.1, scale=0.1, rotate=10)
    for seed in range(5):
        image, target = change(IMAGE, shares, seed)
        np.testing.assert_array_equal(target[:, :, 1], change(IMAGE, MASK, seed)[1])
        assert np.abs(target.astype(int).sum(axis=2) - 255).max() <= 1


def test_lighten_adds_the_same_to_every_pixel_and_clips() -> None:
    change = augmentation(color=1, lighten=0.3)
    added = set()
    plain = IMAGE.copy()
    plain[0, 0] = 128  # neither end of the scale is within reach
    for seed in range(20):
        image, _ = change(plain, MASK, seed)
        step = int(image[0, 0, 0]) - 128
        np.testing.assert_allclose(image, np.clip(plain.astype(int) + step, 0, 255), atol=1)
        added.add(step)
    assert min(added) < -40 and max(added) > 40 and all(abs(step) <= 77 for step in added)


def test_a_pair_is_a_range_of_factors() -> None:
    grey = IMAGE.astype(float).mean(axis=2)
    for seed in range(10):
        image, _ = augmentation(color=1, contrast=(0.5, 0.7))(IMAGE, MASK, seed)
        assert 0.48 < image.astype(float).mean(axis=2).std() / grey.std() < 0.72


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("brightness", lambda image: image.mean()),
        ("contrast", lambda image: image.astype(float).mean(axis=2).std()),
        ("saturation", lambda image: np.ptp(image[32, 48].astype(int))),
        ("hue", lambda image: int(image[32, 48, 1]) - int(image[32, 48, 2])),
    ],
)
def test_each_color_change_does_what_it_is_called(
    name: str, measure: Callable[[np.ndarray], float]
) -> None:
    """One alone moves its own measure to both sides, and the target not at all."""
    before, found = measure(IMAGE), []
    for seed in range(30):
        image, target = augmentation(color=1, **{name: 0.3})(IMAGE, MASK, seed)
        found.append(measure(image))
        np.testing.assert_array_equal(target, MASK)
    assert min(found) < before - 0.05 * abs(before) - 1 or name == "contrast"
    assert min(found) < before < max(found)
    assert max(found) - min(found) > 0.2 * abs(before)
