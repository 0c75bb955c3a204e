"""Files of tensors, whole or not there."""

from pathlib import Path
from typing import Any

import torch

from pipeline.support.files import written_whole


def save(path: Path, content: Any) -> None:
    """Write what `torch.load` gives back, in one step; see `files.written_whole`.

    Raises:
        UserError: the disk is full.
    """
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch covers the disk's refusal with one of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
