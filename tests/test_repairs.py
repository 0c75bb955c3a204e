"""A clean-up is accepted where it gains beyond doubt, and the Dice told is that of its masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_tune import settings as tune_settings

from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.data.images import read_mask
from pipeline.data.samples import Sample
from pipeline.evaluation import judge, out_of_fold
from pipeline.evaluation.decision import Decision
from pipeline.levels import kept, scale
from pipeline.masks import rle
from pipeline.masks.clean_up import CleanUp, clean
from pipeline.metrics.dice import dice, interval, resample_groups
from pipeline.paths import Paths
from pipeline.recipe.schema import Validate
from pipeline.tune import repairs
from pipeline.tune import stage as tune

SIZE = (96, 128)
FOLDS = 3
EVERY = {"keep_largest": (1,), "drop_specks": (1, 4), "close": (1, 3), "fill_holes": (1, 5, 99)}


@settings(deadline=None, max_examples=60)
@given(
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=24).flatmap(
        lambda shape: st.tuples(*[arrays.arrays(bool, shape)] * 2)
    )
)
def test_gains_are_those_of_repaired_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    mask, truth = pair
    found = repairs.gains(mask, truth, EVERY)
    for name, sizes in EVERY.items():
        for gain, size in zip(found[name], sizes, strict=True):
            how = CleanUp(**{name: bool(size) if name == "keep_largest" else size})
            expected = dice(clean(mask, how), truth) - dice(mask, truth)
            assert gain == pytest.approx(expected, abs=1e-12), (name, size)


def truth_of(group: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, (64, 48), (30 + group, 20 + group), 0, 0, 360, 1, -1)
    return mask


def write(folder: Path, speckled: bool, fold_of_specks: int = -1) -> Paths:
    """Six groups of two images in three folds; levels with a far speck, or without."""
    paths = Paths.of("r", {name: folder / name for name in ("raw", "samples", "oof", "evaluation")})
    paths.raw.mkdir(parents=True)
    rows = []
    for group in range(6):
        mask = cv2.imencode(".png", truth_of(group))[1].tobytes()
        for number in range(2):
            name = f"{group}_{number:02d}"
            (paths.raw / f"{name}.png").write_bytes(mask)
            rows.append(
                Sample(name, "train", str(group), "i", f"{name}.png", group % FOLDS, *SIZE, 0.2)
            )
    samples.write(paths.samples, rows)
    generator = np.random.default_rng(0)
    for fold in range(FOLDS):
        mine = samples.held_out(rows, fold)
        images = []
        for row in mine:
            levels = cv2.GaussianBlur(truth_of(int(row.group)) * 255, (0, 0), 1.5)
            if speckled or fold == fold_of_specks:
                at = int(generator.integers(2, 8))
                levels[at : at + 3, 118:124] = 220
            images.append(kept.Image.of(row.sample_id, levels[::2, ::2].copy(), 0.0, ""))
        kept.write(paths.oof_levels(fold), "key", iter(images), len(images))
        judged = []
        for row, image in zip(mine, images, strict=True):
            full = scale.full_resolution(image.levels(), row.size)
            truth = read_mask(Archives(paths.raw), row)
            judged.append(out_of_fold.judge_levels(row, full, truth))
        out_of_fold.write(paths, fold, judged)
    return paths


def run(paths: Paths, **clean_up: object) -> tune.Tuned:
    found, asked = out_of_fold.read(paths, range(FOLDS)), tune_settings(**clean_up)
    level = tune.choose_level(found, asked)
    choice = repairs.choose(found, paths, asked, level)
    return tune.score_masks(found, asked, level, choice)


AUTO = dict.fromkeys(("keep_largest", "drop_specks", "close", "fill_holes"), "auto")


def test_the_interval_of_a_gain_is_over_groups(tmp_path: Path) -> None:
    found = out_of_fold.read(write(tmp_path, speckled=False), range(FOLDS))
    asked = tune_settings(**AUTO)
    added = np.random.default_rng(0).random((12, 1))
    gain = repairs.decide(found, asked, "close", (2,), added)
    drawn = resample_groups(added[:, 0], found.groups, asked.bootstrap, asked.seed)
    assert (gain.honest_low, gain.honest_high) == interval(drawn)


def test_what_a_size_that_is_set_costs_is_told(tmp_path: Path) -> None:
    found = out_of_fold.read(write(tmp_path, speckled=False), range(FOLDS))
    lost = np.full((12, 1), -0.1)
    gain = repairs.decide(found, tune_settings(fill_holes=50), "fill_holes", (50,), lost)
    assert gain.accepted and gain.honest_gain == pytest.approx(-0.1) and gain.honest_high < 0


def test_what_gains_everywhere_is_accepted_and_scored(tmp_path: Path) -> None:
    paths = write(tmp_path, speckled=True)
    plain = run(paths)
    found = run(paths, **AUTO)
    result = found.result
    assert result.clean_up.drop_specks > 0 and result.clean_up.fill_holes == 0
    assert result.repairs["drop_specks"].accepted and not result.repairs["close"].accepted
    gain = result.repairs["drop_specks"]
    assert 0 < gain.honest_low <= gain.honest_gain <= gain.honest_high
    assert result.dice == pytest.approx(plain.result.dice + gain.gain, abs=1e-12)
    assert result.gain == pytest.approx(result.threshold_gain + gain.gain, abs=1e-12)
    for name in ("threshold_gain", "threshold_gain_low", "threshold_gain_high"):
        assert getattr(result, name) == getattr(plain.result, name), "of the threshold alone"
    at_level = plain.curve["dice"][result.level]
    assert at_level == pytest.approx(result.dice_at_half + result.threshold_gain, abs=1e-12)
    assert "clean-up drop_specks" in found.line and "is made" in found.line
    assert plain.result.repairs == {} and plain.result.clean_up == CleanUp()


def test_the_dice_told_is_the_score_of_the_masks_as_text(tmp_path: Path) -> None:
    """DESIGN: what is tuned is exactly what is submitted, the repairs included."""
    paths = write(tmp_path, speckled=True)
    for tuned in (run(paths, **AUTO), run(paths), run(paths, fill_holes=40, close=2)):
        tune.write(paths, tuned, True)
        decision = Decision.read(paths.metrics)
        scores = []
        for fold in range(FOLDS):
            rows = samples.held_out(samples.read(paths.samples), fold)
            for row, image in zip(rows, judge.open_levels(paths, fold, rows).images(), strict=True):
                text = rle.encode(decision.mask(image.levels(), row.size))
                truth = truth_of(int(row.group)) > 0
                scores.append(dice(rle.decode(text, *row.size), truth))
        assert tuned.result.dice == pytest.approx(np.mean(scores), abs=1e-12)
        assert tuned.images["dice"].tolist() == scores


def test_a_gain_on_one_fold_alone_is_no_reason(tmp_path: Path) -> None:
    """Chosen where it helps, it is judged on the folds that did not choose it."""
    paths = write(tmp_path, speckled=False, fold_of_specks=1)
    found = run(paths, **AUTO).result
    gain = found.repairs["drop_specks"]
    assert gain.gain > 0 and not gain.accepted, "it gains on the images that ask for it"
    assert gain.honest_low <= 0
    assert gain.honest_gain == 0, "the folds that choose for it see no gain"
    assert found.clean_up == CleanUp()


def test_a_size_that_is_set_is_used_whatever_it_brings(tmp_path: Path) -> None:
    found = run(write(tmp_path, speckled=False), fill_holes=50, keep_largest=True).result
    assert found.clean_up == CleanUp(keep_largest=True, fill_holes=50)
    assert found.repairs["fill_holes"].gain == 0 and found.repairs["fill_holes"].accepted


def test_one_fold_cannot_tell(tmp_path: Path) -> None:
    paths = write(tmp_path, speckled=True)
    found, asked = out_of_fold.read(paths, [0]), tune_settings(**AUTO)
    level = tune.choose_level(found, asked)
    choice = repairs.choose(found, paths, asked, level)
    assert choice.clean_up == CleanUp() and choice.counts is None
    assert choice.gains["drop_specks"].honest_gain is None
    assert choice.gains["drop_specks"].gain > 0


def test_pictures_and_scores_come_from_what_was_kept(tmp_path: Path) -> None:
    paths = write(tmp_path, speckled=True)
    rows = samples.held_out(samples.read(paths.samples), 0)
    settings = Validate(tta="none", worst=0, random=0)
    before = out_of_fold.read(paths, [0])
    paths.counts(0).unlink()
    judge.judge_fold(paths, 0, rows, 1, settings, "the epoch")
    after = out_of_fold.read(paths, [0])
    np.testing.assert_array_equal(after.counts, before.counts)
    assert after.choices == "the epoch"
    assert tune.score_masks(after, tune_settings(), 128).choices == "the epoch"


def test_a_fold_s_size_is_chosen_without_it(tmp_path: Path) -> None:
    """Fold 0 alone gains much from the first size, the others a little from the second."""
    found = out_of_fold.read(write(tmp_path, speckled=False), range(FOLDS))
    added = np.zeros((12, 3))
    added[found.folds == 0, 0], added[found.folds != 0, 1] = 0.9, 0.01
    gain = repairs.decide(found, tune_settings(**AUTO), "drop_specks", (10, 50, 200), added)
    assert gain.size == 10 and gain.gain == pytest.approx(0.3)
    # Folds 1 and 2 take what fold 0 likes, and fold 0 what they like: all gain nothing.
    assert gain.honest_gain == 0 and not gain.accepted
