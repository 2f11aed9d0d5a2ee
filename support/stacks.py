"""Which students of a sweep are trained together, as a stack."""

from collections.abc import Sequence

from support.runs import Run
from support.sweep import Job

STACKED_UNITS = 100  # up to here a stack of students takes less time than one after the other
NOT_STACKED = ("hard_weight", "max_squared_length", "dropout_visible", "dropout_hidden")


def group_small(runs: Sequence[Run]) -> list[Job]:
    """Group runs of small students that differ only in temperature and seed; others are alone.

    For `train_together`: in a job there is each of its temperatures with each of its seeds.
    """
    seeds: dict[tuple, list[int]] = {}  # that each setting is to be run with
    for one in runs:
        seeds.setdefault(tuple(vars(one.params).items()), []).append(one.seed)
    jobs: dict[tuple, Job] = {}
    for place, one in enumerate(runs):
        values = vars(one.params)
        alike = *(v for k, v in values.items() if k != "temperature"), *seeds[(*values.items(),)]
        small = one.params.hidden_units <= STACKED_UNITS
        stacked = small and not any(values[name] for name in NOT_STACKED)
        jobs.setdefault(alike if stacked else (place,), []).append(one)
    return list(jobs.values())
