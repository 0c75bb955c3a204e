"""The drawn cars: as large in the image as real ones, no two alike, masks that fit."""

import numpy as np
import pytest

from sample import camera, parts
from sample.backdrop import backdrop
from sample.design import Design, design
from sample.render import render, silhouette
from sample.smoothstep import smoothstep


@pytest.fixture(scope="module")
def designs() -> list[Design]:
    return [design(1, index) for index in range(12)]


def test_smoothstep_stays_between_0_and_1() -> None:
    steps = smoothstep(2, 4, [-1, 2, 2.5, 3, 3.5, 4, 9])
    assert steps.dtype == np.float32
    np.testing.assert_allclose(steps, [0, 0, 0.15625, 0.5, 0.84375, 1, 1])


def test_camera_looks_at_the_turntables_middle(designs: list[Design]) -> None:
    for _, _, studio, _ in designs:
        column, row, depth = camera.project(np.array([0, 0, 0.8], np.float32), studio)
        assert column == camera.WIDTH / 2
        assert row == pytest.approx(615, abs=0.01)
        assert depth == pytest.approx(np.hypot(studio.distance, studio.camera_height - 0.8))


def test_the_first_view_shows_the_front(designs: list[Design]) -> None:
    """Its nose is nearest to the camera then, half a turn later its tail."""
    for _, car, studio, _ in designs:
        ends = np.array([[car.shape.length / 2, 0, 0], [-car.shape.length / 2, 0, 0]], np.float32)
        for view, nearest in ((1, 0), (9, 1)):
            _, _, depth = camera.project(camera.car_axes(view, studio) @ ends.T, studio)
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
        body = parts.parts_of(car)[0].quads[0]
        place, normal = body[:3], body[3:6]
        flank = np.abs(place[1]) > 0.45 * car.shape.width
        assert flank.sum() > 200
        assert (place[1] * normal[1])[flank].mean() > 0


def test_foreground_is_like_the_real_one(designs: list[Design]) -> None:
    """Real masks: 9 to 41 % of the image, 21 % on average; none touches a corner."""
    shares = []
    for index, (_, car, studio, _) in enumerate(designs):
        mask = silhouette(parts.parts_of(car), 1 + 4 * index // 3, studio)  # around the turn
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


def test_silhouette_is_the_rendered_mask() -> None:
    _, car, studio, _ = design(5, 0)
    surfaces, empty = parts.parts_of(car), backdrop(studio)
    image, mask = render(car, surfaces, studio, empty, 3, np.random.default_rng(0))
    assert image.shape == (1280, 1918, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(mask, silhouette(surfaces, 3, studio))
