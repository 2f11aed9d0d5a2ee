"""How a script ends: one line and an exit status for whatever stops it."""

import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from tqdm import tqdm

from support.errors import Stopped, UserError
from support.seeds import denormals_flushed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run `main` as a script and exit.

    The status is 2 for a UserError, an OSError and a lack of memory, 1 for a training run that
    failed or a reader of the output that has gone, 130 for Ctrl-C, 143 for SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # of a stream that is closed, or that is no file
            stream.reconfigure(errors="backslashreplace")  # so that any character can be printed
    tqdm.get_lock()  # made now: a signal while it is made would leave an AttributeError
    before = {
        signum: signal.signal(signum, stop)
        for signum in SIGNALS
        if signal.getsignal(signum) != signal.SIG_IGN  # as with nohup
    }
    unraisable, warning = sys.unraisablehook, warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        with denormals_flushed():
            status = status_of(main)
    finally:
        sys.unraisablehook, warnings.formatwarning = unraisable, warning
        for signum, handler in before.items():
            signal.signal(signum, handler)
    sys.exit(status)


def status_of(main: Callable[[], None]) -> int:
    """Run `main`, print the error that stopped it, if any, and return the exit status."""
    try:
        try:
            main()
        finally:
            print(end="", flush=True)
    except SystemExit as end:  # as after --help
        return int(end.code or 0)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except UserError as error:
        return complain(error, error.status)
    except OSError as error:
        sys.stdout = None  # else Python complains again at the end, if it cannot be written
        is_of_reader = isinstance(error, BrokenPipeError)  # such as `head`, which has gone
        return 1 if is_of_reader else complain(error, 2)
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        return complain("not enough memory: try a smaller --batch-size or fewer --hidden-units", 2)
    return 0


def is_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch, on any device, got no more memory."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def stop(signum: int, frame: object) -> NoReturn:
    """The handler of both signals."""
    for each in SIGNALS:  # a second one must not disturb the first
        signal.signal(each, signal.SIG_IGN)
    sys.unraisablehook = lambda _: None  # nor what is thrown away half made complain of it
    raise Stopped(signum)


def complain(error: object, status: int) -> int:
    """Print one line, whatever names it holds; returns the status."""
    with suppress(OSError):  # where nobody can read it
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
    return status
