"""Stage `report`: one page about a recipe's results, and a list of what to look at.

The page is a single file that asks nothing of the network. The submission is read, never
changed.
"""

import base64
import collections
import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import Archives, base_name
from pipeline.data.images import decode_image
from pipeline.data.samples import Sample
from pipeline.evaluation import measures
from pipeline.masks import rle
from pipeline.paths import LEDGER, Paths
from pipeline.recipe.schema import Recipe
from pipeline.report import charts, computer, page, sanity
from pipeline.report.sanity import Finding
from pipeline.support import files, pictures, workspace
from pipeline.support.errors import UserError
from pipeline.support.pictures import Layers, Picture, encode_webp, outline

_WORST, _RANDOM = 76, 24  # out-of-fold images on the page: at most 100
_FINDINGS = 24  # of the submission's images, shown with pictures
_FINDING_WIDTH, _QUALITY = 480, 60  # pixels; of WebP


def report(
    name: str,
    settings: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, Any],
    runs: Mapping[int, tuple[Mapping[str, Any], pd.DataFrame]],
    pictures: Sequence[Picture],
    submitted: Mapping[str, Any] | None,
    facts: Mapping[str, str],
) -> str:
    """Return the page, as HTML.

    Args:
        name, settings: of the recipe.
        tables: those of the tune stage: `thresholds`, `images`, `folds`, `views`, `groups`.
        metrics: the tune stage's.
        runs: a fold's metrics and history, by fold.
        pictures: of out-of-fold predictions.
        submitted: what `_look` found in the submission, None without test images.
        facts: date, commit and machine, printed unchanged.
    """
    histories = {fold: history for fold, (_, history) in runs.items()}
    drawn = {
        "losses": charts.losses(histories),
        "dice": charts.held_out_dice(histories),
        "groups": charts.groups(tables["groups"]),
        "views": charts.views(tables["views"]) if len(tables["views"]) else "",
    }
    if metrics["threshold"] is not None:  # several classes have none
        drawn["thresholds"] = charts.thresholds(tables["thresholds"], metrics)
        drawn["near"] = charts.near_best(tables["thresholds"], metrics)
    return page.render(
        recipe=name,
        metrics=metrics,
        charts=drawn,
        tables={key: table.to_dict("records") for key, table in tables.items()},
        runs=_training_table(runs),
        cards=_cards(pictures, tables["images"]),
        submitted=submitted,
        settings=yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None),
        facts=facts,
    )


def _training_table(
    runs: Mapping[int, tuple[Mapping[str, Any], pd.DataFrame]],
) -> list[dict[str, Any]]:
    """One row a fold: epochs, speed, and every plain value of its metrics."""
    return [
        {"fold": fold, "epochs": len(history)}
        | {key: value for key, value in metrics.items() if isinstance(value, int | float | str)}
        | {"images_per_second": float(history["images_per_second"].median())}
        for fold, (metrics, history) in runs.items()
    ]


def _cards(pictures: Sequence[Picture], images: pd.DataFrame) -> list[dict[str, Any]]:
    """The gallery: of all folds' pictures the worst, and some that were drawn at random."""
    rows = images.set_index("sample_id").to_dict("index")

    def by_dice(some: Sequence[Picture]) -> list[Picture]:
        return sorted(some, key=lambda one: (rows[one.sample_id]["dice"], one.sample_id))

    worst = by_dice([one for one in pictures if one.kind == "worst"])[:_WORST]
    others = [one for one in pictures if one.kind == "random"]
    drawn = np.random.default_rng(0).permutation(len(others))[:_RANDOM]  # not by their scores
    cards = []
    for one in by_dice([*worst, *(others[index] for index in drawn)]):
        row = {str(key): value for key, value in rows[one.sample_id].items()}
        layers = {"whole": _embedded(one.whole), "window": _embedded(one.window)}
        cards.append({"sample_id": one.sample_id, "kind": one.kind, **row, **layers})
    return cards


def _embedded(layers: Layers) -> dict[str, str]:
    return {
        name: _data_uri(data, "webp" if name == "photograph" else "png")
        for name, data in dataclasses.asdict(layers).items()
    }


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _look(
    folder: Path, table: Sequence[Sample], measured: Sequence[Path], archives: Archives
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Check the submission in `folder`: all findings, and what the page tells of them.

    Args:
        measured: a file a fold, of out-of-fold predictions.
    """
    test, notes = samples.test(table), sanity.read_notes(folder / "masks.csv")
    if not test:
        return [], None
    path, training = folder / "submit.csv.gz", [row for row in table if row.split == "train"]
    most_parts = max(one.parts for fold in measured for one in measures.read(fold))
    expected = sanity.usual(training, most_parts)
    findings, shares = sanity.examine(mask_rows.read_rows(path), test, notes, expected)
    views = sanity.compare_views(training, test, shares)
    shown = sanity.in_turn(findings, _FINDINGS)
    chart = ""
    if len(views) > 1:
        chart = charts.shares(pd.DataFrame([dataclasses.asdict(view) for view in views]))
    kinds = collections.Counter(reason.kind for one in findings for reason in one.reasons)
    return findings, {
        "rows": len(shares),
        "total": len(findings),
        "kinds": {kind: kinds[kind] for kind in sanity.KINDS},
        "views": views,
        "chart": chart,
        "findings": list(_shown(path, shown, archives)),
    }


def _shown(path: Path, findings: Sequence[Finding], archives: Archives) -> Iterator[dict[str, Any]]:
    """Each finding with its picture, where the image can be read."""
    wanted = {base_name(one.row.image) for one in findings}
    texts = {name: text for name, text in mask_rows.read_rows(path) if name in wanted}
    for one in findings:
        row, picture = one.row, ""
        if one.reasons[0].kind != "unreadable":
            image = decode_image(archives.read(row.image), row.size, row.image)
            mask = rle.decode(texts[base_name(row.image)], *row.size)
            drawn = encode_webp(outline(image, mask, _FINDING_WIDTH), _QUALITY)
            picture = _data_uri(drawn, "webp")
        yield {"name": base_name(row.image), "finding": one, "picture": picture}


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    try:
        return pd.read_csv(path, dtype={"sample_id": str, "group": str, "view": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the tune stage") from None


def _read_metrics(path: Path, stage: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the {stage} stage") from None
    return dict(content)


def _read_history(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; run the train stage") from None


def run(recipe: Recipe, paths: Paths, folds: Sequence[int]) -> None:
    """Write the report of one recipe."""
    sections = {
        "download": recipe.download, "split": recipe.split, "train": recipe.train,
        "validate": recipe.validate_, "tune": recipe.tune, "predict": recipe.predict,
        "runtime": recipe.runtime,
    }  # fmt: skip
    settings = {name: section.model_dump(mode="json") for name, section in sections.items()}
    names = ("thresholds", "images", "folds", "views", "groups")
    tables = {name: _read_table(paths.evaluation, name) for name in names}
    runs = {
        fold: (
            _read_metrics(paths.run_metrics(fold), "train"),
            _read_history(paths.history(fold)),
        )
        for fold in folds
    }
    drawn = [one for fold in folds for one in pictures.read(paths.gallery(fold))]
    measured = [paths.measures(fold) for fold in folds]
    table, archives = samples.read(paths.samples), Archives(paths.raw)
    findings, submitted = _look(paths.submission, table, measured, archives)
    sanity.write(paths.sanity, findings)
    facts = {
        "Written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Git commit": workspace.commit(apart_from=LEDGER) or "no git here",
        **computer.describe(),
    }
    metrics = _read_metrics(paths.metrics, "tune")
    text = report(paths.recipe, settings, tables, metrics, runs, drawn, submitted, facts)
    files.write_text(paths.report, text)
    print(
        f"{len(findings)} of {submitted['rows'] if submitted else 0} submitted images deserve a "
        f"look\nreport:     {paths.report} ({len(text) / 1e6:.1f} MB)"
    )
    if submitted:
        print(f"submission: {paths.submission_file}")
