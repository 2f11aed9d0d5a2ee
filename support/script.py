"""How a script ends: one line and an exit status for whatever stops it."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from support.errors import Stopped, UserError


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run `main` as a script and exit.

    The status is 2 for a UserError, an OSError and a lack of memory, 1 for a training run that
    failed or a reader of the output that has gone, 130 for Ctrl-C, 143 for SIGTERM.
    """
    prepare_streams()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, stop) for signum in signals}
    unraisable = sys.unraisablehook
    try:
        status = status_of(main)
    except UserError as error:
        status = error.status
        complain(error)
    except Stopped as stopped:
        status = 128 + stopped.args[0]
    except BrokenPipeError:  # of a reader such as `head`
        status = 1
    except OSError as error:
        status = 2
        complain(error)
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        status = 2
        complain(UserError("not enough memory: try a smaller --batch-size or fewer --hidden-units"))
    finally:
        sys.unraisablehook = unraisable
        for signum, handler in before.items():
            signal.signal(signum, handler)
    leave(status)


def status_of(main: Callable[[], None]) -> int:
    """0, or what `main` gave to sys.exit, as after --help; once all it printed is out."""
    status = 0
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()
    return status


def is_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch, on any device, got no more memory."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def stop(signum: int, frame: object) -> NoReturn:
    """The handler of both signals."""
    for each in (signal.SIGINT, signal.SIGTERM):  # a second one must not disturb the first
        signal.signal(each, signal.SIG_IGN)
    sys.unraisablehook = lambda _: None  # nor what is thrown away half made complain of it
    raise Stopped(signum)


def leave(status: int) -> NoReturn:
    """Exit; under torchrun at once, as gloo's threads now and then abort a process that ends."""
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or a reader that has gone: what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "RANK" in os.environ:
        os._exit(status)
    sys.exit(status)


def prepare_streams() -> None:
    """Make sure that both streams exist and can print any character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def complain(error: Exception) -> None:
    """One line, whatever names it holds; none where nobody can read it."""
    with suppress(OSError):
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
