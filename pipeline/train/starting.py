"""Weights to start from: another recipe's network of the same fold."""

from pathlib import Path

from pipeline.data import samples
from pipeline.networks import model
from pipeline.paths import Paths
from pipeline.support.errors import UserError


def find(other: str, fold: int, paths: Paths) -> Path:
    """The file of recipe `other`'s network for `fold`.

    Args:
        paths: this recipe's places; the other's are the usual ones.

    Raises:
        UserError: the file or the other recipe's samples are missing, or the other network
            has seen images that are held out here.
    """
    path = Paths.of(other).model(fold)
    if not path.exists():
        raise UserError(
            f"train.weights.init_from: found {other!r}, but {path} is missing; run "
            f"dvc repro train@{other}-{fold} first, with {other} among the recipes of params.yaml"
        )
    theirs = samples.read(Paths.of(other).samples)
    # By image too: where one of them does not split by group, its groups are single images.
    seen = {name for row in samples.training(theirs, fold) for name in (row.group, row.sample_id)}
    rows = samples.held_out(samples.read(paths.samples), fold)
    held_out = {row.group for row in rows}
    leaked = sorted({row.group for row in rows if seen & {row.group, row.sample_id}})
    if leaked:
        raise UserError(
            f"train.weights.init_from: found {other!r}, whose network of fold {fold} has been "
            f"trained on {len(leaked)} of the {len(held_out)} groups held out here, {leaked[0]} "
            f"for one; expected the same folds: give both recipes the same split section"
        )
    return path


def load(network: model.Segmenter, path: Path) -> None:
    """Give `network` the weights of another, whose input size may differ.

    Raises:
        UserError: it is of another fold or of another architecture.
    """
    theirs, ours = model.load(path), network.description
    if theirs.description.fold != ours.fold:
        raise UserError(
            f"{path}: trained without fold {theirs.description.fold}, expected fold {ours.fold}; "
            f"run the other recipe's train stage again"
        )
    try:
        network.load_state_dict(theirs.state_dict())
    except RuntimeError:
        raise UserError(
            f"{path}: found weights that do not fit this network; "
            f"give both recipes the same train.model"
        ) from None
