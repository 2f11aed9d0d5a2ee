"""What can go wrong in a script, as exceptions that `run_script` turns into one line."""

from argparse import ArgumentTypeError


class UserError(Exception):
    """A problem that the user can fix; its message is one line: what, where, what to do."""

    status = 2


class NotAllowed(UserError, ArgumentTypeError):
    """A value that is not allowed where it stands: a flag, a field of a class, an argument."""


class TrainingFailed(UserError):
    """A training run that came to nothing, such as a loss that is no longer finite."""

    status = 1


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Every file is written whole or not at all, so it may come at any time."""
