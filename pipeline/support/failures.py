"""What torch's words mean, where a training fails for a reason a user can put right."""

import contextlib
from collections.abc import Iterator

from pipeline.support.errors import UserError


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say which setting to change when a loader process dies, or a batch is too small."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that decodes images has ended ({str(error).partition('.')[0]}): most often "
            f"for want of memory, the machine's or that of /dev/shm; lower runtime.workers or "
            f"train.batch_size, or give it more"
        ) from None
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise UserError(
            "train.batch_size: found so few images for each device that BatchNorm has one value "
            "a channel to take statistics of; raise it, or train.size"
        ) from None
