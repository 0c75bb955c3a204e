"""The drawn cars: as large in the image as real ones, no two alike, masks that fit."""

import numpy as np
import pytest

from sample.design import Design, design
from sample.geometry import smoothstep
from sample.render import Scene, render
from sample.studio import HEIGHT, WIDTH, backdrop
from sample.surfaces import surfaces


@pytest.fixture(scope="module")
def designs() -> list[Design]:
    return [design(1, index) for index in range(12)]


def test_smoothstep_stays_between_0_and_1() -> None:
    steps = smoothstep(2, 4, [-1, 2, 2.5, 3, 3.5, 4, 9])
    assert steps.dtype == np.float32
    np.testing.assert_allclose(steps, [0, 0, 0.15625, 0.5, 0.84375, 1, 1])


def test_camera_looks_at_the_turntables_middle(designs: list[Design]) -> None:
    for _, _, studio, _ in designs:
        column, row, depth = studio.project(np.array([0, 0, 0.8], np.float32))
        assert column == WIDTH / 2
        assert row == pytest.approx(615, abs=0.01)
        assert depth == pytest.approx(np.hypot(studio.distance, studio.camera_height - 0.8))


def test_the_first_view_shows_the_front(designs: list[Design]) -> None:
    """Its nose is nearest to the camera then, half a turn later its tail."""
    for _, car, studio, _ in designs:
        ends = np.array([[car.shape.length / 2, 0, 0], [-car.shape.length / 2, 0, 0]], np.float32)
        for view, nearest in ((1, 0), (9, 1)):
            _, _, depth = studio.project(studio.car_axes(view) @ ends.T)
            assert np.argmin(depth) == nearest


def test_outlines_are_alike_on_both_sides(designs: list[Design]) -> None:
    shape = designs[0].car.shape
    for outline in (shape.body_outline, shape.cabin_outline):
        left, right = outline.y[1 : len(outline.y) // 2], outline.y[: len(outline.y) // 2 : -1]
        np.testing.assert_array_equal(left, -right)
        assert outline.u.min() == 0 and outline.u.max() == pytest.approx(outline.size)
        front, rear = outline.distance(outline.x.max()), outline.distance(outline.x.min())
        assert front == 0 and rear == pytest.approx(outline.size)


def test_surfaces_face_outwards(designs: list[Design]) -> None:
    """Away from the car's middle line, at the places of the body where that is the flank."""
    for _, car, _, _ in designs[:3]:
        body = surfaces(car)[0].quads[0]
        place, normal = body[:3], body[3:6]
        flank = np.abs(place[1]) > 0.45 * car.shape.width
        assert flank.sum() > 200
        assert (place[1] * normal[1])[flank].mean() > 0


def test_foreground_is_like_the_real_one(designs: list[Design]) -> None:
    """Real masks: 9 to 41 % of the image, 21 % on average; none touches a corner."""
    shares, empty = [], np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for index, (_, car, studio, _) in enumerate(designs):
        scene = Scene(car.shape, surfaces(car), studio, empty)
        view = 1 + 4 * index // 3  # around the turn
        _, mask = render(scene, view, np.random.default_rng(0))
        assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        shares.append(mask.mean())
    assert 0.09 < min(shares) and max(shares) < 0.41
    assert 0.18 < np.mean(shares) < 0.24


def test_a_few_cars_are_of_every_kind(designs: list[Design]) -> None:
    assert len({design.car_id for design in designs}) == 12
    assert len({design.car.paint for design in designs}) == 12


def test_other_seed_other_car() -> None:
    ours, theirs = (design(seed, 0) for seed in (3, 4))
    assert ours.car_id != theirs.car_id
    assert ours.car.shape != theirs.car.shape and ours.studio != theirs.studio


def test_the_image_shows_the_car_where_the_mask_says(designs: list[Design]) -> None:
    _, car, studio, _ = designs[0]
    room = backdrop(studio)
    scene = Scene(car.shape, surfaces(car), studio, room)
    image, mask = render(scene, 3, np.random.default_rng(0))
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    changed = np.abs(image.astype(int) - room).mean(axis=2)
    assert changed[mask].mean() > 30
    assert changed[: HEIGHT // 4][~mask[: HEIGHT // 4]].mean() < 4  # the wall is the wall
