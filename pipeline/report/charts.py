"""Charts as SVG text that takes the colors of the page it stands in.

matplotlib draws with stand-in colors, which become CSS variables: one chart serves light
and dark pages. Letters stay text in the page's own font: a tenth of the size of outlines,
and found by search and by screen readers.
"""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_INK, _GRID = "#010203", "#040506"
_SERIES = ("#0a0101", "#0a0102", "#0a0103", "#0a0104", "#0a0105")
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)))
ROWS = 20  # groups in a chart: more names than these cannot be read
_BARS = 24
_NEAREST = 0.02  # pixels: what is nearer is drawn as far
_PERFECT = 1e-5  # added to 1 - Dice, so that a Dice of 1 has a place on an axis
_TICKS = (0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.997, 0.998, 0.999, 0.9995, 1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a group may be called cost_$5_$6
    "font.size": 11.0,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def thresholds(curve: pd.DataFrame, metrics: Mapping[str, float]) -> str:
    """Mean Dice at all thresholds; see `near_best`."""
    with _style("thresholds"):
        axes = _axes()
        _curve(axes, curve, metrics)
        axes.set_xlim(0, 1)
        return _svg(axes)


def near_best(curve: pd.DataFrame, metrics: Mapping[str, float]) -> str:
    """Mean Dice around the best threshold, with the 95 % interval of where the best one lies.

    Args:
        curve: columns `threshold` and `dice`.
        metrics: as `metrics.json` of the tune stage has them.
    """
    with _style("near"):
        axes = _axes()
        _curve(axes, curve, metrics)
        chosen = metrics["threshold"]
        ends = (metrics["threshold_low"], metrics["threshold_high"], 0.5)
        reach = max(0.05, 1.3 * max(abs(end - chosen) for end in ends))
        left, right = max(0.0, chosen - reach), min(1.0, chosen + reach)
        inside = curve["dice"][curve["threshold"].between(left, right)]
        room = max(1e-6, 0.08 * float(inside.max() - inside.min()))
        axes.axvline(0.5, color=_INK, linestyle=":", linewidth=1)
        axes.set_xlim(left, right)
        axes.set_ylim(float(inside.min()) - room, float(inside.max()) + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        return _svg(axes)


def _curve(axes: Axes, curve: pd.DataFrame, metrics: Mapping[str, float]) -> None:
    low, high = metrics["threshold_low"], metrics["threshold_high"]
    axes.axvspan(low, high, color=_SERIES[1], alpha=0.2, linewidth=0)
    axes.plot(curve["threshold"], curve["dice"], color=_SERIES[0])
    axes.axvline(metrics["threshold"], color=_SERIES[1])
    axes.set_xlabel("threshold")
    axes.set_ylabel("mean Dice")


def by_epoch(histories: Mapping[int, pd.DataFrame], column: str, label: str) -> str:
    """A `column` beside the column `epoch`, a line a fold."""
    with _style(column):
        axes = _axes()
        _lines(axes, histories, column)
        axes.set_ylabel(label)
        axes.legend()
        return _svg(axes)


def held_out_dice(histories: Mapping[int, pd.DataFrame]) -> str:
    """Held-out Dice by epoch, a line a fold; columns `epoch` and `dice`. No epoch is cut off."""
    with _style("dice"):
        axes = _axes()
        _lines(axes, histories, "dice")
        axes.set_ylabel("Dice")
        values = np.concatenate([history["dice"].dropna() for history in histories.values()])
        _stretch(axes, "y", values)
        axes.legend(loc="lower right")
        return _svg(axes)


def _lines(axes: Axes, histories: Mapping[int, pd.DataFrame], column: str) -> None:
    for i, (fold, history) in enumerate(histories.items()):
        history = history.dropna(subset=[column])  # epochs that were not scored
        axes.plot(
            history["epoch"], history[column], color=_SERIES[i % len(_SERIES)],
            linestyle=_DASHES[i % len(_DASHES)], label=f"fold {fold}", marker="o", markersize=3,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def histogram(dice: NDArray[np.float64]) -> str:
    """How many images have which Dice."""
    with _style("histogram"):
        axes = _axes()
        low, high = _stretch(axes, "x", dice)
        edges = _unstretched(np.linspace(_stretched(low), _stretched(high), _BARS + 1))
        # Rounded ends would leave out the worst and the best image.
        counts, _ = np.histogram(np.clip(dice, edges[0], edges[-1]), edges)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_SERIES[0])
        axes.set_xlabel("Dice")
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
        return _svg(axes)


def precision_and_recall(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> str:
    """A point an image; above the diagonal masks are too small, below it too large."""
    with _style("precision"):
        axes = _axes()
        axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1.5, scalex=False, scaley=False)
        size = 3 if len(precision) < 500 else 1
        axes.plot(recall, precision, "o", color=_SERIES[0], markersize=size, alpha=0.6)
        both = np.concatenate([precision, recall])
        _stretch(axes, "x", both)
        _stretch(axes, "y", both)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        return _svg(axes)


def boundary(distances: NDArray[np.float64]) -> str:
    """How many images have which mean distance of the predicted boundary, in pixels.

    The axis is logarithmic: usual distances differ by factors, and one lost mask is far away.
    """
    with _style("boundary"):
        axes = _axes()
        found = np.maximum(distances, _NEAREST)
        low, high = found.min() / 1.1, found.max() * 1.1
        counts, edges = np.histogram(found, np.geomspace(low, high, _BARS + 1))
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_SERIES[0])
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        steps = [step * 10.0**power for power in range(-2, 5) for step in (1, 2, 5)]
        ticks = [tick for tick in steps if low <= tick <= high] or [
            float(np.median(found).round(2))
        ]
        axes.set_xticks(ticks[:: 1 + len(ticks) // 7], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("mean distance, pixels")
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
        return _svg(axes)


def calibration(table: pd.DataFrame) -> str:
    """What share of pixels is foreground, by probability; columns `probability`, `observed`."""
    with _style("calibration"):
        axes = _axes()
        axes.plot([0, 1], [0, 1], color=_INK, linestyle=":", linewidth=1)
        axes.plot(table["probability"], table["observed"], "o-", color=_SERIES[0], markersize=4)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("probability")
        axes.set_ylabel("share of foreground")
        return _svg(axes)


def means_and_worst(table: pd.DataFrame, name: str) -> str:
    """Mean and worst Dice of each row, by name; columns `name`, `dice`, `worst`."""
    with _style(name):
        places = np.arange(len(table))
        axes = _axes(height=1.1 + 0.24 * len(table))
        axes.hlines(places, table["worst"], table["dice"], color=_GRID, linewidth=1.5)
        axes.plot(table["dice"], places, "o", color=_SERIES[0], markersize=5, label="mean")
        axes.plot(table["worst"], places, "<", color=_SERIES[1], markersize=5, label="worst image")
        _stretch(axes, "x", table[["dice", "worst"]].to_numpy().ravel())
        axes.set_yticks(places, [_short(str(one)) for one in table[name]])
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_xlabel("Dice")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        return _svg(axes)


def _short(name: str) -> str:
    """A name that fits beside a chart; its beginning and its end tell it from others."""
    return name if len(name) <= 16 else f"{name[:7]}\N{HORIZONTAL ELLIPSIS}{name[-8:]}"


def shares(table: pd.DataFrame) -> str:
    """Share of foreground by view in both sets; columns `view`, `training`, `test`."""
    with _style("shares"):
        axes = _axes()
        places = np.arange(len(table))
        axes.plot(places, 100 * table["training"], "o", color=_SERIES[0], label="training masks")
        axes.plot(places, 100 * table["test"], "x", color=_SERIES[1], label="submission")
        axes.set_xticks(places, table["view"])
        axes.set_xlabel("view")
        axes.set_ylabel("foreground, %")
        axes.legend(loc="best")
        return _svg(axes)


def _stretch(
    axes: Axes, which: Literal["x", "y"], dice: NDArray[np.float64]
) -> tuple[float, float]:
    """Let an axis of Dice show all of its values, and differences near 1 as well as far from it.

    Equal steps are equal factors of 1 - Dice: a crash to 0.3 and a rise from 0.996 to 0.997 are
    both seen. Returns the limits.
    """
    ends = _stretched(np.array([dice.min(), dice.max()]))
    room = max(0.05, 0.06 * float(ends[1] - ends[0]))
    low, high = (float(end) for end in _unstretched(ends + [-room, room]))
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    while len(ticks) > 6:
        ticks = ticks[::2] if len(ticks) % 2 else ticks[1::2]
    if len(ticks) < 2:
        ticks = list(_unstretched(np.linspace(ends[0], ends[1], 3)).round(5))
    if which == "x":
        axes.set_xscale("function", functions=(_stretched, _unstretched))
        axes.set_xlim(low, high)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    else:
        axes.set_yscale("function", functions=(_stretched, _unstretched))
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    return low, high


def _stretched(dice: Any) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(dice, float), 0) + _PERFECT)


def _unstretched(place: Any) -> Any:
    return np.minimum(1 - (10.0 ** -np.asarray(place, float) - _PERFECT), 1)


def _style(name: str) -> AbstractContextManager[None]:
    """The settings of one chart, whose name keeps its SVG's names apart from other charts'."""
    return mpl.rc_context({**_STYLE, "svg.hashsalt": name})


def _axes(height: float = 3.3) -> Axes:
    # In points at 72 an inch this is about as wide as a phone, so letters stay readable there.
    return Figure(figsize=(5.0, height), layout="constrained").subplots()


def _svg(axes: Axes) -> str:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # names that several charts share
    text = re.sub(r" font-family: [^;\"]*;", "", text)  # the page's own
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)  # would style the page
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = text.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    for number, color in enumerate(_SERIES, start=1):
        text = text.replace(color, f"var(--series-{number})")
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
