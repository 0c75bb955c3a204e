import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pipeline.support.errors import UserError
from pipeline.support.hardware import explain_failures


class Fatal(Dataset):
    """Ends the process that reads it, as the kernel does when memory is short."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_dead_loader_process_names_the_settings() -> None:
    with pytest.raises(UserError, match=r"has ended .*lower runtime\.workers"):  # noqa: SIM117
        with explain_failures():
            list(DataLoader(Fatal(), num_workers=1))


def test_one_value_a_channel_names_the_settings() -> None:
    with pytest.raises(UserError, match=r"train\.phases: found so few images"), explain_failures():
        nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("other")])
def test_what_is_not_known_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match="other"), explain_failures():
        raise error
