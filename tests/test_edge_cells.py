"""Masks at full resolution: OpenCV's in every pixel on the CPU, nearly so on a device."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics import dice
from pipeline.networks.predictor import full_resolution
from pipeline.predict import edge_cells, mask_bits

sides = st.integers(1, 90)


def blurred(height: int, width: int, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
    spread = (soft - soft.mean()) / (4 * soft.std() + 1e-6) + 0.5
    return np.ascontiguousarray(spread.clip(0, 1).astype(np.float32))


def bits(mask: np.ndarray) -> np.ndarray:
    packed = np.packbits(mask, bitorder="little")
    return np.pad(packed, (0, -packed.size % 8)).view(np.uint64)


@settings(deadline=None, max_examples=150)
@given(
    sides, sides, sides, sides, st.sampled_from([0, 1, 4, 9]), st.integers(1, 255),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_cpu_masks_are_those_that_validate_counts(h, w, height, width, sigma, k, coarse, seed):
    probability = blurred(h, w, sigma, seed)
    if coarse:  # plateaus, many of them exactly at a threshold
        probability = np.round(probability * 8) / 8
    words = mask_bits.on_cpu(probability[None], (height, width), k / 256)[0]
    levels = dice.levels(full_resolution(probability, (height, width)))
    np.testing.assert_array_equal(words, bits(levels >= k))


def test_the_kernel_and_not_its_substitute_makes_real_masks() -> None:
    for size in ((1280, 1918), (333, 517), (96, 150)):
        y, x = np.mgrid[:256, :320].astype(np.float32)
        distance = (80 + 9 * np.sin(y / 7) - np.hypot(x - 150, y - 120)).clip(-30, 30)
        probability = (1 / (1 + np.exp(-distance))).astype(np.float32)
        words = np.empty(-(-size[0] * size[1] // 64), np.uint64)
        assert edge_cells.pack(probability, size, 0.5, words)
        np.testing.assert_array_equal(words, bits(full_resolution(probability, size) >= 0.5))


def test_noise_and_doubt_are_left_to_opencv() -> None:
    words = np.empty(64 * 64 // 64, np.uint64)
    assert not edge_cells.pack(blurred(256, 256, 0, 1), (64, 64), 0.5, words)
    assert not edge_cells.pack(np.full((32, 32), 0.5, np.float32), (64, 64), 0.5, words)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 7), (64, 65)])
def test_empty_and_full_masks(value, size) -> None:
    probability = np.full((1, 16, 16), value, np.float32)
    expected = bits(np.full(size, bool(value)))
    np.testing.assert_array_equal(mask_bits.on_cpu(probability, size, 0.5)[0], expected)
    found = mask_bits.on_device(torch.from_numpy(probability), size, 0.5)
    np.testing.assert_array_equal(found.numpy().view(np.uint64)[0], expected)


@pytest.mark.parametrize("size", [(1280, 1918), (127, 193), (64, 64)])
def test_a_device_differs_in_pixels_within_rounding_alone(size, monkeypatch) -> None:
    probability = np.stack([blurred(128, 192, 12, seed) for seed in range(3)])
    exact = mask_bits.on_cpu(probability, size, 0.5)
    for most in (1 << 26, size[0] * size[1]):  # all at once, one by one
        monkeypatch.setattr(mask_bits, "_MOST_PIXELS", most)
        found = mask_bits.on_device(torch.from_numpy(probability), size, 0.5)
        differ = np.bitwise_count(found.numpy().view(np.uint64) ^ exact).sum(axis=1)
        assert differ.max() <= 2, differ
