"""Charts show all that they are given, and results say what follows from the counts."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.data.samples import Sample
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.report import charts, page
from pipeline.report.results import Results


def history(dice: list[float], loss: list[float] | None = None) -> pd.DataFrame:
    epochs = range(1, len(dice) + 1)
    return pd.DataFrame({"epoch": epochs, "dice": dice, "loss": loss or [0.1] * len(dice)})


def marks(svg: str) -> list[tuple[float, float]]:
    """Where the markers of lines are drawn; those of axes are not among them."""
    drawn = re.findall(r"<g clip-path[^>]*>((?:\s*<use [^>]*/>)+)", svg)
    found = re.findall(r'x="([-\d.]+)" y="([-\d.]+)"', "".join(drawn))
    return [(float(x), float(y)) for x, y in found]


def inside(svg: str) -> tuple[int, int]:
    """How many markers of lines a chart holds, and how many of them lie within its axes."""
    clip = re.search(
        r'<clipPath.*?<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg, re.S
    )
    assert clip is not None
    left, top, width, height = (float(value) for value in clip.groups())
    within = [left <= x <= left + width and top <= y <= top + height for x, y in marks(svg)]
    return len(within), sum(within)


def ticks(svg: str) -> list[float]:
    return [float(text) for text in re.findall(r">(0\.\d+|0|1)</text>", svg)]


@pytest.mark.parametrize(
    "dice",
    [[0.9, 0.02, 0.97, 0.98], [0.0, 0.5, 1.0], [0.99612, 0.99613, 0.99614], [0.7] * 3, [1.0]],
)
def test_no_epoch_is_cut_off(dice: list[float]) -> None:
    svg = charts.held_out_dice({0: history(dice), 1: history(dice[::-1])})
    assert inside(svg) == (2 * len(dice), 2 * len(dice))
    assert len(set(ticks(svg))) >= 2, "an axis that can be read"


def test_a_crash_does_not_flatten_what_is_near_one() -> None:
    """0.996 and 0.998 stay apart beside an epoch of 0.2."""
    svg = charts.held_out_dice({0: history([0.2, 0.996, 0.998])})
    crash, before, after = (y for _, y in marks(svg))
    assert before - after > 0.08 * (crash - after)


def test_a_loss_is_drawn_where_it_was_measured() -> None:
    measured = history([0.9] * 5).assign(held_out_loss=[0.5, np.nan, 0.3, np.nan, 0.4])
    svg = charts.by_epoch({0: measured, 1: measured}, "held_out_loss", "loss")
    assert inside(svg) == (6, 6), "three epochs of two folds, all within the axes"
    first, second, third = (y for _, y in marks(svg)[:3])
    assert first < third < second, "downwards on the page"


def in_bars(svg: str) -> int:
    """How many images the bars of a histogram stand for, if the lowest is one image high."""
    bars = re.findall(
        r"<path d=\"M [\d.]+ ([\d.]+) \nL [\d.]+ \1 \nL [\d.]+ ([\d.]+)[^>]*clip-path[^>]*series-1",
        svg,
    )
    heights = [float(bottom) - float(top) for bottom, top in bars]
    unit = min(height for height in heights if height > 1)
    return sum(round(height / unit) for height in heights)


def test_every_image_is_in_a_bar() -> None:
    dice = np.array([0.0, 0.5, 0.97, 0.98, 0.985, 0.99, 1.0, 1.0])
    assert in_bars(charts.histogram(dice)) == 8
    assert in_bars(charts.boundary(np.array([0.0, 0.8, 0.9, 1.3, 1.31, 2.0, 2300.0]))) == 7
    for equal in (np.ones(3), np.full(3, 0.7)):
        assert in_bars(charts.histogram(equal)) == 1  # one bar
        assert in_bars(charts.boundary(equal)) == 1


def test_rows_are_called_by_name() -> None:
    table = pd.DataFrame({"group": ["a long name that no chart has room for", "b"],
                          "dice": [0.9, 0.95], "worst": [0.3, 0.94]})  # fmt: skip
    svg = charts.means_and_worst(table, "group")
    assert ">a long …room for<" in svg and ">b<" in svg
    assert inside(svg) == (4, 4)


# --- what follows from the counts


def results(counts: np.ndarray, folds: list[int], level: int = 128) -> Results:
    rows = [
        Sample(f"i{n}", "train", f"g{n}", "a!b", "c!d", fold, 10, 10, 0.5)
        for n, fold in enumerate(folds)
    ]
    return Results(
        recipe="tiny", settings={}, metrics={"level": level}, tables={}, trainings=[],
        samples=rows, held_out=OutOfFold(rows, counts, []),
    )  # fmt: skip


def counted(pixels: list[tuple[int, int, int]]) -> np.ndarray:
    """Counts of one image: (truth, level, how many pixels)."""
    found = np.zeros((2, 256), np.int64)
    for truth, level, number in pixels:
        found[truth, level] += number
    return found


def test_precision_and_recall_are_at_the_threshold() -> None:
    one = counted([(1, 200, 30), (1, 130, 10), (0, 200, 20), (0, 0, 40)])
    nothing = counted([(0, 0, 100)])
    counts = np.stack([one, nothing])
    precision, recall = results(counts, [0, 0]).precision_and_recall()
    assert precision.tolist() == [40 / 60, 1] and recall.tolist() == [1, 1]
    precision, recall = results(counts, [0, 0], level=131).precision_and_recall()
    assert precision.tolist() == [30 / 50, 1] and recall.tolist() == [0.75, 1]


def test_calibration_is_the_share_of_foreground_by_probability() -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, 200_000)
    honest = generator.random(200_000) < (levels + 0.5) / 256
    counts = np.stack([np.bincount(levels[honest == truth], minlength=256) for truth in (0, 1)])
    table = results(counts[None], [0]).calibration()
    assert len(table) == 16 and table["pixels"].sum() == 200_000
    np.testing.assert_allclose(table["observed"], table["probability"], atol=0.02)
    boastful = np.stack([counts.sum(axis=0), np.zeros(256, np.int64)])
    assert (results(boastful[None], [0]).calibration()["observed"] == 0).all()


def test_a_wrong_mask_is_suspected_and_a_weak_fold_is_not() -> None:
    generator = np.random.default_rng(0)

    def image(wrong: int, unsure: int) -> np.ndarray:
        return counted(
            [(1, 250, 5000), (0, 2, 9000), (0, 251, wrong), (1, 1, wrong), (1, 100, unsure)]
        )

    good = [image(int(generator.integers(0, 10)), 50) for _ in range(20)]
    weak = [image(int(generator.integers(150, 250)), 900) for _ in range(20)]
    folds = [0] * 20 + [1] * 20
    assert results(np.stack(good + weak), folds).suspects() == []
    unsure = [*good[:19], image(5, 3000)]  # bad, but it knows
    assert results(np.stack(unsure + weak), folds).suspects() == []
    mislabelled = [*good[:19], counted([(1, 250, 4000), (0, 2, 9000), (0, 252, 700)])]
    (one,) = results(np.stack(mislabelled + weak), folds).suspects()
    assert (one.sample_id, one.fold, one.lacking) == ("i19", 0, 0)
    assert one.extra == pytest.approx(700 / 4000)


def test_a_gain_that_one_fold_cannot_check_is_not_called_checked() -> None:
    gain = {"gain": 0.002, "honest_gain": None, "accepted": False}
    assert page._clean_up({"fill_holes": gain}) == (
        "none", "what each adds, chosen on these same images: fill holes: +0.00200",
    )  # fmt: skip
    checked = gain | {"honest_gain": 0.001, "accepted": True}
    assert page._clean_up({"fill_holes": checked}) == (
        "fill holes", "what each adds, judged on other folds: fill holes: +0.00100",
    )  # fmt: skip
