"""Files of tensors: whole or not there, and never read with damage unseen.

A file is what `torch.save` writes, a zip archive, whose comment is the SHA-256 of all bytes
before it: `torch.load` reads it as ever, and `load` refuses what has changed since.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from pipeline.support.files import written_whole

_DIGEST = 64  # characters of a SHA-256 in hexadecimal


class DamagedFileError(Exception):
    """The bytes are not those that were written."""


def save(path: Path, content: Any) -> None:
    """Write what `load` gives back, in one step; see `files.written_whole`.

    Raises:
        UserError: the disk is full.
    """
    with written_whole(path) as temporary, temporary.open("wb+") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch covers the disk's refusal with one of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        stream.seek(-2, io.SEEK_END)  # where a zip archive says how long its comment is
        stream.write(_DIGEST.to_bytes(2, "little"))
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # leaves it at the end
        stream.write(digest.encode())


def load(path: Path) -> Any:
    """Read tensors and plain values onto the CPU.

    Raises:
        DamagedFileError: the bytes have changed since they were written, or are none of `save`.
        FileNotFoundError: there is no such file.
    """
    content = path.read_bytes()
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedFileError(f"{path}: its checksum does not fit")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
