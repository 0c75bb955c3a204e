"""The working tree as git and DVC see it."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.errors import UserError


def require_current(stage: str) -> None:
    """Refuse outs that are older than what they are made from, by DVC's own account.

    Raises:
        UserError: `dvc status` names a change, or fails.
    """
    dvc = Path(sys.executable).with_name("dvc")
    try:
        done = subprocess.run([dvc, "status", "--json", stage], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"{dvc}: no such program; install the project's requirements") from None
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UserError(f"dvc status {stage}: {said}; does params.yaml list the recipe?")
    if changes := json.loads(done.stdout):
        raise UserError(f"{stage} is not up to date ({_told(changes)}); run dvc repro {stage}")


def _told(changes: dict[str, list[str | dict[str, dict[str, str]]]]) -> str:
    """DVC's list of changes on one line."""
    told = []
    for change in (change for stage in changes.values() for change in stage):
        if isinstance(change, str):
            told.append(change)
        else:
            told += [f"{path}: {how}" for paths in change.values() for path, how in paths.items()]
    return ", ".join(told)


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
