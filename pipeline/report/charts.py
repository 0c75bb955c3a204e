"""Charts as SVG text that takes the colors of the page it stands in.

matplotlib draws with stand-in colors, which become CSS variables: one chart serves light
and dark pages. Letters stay text in the page's own font: a tenth of the size of outlines,
and found by search and by screen readers.
"""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_INK, _GRID = "#010203", "#040506"
_SERIES = ("#0a0101", "#0a0102", "#0a0103", "#0a0104", "#0a0105")
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
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


def losses(histories: Mapping[int, pd.DataFrame]) -> str:
    """Training loss by epoch, a line a fold; columns `epoch` and `loss`."""
    with _style("losses"):
        axes = _axes()
        _lines(axes, histories, "loss")
        axes.set_ylabel("loss")
        axes.legend(loc="upper right")
        return _svg(axes)


def held_out_dice(histories: Mapping[int, pd.DataFrame]) -> str:
    """Held-out Dice by epoch, a line a fold; columns `epoch` and `dice`."""
    with _style("dice"):
        axes = _axes()
        _lines(axes, histories, "dice")
        axes.set_ylabel("Dice")
        # The first epochs are far below: they would press all that follows into one line.
        best = max(float(history["dice"].max()) for history in histories.values())
        low = min(float(history["dice"].quantile(0.25)) for history in histories.values())
        axes.set_ylim(low - 0.2 * (best - low) - 1e-4, best + 0.08 * (best - low) + 1e-4)
        axes.legend(loc="lower right")
        return _svg(axes)


def _lines(axes: Axes, histories: Mapping[int, pd.DataFrame], column: str) -> None:
    for i, (fold, history) in enumerate(histories.items()):
        axes.plot(
            history["epoch"], history[column], color=_SERIES[i % len(_SERIES)],
            linestyle=_DASHES[i % len(_DASHES)], label=f"fold {fold}", marker="o", markersize=3,
        )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def views(table: pd.DataFrame) -> str:
    """Mean and worst Dice of each view; columns `view`, `dice`, `worst`."""
    with _style("views"):
        axes = _axes()
        _mean_and_worst(axes, table, np.arange(len(table)))
        axes.set_xticks(np.arange(len(table)), table["view"])
        axes.set_xlabel("view")
        return _svg(axes)


def groups(table: pd.DataFrame) -> str:
    """Mean and worst Dice of each group, ascending by mean; columns `dice`, `worst`."""
    with _style("groups"):
        axes = _axes()
        _mean_and_worst(axes, table.sort_values("dice"), np.arange(1, len(table) + 1))
        axes.set_xlabel("rank, the worst first")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return _svg(axes)


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


def _mean_and_worst(axes: Axes, table: pd.DataFrame, places: np.ndarray) -> None:
    axes.vlines(places, table["worst"], table["dice"], color=_GRID, linewidth=1.5)
    size = 6 if len(table) < 40 else 3
    axes.plot(places, table["dice"], "o", color=_SERIES[0], markersize=size, label="mean")
    axes.plot(places, table["worst"], "v", color=_SERIES[1], markersize=size, label="worst image")
    axes.set_ylabel("Dice")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower right", ncols=2)


def _style(name: str) -> AbstractContextManager[None]:
    """The settings of one chart, whose name keeps its SVG's names apart from other charts'."""
    return mpl.rc_context({**_STYLE, "svg.hashsalt": name})


def _axes() -> Axes:
    # In points at 72 an inch this is about as wide as a phone, so letters stay readable there.
    return Figure(figsize=(5.0, 3.3), layout="constrained").subplots()


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
