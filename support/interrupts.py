"""Imported before torch, which takes seconds: Ctrl-C meanwhile is not a traceback."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def end(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)  # there is nothing yet to tidy up


# Only in the scripts of this project: in those of others Ctrl-C stays what it was.
MAIN = getattr(sys.modules["__main__"], "__file__", None)
if MAIN and Path(MAIN).resolve().parent == Path(__file__).resolve().parent.parent:
    signal.signal(signal.SIGINT, end)
