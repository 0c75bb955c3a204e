"""Runs the stages `predict` and `encode` in forked processes, so that a start costs nothing.

A line of JSON in: {"arguments", "folder", "log", "chunk", "kill_after"}; a line out:
{"status", "seconds"}. Nothing here starts a thread before a fork, so none is lost in one.
"""

import json
import os
import signal
import sys
import time

import numpy as np
import torch

from pipeline import encode, predict
from pipeline.__main__ import main
from pipeline.levels import kept
from pipeline.masks import rle


def child(order: dict) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order["folder"])
    sys.argv = ["pipeline", *order["arguments"]]
    kept.CHUNK = order["chunk"]
    code = 0
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
        code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def load_compiled() -> None:
    mask = np.eye(8, dtype=np.uint8)
    mask.flags.writeable = False
    assert rle.check(rle.encode(mask), 8, 8) == 8
    assert encode.__doc__ and predict.__doc__  # loaded


torch.set_num_threads(1)
load_compiled()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        child(order)
    if order["kill_after"] is not None:
        time.sleep(order["kill_after"])
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    seconds = time.monotonic() - start
    answer = {"status": os.waitstatus_to_exitcode(status), "seconds": seconds}
    print(json.dumps(answer), flush=True)
