"""The front door: `pipeline <verb> <recipe>`. Each verb is a module, or a folder, of its name.

A verb's module is imported when it is run and not before: `--help` loads neither torch nor cv2.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.paths import LEDGER, PARAMS, Paths, recipe_file
from pipeline.support.errors import UserError, command
from pipeline.support.files import explained

if TYPE_CHECKING:
    from pipeline.recipe.schema import Recipe

Run = Callable[[argparse.Namespace], None]

_STAGES = "stages, in the order in which `dvc repro` runs them"


def download(args: argparse.Namespace) -> None:
    """Bring the archives: from $PIPELINE_DATA, from Kaggle, or drawn (the sample)."""
    recipe = _recipe(args)

    def check() -> None:
        """Refuse a network that cannot be before gigabytes move, and load torch only then."""
        _verb("check").check_network(recipe, recipe_file(args.recipe))

    _verb("download.stage").run(recipe, _paths(args), check)


def split(args: argparse.Namespace) -> None:
    """List and measure every image, assign whole groups (cars, patients) to folds."""
    _verb("split").run(_recipe(args), _paths(args))


def train(args: argparse.Namespace) -> None:
    """Train one fold's network; a stopped training goes on."""
    recipe = _trained(args)
    _verb("train.stage").run(recipe, _paths(args), _fold(args, recipe))


def validate(args: argparse.Namespace) -> None:
    """Count the held-out pixels of one fold at every probability level."""
    recipe = _trained(args)
    _verb("validate").run(recipe, _paths(args), _fold(args, recipe), args.masks)


def folds(args: argparse.Namespace) -> None:
    """Train and validate several folds at once, each on its own GPU or its share of the cores."""
    recipe = _trained(args)
    _verb("folds").run(recipe, Paths.of(args.recipe), _folds(args, recipe), args.jobs)


def tune(args: argparse.Namespace) -> None:
    """Choose the threshold on all out-of-fold predictions."""
    recipe = _recipe(args)
    _verb("tune.stage").run(recipe, _paths(args), _folds(args, recipe))


def blend(args: argparse.Namespace) -> None:
    """Blend other recipes' kept probabilities into those of one more recipe; no network runs."""
    recipe = _recipe(args)
    if args.member:
        _verb("blend").note_member(recipe, _paths(args), args.member)
    else:
        _verb("blend").run(recipe, _paths(args), _folds(args, recipe))


def predict(args: argparse.Namespace) -> None:
    """Predict the test images with every fold's network; keep what they say, decide nothing."""
    recipe = _trained(args)
    _verb("predict").run(recipe, _paths(args), _folds(args, recipe))


def encode(args: argparse.Namespace) -> None:
    """Make the submission of the kept predictions at the tuned threshold, and check it."""
    _verb("encode").run(_recipe(args), _paths(args))


def report(args: argparse.Namespace) -> None:
    """Write the page about all of it, and the list of submitted images that deserve a look."""
    recipe = _recipe(args)
    _verb("report.stage").run(recipe, _paths(args), _folds(args, recipe), args.show)


def submit(args: argparse.Namespace) -> None:
    """Check a recipe's submission, send it to Kaggle once, wait for the score."""
    verb = _verb("submit")
    if args.list:
        verb.show_ledger(LEDGER)
    elif args.recipe is None or not (args.message or args.check_only):
        args.parser.error('found no recipe or no message; expected: <recipe> -m "message"')
    else:
        if args.at:
            args.parser.error("--at: submit sends what DVC knows to be current; remove it")
        message = " ".join((args.message or "").split())
        verb.run(_recipe(args), _paths(args), message, args.check_only, not args.no_wait)


def score(args: argparse.Namespace) -> None:
    """Score a submission file against masks that you have: the competition's own Dice."""
    size = (args.size[0], args.size[1]) if args.size else None
    _verb("score").run(args.submission, args.masks, size, args.partial, args.out)


def export(args: argparse.Namespace) -> None:
    """Write a recipe's networks as ONNX files, checked against them in ONNX Runtime."""
    recipe, paths = _trained(args), _paths(args)
    folds = paths.trained() if args.fold is None else _folds(args, recipe)
    _verb("export").run(recipe, paths, folds, args.average)


def predict_folder(args: argparse.Namespace) -> None:
    """Make masks, overlays or cutouts of any photographs, with all trained folds of a recipe."""
    recipe, verb = _trained(args), _verb("predict_folder")
    output = verb.Output(args.out, tuple(dict.fromkeys(args.write)), args.overwrite)
    tiles = None
    if args.tile is not None:
        if len(args.tile) > 2:
            args.parser.error("--tile: expected no number, one or two")
        size = (args.tile[0], args.tile[-1]) if args.tile else None
        tiles = verb.Tiles(size, args.overlap)
    verb.run(recipe, _paths(args), args.images, output, args.threshold, tiles)


def preview(args: argparse.Namespace) -> None:
    """Show what a training will see: images, masks, and both augmented, on one page."""
    _verb("preview.stage").run(_recipe(args), _paths(args), args.out)


def new(args: argparse.Namespace) -> None:
    """Look at your own images and masks, and write a recipe for them."""
    _verb("new").run(args.recipe, args.images, args.masks)


def compare(args: argparse.Namespace) -> None:
    """Compare two recipes, or one at two git revisions, on the held-out images of both."""
    _verb("compare.stage").run(args.first, args.second, args.fold)


def check(args: argparse.Namespace) -> None:
    """Refuse now what a stage would refuse later, of a recipe or of all that params.yaml lists."""
    _verb("check").run([args.recipe] if args.recipe else [], dict(args.at))


def status(args: argparse.Namespace) -> None:
    """Show which recipes and folds are trained, scored and submitted."""
    _verb("status").run(LEDGER)


def _verb(name: str) -> Any:
    return importlib.import_module(f"pipeline.{name}")


def _recipe(args: argparse.Namespace) -> "Recipe":
    loaded: Recipe = _verb("recipe.read").load(recipe_file(args.recipe))
    return loaded


def _trained(args: argparse.Namespace) -> "Recipe":
    """A recipe with networks of its own."""
    recipe = _recipe(args)
    if recipe.blend is not None:
        raise UserError(
            f"{recipe_file(args.recipe)}: a blend has no networks to {args.verb}; "
            f"run pipeline blend {args.recipe}"
        )
    return recipe


def _paths(args: argparse.Namespace) -> Paths:
    return Paths.of(args.recipe, dict(args.at))


def _fold(args: argparse.Namespace, recipe: "Recipe") -> int:
    _verb("recipe.read").check_fold(args.fold, recipe.split.folds, "--fold")
    fold: int = args.fold
    return fold


def _folds(args: argparse.Namespace, recipe: "Recipe") -> tuple[int, ...]:
    """Those asked for, or else those that `params.yaml` lists."""
    read = _verb("recipe.read")
    folds: tuple[int, ...]
    if args.fold is None:
        folds = read.load_folds(PARAMS, recipe.split.folds)
        return folds
    for fold in args.fold:
        read.check_fold(fold, recipe.split.folds, "--fold")
    return tuple(dict.fromkeys(args.fold))


def _place(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=PATH")
    return name, Path(path)


def _side(text: str) -> int:
    """A picture's height or width in pixels."""
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a whole number from 1 to 100000"
        )
    return int(text)


def _recipe_name(text: str) -> str:
    """A recipe's name; the path of its file does as well."""
    path = Path(text)
    if path.suffix == ".yaml" and path == recipe_file(path.stem):
        return path.stem
    if path.name != text or path.suffix == ".yaml":
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected the name of a recipe, as sample for {recipe_file('sample')}"
        )
    return text


def _at_revision(text: str) -> str:
    """A recipe's name, or one with `@` and a revision."""
    recipe, at, revision = text.partition("@")
    return _recipe_name(recipe) + at + revision


def _add(verbs: Any, run: Run, recipe: str = "required") -> argparse.ArgumentParser:
    """Add a verb; with a recipe it takes `--at` too."""
    said = (run.__doc__ or "").splitlines()[0]
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__.replace("_", "-"),
        help=said[0].lower() + said[1:].rstrip("."),
        description=said,
    )
    parser.set_defaults(run=run, parser=parser)
    if recipe != "none":
        parser.add_argument(
            "recipe",
            type=_recipe_name,
            nargs=None if recipe == "required" else "?",
            help="name of a recipe: sample is recipes/sample.yaml",
        )
        parser.add_argument(
            "--at",
            type=_place,
            action="append",
            default=[],
            metavar="NAME=PATH",
            help="where one of the recipe's places lies, if not at its usual path: archives, raw, "
            "samples, runs, oof, kept, evaluation, submission, exported, work, logs; may be given "
            "several times",
        )
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description="From a Kaggle segmentation competition's archives to a scored submission. "
        "`dvc repro` runs the stages; each can be run by itself, too.",
        epilog="Commands are run in the project's folder. Settings: recipes/<name>.yaml.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="<verb>", title="verbs")
    _add(verbs, download)
    _add(verbs, split)
    for stage in (train, validate):
        one = _add(verbs, stage)
        one.add_argument("--fold", type=int, required=True, help="the fold to hold out")
    one.add_argument("--masks", type=Path, metavar="FILE", help="also write the masks at 0.5")
    for stage in (predict, blend, tune, report):
        if stage is report:
            _add(verbs, encode)  # here, so that --help lists stages as they run
        one = _add(verbs, stage)
        if stage is blend:
            one.add_argument(
                "--member", metavar="RECIPE", help="only note what it adds, for DVC to see"
            )
        one.add_argument(
            "--fold", type=int, nargs="+", metavar="K", help="instead of the folds in params.yaml"
        )
    one.add_argument(
        "--show", nargs="+", default=[], metavar="NAME", help="test images to put on the page, too"
    )
    one = _add(verbs, folds, "none")  # no --at: DVC knows of the usual places alone
    one.add_argument("recipe", type=_recipe_name, help="name of a recipe")
    one.add_argument(
        "--jobs", type=int, metavar="N", help="folds at once; one a GPU, or one, unless given"
    )
    one.add_argument(
        "--fold", type=int, nargs="+", metavar="K", help="instead of the folds in params.yaml"
    )
    one = _add(verbs, submit, "optional")
    one.add_argument("-m", "--message", help="what to remember this submission by")
    one.add_argument("--check-only", action="store_true", help="check, send nothing")
    one.add_argument("--no-wait", action="store_true", help="do not wait for the score")
    one.add_argument("--list", action="store_true", help="show the ledger, pending scores renewed")
    one = _add(verbs, score, "none")
    one.add_argument("submission", type=Path, help=".csv, .csv.gz or .zip: img,rle_mask")
    one.add_argument("masks", type=Path, help="folder, .zip, .csv or .csv.gz of true masks")
    one.add_argument(
        "--size", type=_side, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of a table's masks"
    )
    one.add_argument("--partial", action="store_true", help="ignore masks that have no row")
    one.add_argument("--out", type=Path, metavar="FILE", help="also write each image's Dice (.csv)")
    one = _add(verbs, predict_folder)
    one.add_argument(
        "--images", type=Path, nargs="+", required=True, help="folders of photographs, or files"
    )
    one.add_argument("--out", type=Path, required=True, help="folder for the results")
    one.add_argument(
        "--write", nargs="+", default=["masks"], choices=["masks", "rle", "overlays", "cutouts"],
        help="what to make: masks (.png; the usual), one table of run lengths, the photos with "
        "their masks on them, or all but the object transparent",
    )  # fmt: skip
    one.add_argument(
        "--threshold", type=float, metavar="T", help="instead of the tuned one; lower keeps more"
    )
    one.add_argument(
        "--tile", type=int, nargs="*", metavar="SIDE",
        help="go over large photos in tiles of so many pixels (height and width may differ); "
        "without a number as large as the network's input, so that nothing is resized",
    )  # fmt: skip
    one.add_argument(
        "--overlap", type=float, default=0.25, metavar="SHARE",
        help="of a tile's side that the next one has too, 0.25 if it is left out",
    )  # fmt: skip
    one.add_argument("--overwrite", action="store_true", help="replace results that are there")
    one = _add(verbs, export)
    one.add_argument(
        "--fold", type=int, nargs="+", metavar="K", help="instead of all that are trained"
    )
    one.add_argument(
        "--average", action="store_true", help="one file, with the mean of all folds, instead"
    )
    one = _add(verbs, compare, "none")
    for name, what in (("first", "A"), ("second", "B")):
        one.add_argument(name, type=_at_revision, metavar=what, help="a recipe, or recipe@revision")
    one.add_argument(
        "--fold", type=int, nargs="+", metavar="K", help="instead of all that are there"
    )
    one = _add(verbs, preview)
    one.add_argument("--out", type=Path, metavar="FILE", help="the page, if not beside the report")
    one = _add(verbs, new, "none")
    one.add_argument(
        "recipe", type=_recipe_name, help="name of the recipe to write: cells is recipes/cells.yaml"
    )
    one.add_argument("--images", type=Path, required=True, help="a folder of pictures, or a .zip")
    one.add_argument("--masks", type=Path, required=True, help="their masks, of the same names")
    _add(verbs, check, "optional")
    _add(verbs, status, "none")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb."""
    args = _parser().parse_args(arguments)
    with explained(Path.cwd()):  # wherever a disk is full, read-only, or not the user's
        args.run(args)


if __name__ == "__main__":
    main()
