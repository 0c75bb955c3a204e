"""Files of tensors: whole or not there, with a checksum; `torch.load` reads them too."""

import io
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.support import files


def save(path: Path, content: Any) -> None:
    """Write what `load` gives back, in one step; see `files.write_checked`.

    Raises:
        UserError: the disk is full.
    """

    def write(stream: IO[bytes]) -> None:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch covers the disk's refusal with one of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    files.write_checked(path, write)


def load(path: Path) -> Any | None:
    """Read tensors and plain values onto the CPU, or None as by `files.verify`.

    There is no such file, or it is damaged, which is said, and the file removed.
    """
    content = files.read_checked(path)
    if content is None:
        return None
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
