"""What was tried on held-out images, from the files of --validation."""

import statistics
from itertools import takewhile

from results.runs import runs_in
from results.summary import table


def trials(name: str, **errors: str) -> str:
    """What was tried on held-out cases: the hyperparameters that differ, and errors by seed.

    `errors` are columns of the file by their names in the table; the last one gives the order.
    """
    file = f"validation_{name}"
    lines = runs_in(file).lines
    unused = ("schedule_epochs", "momentum_epochs")  # nothing but their ratio to epochs, or sgd
    hyperparameters = [h for h in takewhile("seed".__ne__, lines[0]) if h not in unused]
    varied = [h for h in hyperparameters if len({line[h] for line in lines}) > 1]
    settings = dict.fromkeys(tuple(line[h] for h in varied) for line in lines)
    tried = {s: runs_in(file, **dict(zip(varied, s, strict=True))) for s in settings}
    *_, deciding = errors.values()
    rows = [
        [
            *map(_shown, varied, setting),
            *(", ".join(f"{e:.0f}" for e in found.numbers(c)) for c in errors.values()),
        ]
        for setting, found in sorted(
            tried.items(), key=lambda row: statistics.mean(row[1].numbers(deciding))
        )
    ]
    return table([*(h.replace("_", " ") for h in varied), *errors], rows)


def _shown(column: str, value: str) -> str:
    """A setting as the table has it: teachers not by their sums, "2f1a... 77b0... geometric"."""
    if column != "teacher":
        return value
    *nets, mean = value.split()
    return f"{len(nets)} nets, {mean} mean" if nets else "one net"
