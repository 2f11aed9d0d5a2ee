"""Imported before torch, which takes seconds: Ctrl-C meanwhile is not a traceback."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def end(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)  # there is nothing yet to tidy up


# Only in the scripts of this project: in those of others Ctrl-C stays what it was.
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "train.py",
    "distillation.py",
    "distillation_no_three.py",
    "evaluate.py",
    "results/tables.py",
    "results/figures.py",
)
MAIN = getattr(sys.modules["__main__"], "__file__", None)
if MAIN and Path(MAIN).resolve() in [ROOT / name for name in SCRIPTS]:
    signal.signal(signal.SIGINT, end)
