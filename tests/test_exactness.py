"""What is submitted is what was kept, pixel for pixel; what `tune` says is its score."""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import write_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_blend import FOLDS, project

from pipeline import encode, score
from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.data.rows import read_rows
from pipeline.data.samples import NO_FOLD, Sample
from pipeline.evaluation import judge
from pipeline.evaluation.decision import Decision
from pipeline.levels import kept
from pipeline.levels.kept import Image, Kept
from pipeline.masks import rle, submission, truth
from pipeline.masks.clean_up import CleanUp, clean
from pipeline.paths import Paths, recipe_file

__all__ = ["project"]  # the fixture

sides = st.integers(1, 40)
repairs = st.builds(
    CleanUp,
    keep_largest=st.booleans(),
    drop_specks=st.sampled_from([0, 1, 5]),
    close=st.sampled_from([0, 1, 2]),
    fill_holes=st.sampled_from([0, 1, 30, 10_000]),
)


def levels_of(seed: int, height: int, width: int) -> np.ndarray:
    """A map with a smooth part, plateaus of 0 and 255, and noise at every level."""
    generator = np.random.default_rng(seed)
    smooth = cv2.resize(generator.normal(0, 1, (3, 3)), (width, height), interpolation=2)
    noise = generator.normal(0, generator.choice([0.0, 0.3, 2.0]), (height, width))
    return np.clip(128 + 250 * (smooth + noise), 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), sides, sides, sides, sides), max_size=6),
    st.integers(0, 255),
    repairs,
)
def test_the_submission_is_what_was_kept(
    images: list[tuple[int, int, int, int, int]], level: int, clean_up: CleanUp
) -> None:
    """At any network size, image size, threshold and clean-up, through all the files between."""
    maps = [levels_of(seed, height, width) for seed, height, width, _, _ in images]
    sizes = [(height, width) for *_, height, width in images]
    rows = [
        Sample(f"{i}", "test", f"{i}", f"test.zip!{i}.jpg", "", NO_FOLD, *size, 0.0)
        for i, size in enumerate(sizes)
    ]
    packed = (Image.of(row.sample_id, one, 0.0, "") for row, one in zip(rows, maps, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in ("kept", "submit.csv.gz", "masks.csv")]
        kept.write(places[0], "key", packed, len(rows))
        opened = Kept.open(places[0], [row.sample_id for row in rows], "")
        made = encode.encode(rows, opened.images(), Decision(level, clean_up), {})
        submission.write(*places[1:], made, 1)
        written = list(read_rows(places[1]))
    assert [name for name, _ in written] == [f"{row.sample_id}.jpg" for row in rows]
    for (_, text), one, size in zip(written, maps, sizes, strict=True):
        directly = clean(
            cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) >= level, clean_up
        )
        np.testing.assert_array_equal(rle.decode(text, *size), directly)


@pytest.mark.parametrize(
    ("threshold", "sizes"),
    [
        ("auto", {}),
        (0.3, {"fill_holes": 100, "drop_specks": 2}),
        ("auto", {"keep_largest": True, "close": 2, "fill_holes": 10_000}),
    ],
)
def test_what_tune_says_is_the_score_of_the_masks_encoded(
    project: Path, threshold: object, sizes: dict
) -> None:
    paths, masks = Paths.of("good"), truth.read(Paths.of("good").raw / "train_masks.zip", None)
    recipe = yaml.safe_load(recipe_file("good").read_text())
    none = {"keep_largest": False, "drop_specks": "none", "close": "none", "fill_holes": "none"}
    recipe["tune"] |= {"threshold": threshold, "clean_up": none | sizes}
    write_yaml(recipe_file("good"), recipe)
    main(["tune", "good"])
    told, decision = json.loads(paths.metrics.read_text()), Decision.read(paths.metrics)
    scores = []
    for fold in FOLDS:
        rows = samples.held_out(samples.read(paths.samples), fold)
        images = judge.open_levels(paths, fold, rows).images()
        texts = [(note.img, text) for note, text in encode.encode(rows, images, decision, {})]
        scores += [dice for _, dice in score.score(Path("x"), texts, masks, partial=True)]
    assert len(scores) == told["images"] == 12
    assert told["dice"] == pytest.approx(np.mean(scores), abs=1e-12, rel=0)
    assert min(scores) < max(scores)


@pytest.mark.parametrize("count", [6, 7])
def test_a_set_of_several_chunks_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(kept, "CHUNK", 3)
    maps = {f"{k}": levels_of(k, 5, 7) for k in range(count)}
    images = (Image.of(name, one, 0.0, "") for name, one in maps.items())
    kept.write(tmp_path / "kept", "key", images, count)
    opened = Kept.open(tmp_path / "kept", [*maps], "")
    assert len(opened.chunks) == -(-count // 3)
    for names, found in (([*maps], opened.images()), ([*maps][::-1], opened.some([*maps][::-1]))):
        there = {one.sample_id: one.levels() for one in found}
        assert sorted(there) == sorted(names)
        for name, levels in there.items():
            np.testing.assert_array_equal(levels, maps[name])
