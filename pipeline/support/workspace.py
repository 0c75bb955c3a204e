"""The working tree as git and DVC see it."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.support.errors import UserError

_SHOWN = 6  # changes in one message


def require_current(stage: str) -> None:
    """Refuse outs that are older than what they are made from, by DVC's own account.

    All stages before this one count too: what a stage's own deps show is only whether it ran
    after the last of them did.

    Raises:
        UserError: `dvc status` names a change, or fails.
    """
    dvc = Path(sys.executable).with_name("dvc")
    try:
        done = subprocess.run(
            [dvc, "status", "--json", "--with-deps", stage], capture_output=True, text=True
        )
    except FileNotFoundError:
        raise UserError(f"{dvc}: no such program; install the project's requirements") from None
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"dvc status {stage}: {said}; does params.yaml list the recipe?")
    if changes := json.loads(done.stdout):
        raise UserError(f"{stage} is not up to date ({_summary(changes)}); run dvc repro {stage}")


def _summary(changes: dict[str, list[str | dict[str, dict[str, str | dict[str, str]]]]]) -> str:
    """DVC's list of changes on one line; what concerns several stages (folds) stands once."""
    lines = []
    for stage, change in ((name, change) for name, found in changes.items() for change in found):
        if isinstance(change, str):
            lines.append(f"{stage}: {change}")
            continue
        for path, how in (item for paths in change.values() for item in paths.items()):
            keys = {"": how} if isinstance(how, str) else how  # of a params file
            lines += [f"{path}: {f'{key} {what}'.strip()}" for key, what in keys.items()]
    lines = list(dict.fromkeys(lines))
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ", ".join(lines[:_SHOWN]) + more


def commit(apart_from: Path) -> str:
    """The commit that is checked out, or "" where there is no git.

    It ends in "-dirty" when a tracked file has changes, `apart_from` apart.
    """
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{apart_from}")
    return f"{head}-dirty" if head and changed else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
