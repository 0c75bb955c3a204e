"""The report's page: what stands on it, filled into a template with its style and script inside."""

import dataclasses
import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.paths import LEDGER
from pipeline.report import charts
from pipeline.report.gallery import Card
from pipeline.report.results import Results
from pipeline.report.sanity import Finding, ViewShare
from pipeline.support import pages, workspace
from pipeline.support.pictures import CLASS_COLORS

_TEMPLATES = Path(__file__).parent / "templates"
_GROUPS = 10  # in the table
_SMALL = 5e-6  # a difference of scores that five digits do not show


@dataclasses.dataclass(frozen=True)
class TestImage:
    """A test image on the page: why it is there, and a JPEG with its mask's outline, if any."""

    name: str
    reasons: Sequence[str]
    picture: bytes


@dataclasses.dataclass(frozen=True)
class Submission:
    """What was found in the submission.

    `findings` are all images that deserve a look, `kinds` how many of each kind, `views` the
    shares of foreground in both sets; `listed`, `drawn` and `asked` are shown as pictures.
    """

    rows: int
    findings: Sequence[Finding]
    kinds: Mapping[str, int]
    views: Sequence[ViewShare]
    listed: Sequence[TestImage]
    drawn: Sequence[TestImage]
    asked: Sequence[TestImage]


def render(results: Results, cards: Sequence[Card], submission: Submission | None) -> str:
    """Return the page, as HTML.

    Text is escaped; charts (SVG of our own making) are not. A value that the template does not
    get is an error.
    """
    environment = pages.environment(_TEMPLATES)
    environment.filters["score"] = lambda value: f"{value:.5f}"
    environment.filters["signed"] = _signed
    environment.filters["jpeg"] = lambda data: pages.data_uri(data, "jpeg")
    return environment.get_template("report.html").render(
        recipe=results.recipe,
        several=results.several_classes,
        class_colors=_class_colors(results),
        metrics=results.metrics,
        tiles=_tiles(results, submission),
        charts=_charts(results, submission),
        tables={name: table.to_dict("records") for name, table in results.tables.items()},
        worst_groups=results.tables["groups"].sort_values("dice")[:_GROUPS].to_dict("records"),
        trainings=_training_table(results),
        suspects=None if results.several_classes else results.suspects(),
        cards=cards,
        shown={card.sample_id for card in cards},
        most_names=charts.ROWS,
        submission=submission,
        settings=results.settings,
        origin=_origin(),
    )


def _class_colors(results: Results) -> list[tuple[str, str]]:
    """The color that pictures show each of several classes in, but the first."""
    names = list(results.metrics["classes"])[1:] if results.several_classes else []
    return [(name, f"rgb{CLASS_COLORS[i % len(CLASS_COLORS)]}") for i, name in enumerate(names)]


def _tiles(results: Results, submission: Submission | None) -> list[tuple[str, str, str]]:
    """The figures at the top: what, how much, and a note; always an even number."""
    metrics = results.metrics

    def between(name: str, show: Any = "{:.5f}".format) -> str:
        low, high = (show(metrics[f"{name}_{end}"]) for end in ("low", "high"))
        return f"{low} to {high} (95\N{NO-BREAK SPACE}%)"

    if results.several_classes:
        tiles = [
            ("Accuracy", f"{metrics['accuracy']:.5f}", between("accuracy")),
            (f"Always {metrics['majority']}", f"{metrics['majority_accuracy']:.5f}",
             "accuracy of answering the commonest class everywhere"),
            ("Mean IoU", f"{metrics['iou']:.5f}", between("iou")),
            ("Worst image", f"{metrics['worst']:.5f}", "mean Dice of its classes"),
        ]  # fmt: skip
    else:
        made = any(one["accepted"] for one in metrics["repairs"].values())
        repaired = ", with repairs" if made else ""
        precision, recall = (float(one.mean()) for one in results.precision_and_recall())
        honest = metrics["honest_gain"]
        chosen = "needs two folds to be checked" if honest is None else (
            f"chosen on the other folds: {_difference(honest)}"
        )  # fmt: skip
        tiles = [
            ("Threshold", f"{metrics['threshold']:.4f}",
             f"the best lies from {between('threshold', '{:.3f}'.format)}"),
            ("Against 0.5" + repaired,
             _difference(metrics["gain"], metrics["gain_low"], metrics["gain_high"]),
             f"{between('gain', _signed)}; {chosen}"),
            ("Clean-up", *_clean_up(metrics["repairs"])),
            ("Worst image", f"{metrics['worst']:.5f}",
             f"Dice at 0.5 over all: {metrics['dice_at_half']:.5f}"),
            ("Precision", f"{precision:.5f}", "of what is predicted, the share that is true"),
            ("Recall", f"{recall:.5f}", "of what is true, the share that is predicted"),
            ("Boundary", f"{np.median(_distances(results)):.2f} pixels",
             "from the true one, in the median image, at 0.5; at the threshold accuracy "
             f"{metrics['accuracy']:.5f}, IoU {metrics['iou']:.5f}"),
        ]  # fmt: skip
        tiles.append(_submitted_tile(submission))
    return tiles


def _clean_up(repairs: dict[str, Any]) -> tuple[str, str]:
    """The repairs that masks get, and what each that was tried adds to the Dice."""
    if not repairs:
        return "none", "no repair of masks was tried"
    names = {name: name.replace("_", " ") for name in repairs}
    made = [names[name] for name, one in repairs.items() if one["accepted"]]
    each = [
        f"{names[name]}: "
        + _difference(one["gain"] if one["honest_gain"] is None else one["honest_gain"])
        for name, one in repairs.items()
    ]
    nested = all(one["honest_gain"] is not None for one in repairs.values())
    where = "judged on other folds" if nested else "chosen on these same images"
    return ", ".join(made) or "none", f"what each adds, {where}: {', '.join(each)}"


def _submitted_tile(submission: Submission | None) -> tuple[str, str, str]:
    if submission is None:
        return "Submission", "none", "this data set has no test images"
    of = f"of {submission.rows:,} submitted masks"
    if not submission.findings:
        return "To look at", "nothing", f"{of} none is unusual"
    return "To look at", f"{len(submission.findings):,}", f"{of}, see Submission"


def _difference(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of scores as a headline: in words where there is none to speak of."""
    unsure = low is not None and high is not None and low <= 0 <= high
    return "no difference" if unsure or abs(value) < _SMALL else _signed(value)


def _signed(value: float) -> str:
    """A difference of scores with five digits and a real minus sign; 0 has no sign."""
    if abs(value) < _SMALL:
        return "0"
    return f"{value:+.5f}".replace("-", "\N{MINUS SIGN}")


def _charts(results: Results, submission: Submission | None) -> dict[str, str]:
    tables, histories = results.tables, {one.fold: one.history for one in results.trainings}
    drawn = {
        "histogram": charts.histogram(tables["images"]["dice"].to_numpy()),
        "groups": charts.means_and_worst(
            tables["groups"].sort_values("dice")[: charts.ROWS], "group"
        ),
    }
    if histories:  # a blend trains nothing
        drawn["losses"] = charts.by_epoch(histories, "loss", "loss")
        drawn["dice"] = charts.held_out_dice(histories)
    if histories and all("held_out_loss" in history for history in histories.values()):
        drawn["held_out_losses"] = charts.by_epoch(histories, "held_out_loss", "loss")
    if histories and all("training_accuracy" in history for history in histories.values()):
        drawn["accuracy"] = charts.by_epoch(histories, "training_accuracy", "accuracy")
        drawn["held_out_accuracy"] = charts.by_epoch(histories, "pixel_accuracy", "accuracy")
    if len(tables["views"]):
        drawn["views"] = charts.means_and_worst(tables["views"], "view")
    if not results.several_classes:
        drawn["thresholds"] = charts.thresholds(tables["thresholds"], results.metrics)
        drawn["near"] = charts.near_best(tables["thresholds"], results.metrics)
        drawn["calibration"] = charts.calibration(results.calibration())
        drawn["boundary"] = charts.boundary(_distances(results))
        drawn["precision"] = charts.precision_and_recall(*results.precision_and_recall())
    if submission and len(submission.views) > 1:
        views = pd.DataFrame([dataclasses.asdict(view) for view in submission.views])
        drawn["shares"] = charts.shares(views)
    return drawn


def _distances(results: Results) -> NDArray[np.float64]:
    """How far each image's predicted boundary at 0.5 lies from the true one, in pixels."""
    return np.array([one.boundary for one in results.held_out.measures])


def _training_table(results: Results) -> list[dict[str, Any]]:
    """One row a fold: epochs, speed, and every plain value of its metrics."""
    return [
        {"fold": one.fold, "epochs": len(one.history)}
        | {key: value for key, value in one.metrics.items() if isinstance(value, int | float | str)}
        | {"images_per_second": float(one.history["images_per_second"].median())}
        for one in results.trainings
    ]


def _origin() -> Mapping[str, str]:
    """When, from which code and on which machine the page is written."""
    facts = {
        "Written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Git commit": workspace.commit(apart_from=LEDGER) or "no git here",
        "System": platform.platform(),
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
    }
    memory = Path("/proc/meminfo")
    if memory.exists():
        kilobytes = int(memory.read_text().split("MemTotal:")[1].split()[0])
        facts["Memory"] = f"{kilobytes / 2**20:.0f} GiB"
    return {**facts, "Python": platform.python_version()}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
