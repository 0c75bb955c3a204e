"""Stage `validate`: one pass of a fold's network over its held-out images, kept and judged.

The probability levels of every image are kept as those of the test set are. Everything after that
starts from what was kept: the counts from which the score at every threshold follows, pictures,
clean-ups, ensembles. None of it needs the network again.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from pipeline.data import rows as mask_rows
from pipeline.data import samples
from pipeline.data.archives import Archives
from pipeline.evaluation import judge, out_of_fold
from pipeline.levels import kept
from pipeline.networks import model
from pipeline.networks.predictor import Prediction, Predictor
from pipeline.paths import Paths
from pipeline.recipe.schema import Recipe
from pipeline.support import files, fingerprint, hardware
from pipeline.support.errors import UserError


@hardware.explain_failures()
def run(recipe: Recipe, paths: Paths, fold: int, masks: Path | None) -> None:
    """Validate one fold of one recipe; write its masks at 0.5 to `masks` too, if that is given."""
    settings, runtime = recipe.validate_, recipe.runtime
    hardware.reuse_freed_memory()
    network = model.load(paths.model(fold))
    classes = network.description.classes
    if network.description.fold != fold:
        raise UserError(
            f"{paths.model(fold)}: trained without fold {network.description.fold}, expected fold "
            f"{fold}; its score on this fold would not be out-of-fold"
        )
    rows = out_of_fold.held_out(samples.read(paths.samples), fold, paths.samples)
    if seen := network.description.seen_of(rows):
        raise UserError(
            f"{paths.model(fold)}: has been trained on {len(seen)} of the groups that "
            f"{paths.samples} holds out in fold {fold}, {seen[0]} for one; its score would not be "
            f"out-of-fold: run the train stage again"
        )
    samples.check_classes(rows, classes, paths.samples)
    if masks and classes > 1:
        raise UserError(
            f"--masks: run-length masks hold one class, but the samples have {classes}; "
            f"leave it out"
        )
    if masks:
        files.check_output(masks, "--masks", mask_rows.HEADER)
    fabric = hardware.launch(runtime.accelerator, runtime.precision, runtime.threads, 1, 1)
    if runtime.deterministic:
        hardware.make_deterministic()
    threads = hardware.workers(runtime.workers, fabric)
    name = str(paths.model(fold))
    predictor = Predictor.of(
        {name: network}, settings.tta, fabric, runtime.batch_size, threads, runtime.compile
    )
    key = fingerprint.key("validate", settings.tta, [paths.samples, paths.model(fold)], paths.raw)
    predictions = predictor.predict(rows, Archives(paths.raw))
    shown = tqdm(predictions, total=len(rows), desc="validate", unit="img")
    kept.write(
        paths.oof_levels(fold),
        key,
        _kept(shown, (paths.counts(fold), paths.measures(fold))),
        len(rows),
    )
    choices = network.description.choices
    judged = judge.judge_fold(paths, fold, rows, threads, settings, choices)
    if masks:
        judge.write_masks(masks, judge.open_levels(paths, fold, rows), rows)
    at = " at 0.5" if classes == 1 else f", mean of {classes} classes"
    dice = judge.mean_dice(judged)
    print(f"fold {fold}: out-of-fold Dice {dice:.5f}{at}, {len(rows)} images")
    if choices:
        print(f"it flatters: training has chosen by these images {choices}")


def _kept(predictions: Iterable[Prediction], counted: Iterable[Path]) -> Iterator[kept.Image]:
    """Compress the levels; a held-out image that cannot be read ends the stage.

    What was `counted` of the levels before goes with them: a stage that is killed before it has
    counted these leaves nothing that says it had.
    """
    for one in predictions:
        if one.error:
            raise UserError(one.error)
        yield one.packed()
    for path in counted:
        path.unlink(missing_ok=True)
