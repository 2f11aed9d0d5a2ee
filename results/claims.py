"""The claims C1 to C8 of [KD] s.3: the paper's figure, ours, and whether a run of ours could be it.

Three verdicts, computed from the runs. "magnitude compatible": the paper's figure lies in the 95 %
interval for one new run, with another seed and another teacher; "magnitude differs": it does not.
"direction reproduced": what the paper says gets better does get better here.
"""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from results.intervals import NewRun, difference, new_run
from results.kinds import (
    DISTILLED,
    NEVER_3,
    ONLY_7_8,
    SHIFT_OF_3,
    SHIFT_OF_7_AND_8,
    SIZES,
    student,
)
from results.runs import COMPARED_LENGTHS, TEACHER_LENGTH, Runs, cumbersome, runs_in
from results.summary import table
from results.temperatures import (
    LAID_DOWN,
    good_and_others,
    range_above_8,
    shown_best,
    shown_similar,
)
from support.paper import PAPER, in_brackets

THREES = 1010  # in the test set
DISTIL, OMIT = "python distillation.py", "python distillation_no_three.py"


def flags(units: int) -> str:
    """Of a student that is not the default one."""
    return "" if units == 800 else f" --hidden-units {units} --temperature {SIZES[units]}"


class Claim(NamedTuple):
    """A claim that is a number of errors, with what a new run of ours would make."""

    number: str
    says: str
    paper: tuple[int, ...]  # errors and, if there is a second, on the digit that was left out
    run: NewRun
    runs: int | None = None  # of which it is computed
    on_digit: float | None = None  # mean errors on the digit that was left out
    command: str = ""
    direction: bool | None = None  # whether ours changes as the paper's, where it says so

    @property
    def ours(self) -> str:
        """The mean errors and, in brackets, those on the digit that was left out."""
        each = (self.run.mean, self.on_digit)
        return in_brackets([f"{mean:,.1f}" for mean in each if mean is not None])

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and highest number of errors in the 95 % interval for one new run."""
        return math.ceil(self.run.low), math.floor(self.run.high)

    @property
    def interval(self) -> str:
        return "{:,} to {:,}".format(*self.bounds)

    @property
    def verdict(self) -> str:
        told = {None: [], True: ["direction reproduced"], False: ["direction not reproduced"]}
        if self.paper:
            holds = self.run.holds(self.paper[0])
            told[self.direction].append(f"magnitude {'compatible' if holds else 'differs'}")
        return ", ".join(told[self.direction])


def claim_of(
    number: str, says: str, key: str, runs: Sequence[Runs], column: str = "errors", **others: Any
) -> Claim:
    """A claim with the errors in a `column` of the runs, by teacher. `key` is in PAPER, or ""."""
    groups = [each.numbers(column) for each in runs]
    return Claim(number, says, PAPER.get(key, ()), new_run(groups), sum(map(len, groups)), **others)


def mean_of(runs: Sequence[Runs], column: str) -> float:
    return statistics.mean(number for each in runs for number in each.numbers(column))


def saw_all_digits() -> list[Claim]:
    """C1 to C3."""
    nets, small = cumbersome(TEACHER_LENGTH), runs_in("small_800")
    train = f"python train.py --epochs {TEACHER_LENGTH} --precision bf16"
    says = "The small net, 800 units per layer, trained on the labels"
    c1 = claim_of("C1", "The cumbersome net", "C1", [nets], command=train)
    c2 = claim_of("C2", says, "C2", [small], command="python train.py --model small")
    c3 = distilled_claim("C3", 800, TEACHER_LENGTH)
    saved = difference(c2.run, c3.run)
    fewer = {"direction": saved.mean > 0}
    says, paper = "Errors that distillation saves", PAPER["C2"][0] - PAPER["C3"][0]
    return [c1, c2, c3._replace(**fewer), Claim("C2 - C3", says, (paper,), saved, **fewer)]


def distilled_claim(number: str, units: int, epochs: int) -> Claim:
    """C3, or a student of another size."""
    runs = DISTILLED.of_teachers(units, epochs)
    says = f"A distilled student, {student(units)}"
    return claim_of(number, says, number, runs, command=DISTIL + flags(units))


def missed_digits(units: int, epochs: int = TEACHER_LENGTH) -> list[Claim]:
    """C6 to C8."""
    return [*never_shown_3(units, epochs), *shown_7_and_8(units, epochs)]


def never_shown_3(units: int, epochs: int) -> list[Claim]:
    """C6 and C7; errors on 3s are in brackets."""
    runs = NEVER_3.of_teachers(units, epochs)
    on_3, on_3_shifted = (mean_of(runs, f"{shift}_on_group") for shift in ("learned", "paper"))
    command = {"command": OMIT + flags(units)}
    says = f"A student never shown a 3, {student(units)} (errors on 3s)"
    c6 = claim_of("C6", says, "C6", runs, "learned_errors", on_digit=on_3, **command)
    says = f"The same student, the bias of the 3 raised by {SHIFT_OF_3}"
    c7 = claim_of("C7", says, "C7", runs, "paper_errors", on_digit=on_3_shifted, **command)
    lower = c7.run.mean < c6.run.mean
    return [c6._replace(direction=on_3 < THREES / 2), c7._replace(direction=lower)]


def shown_7_and_8(units: int, epochs: int) -> list[Claim]:
    """C8, as learned and shifted."""
    runs = ONLY_7_8.of_teachers(units, epochs)
    command = {"command": f"{OMIT}{flags(units)} --keep 7 8 --epochs 100"}
    says = f"A student shown 7s and 8s only, {student(units)}"
    c8 = claim_of("C8", says, "C8", runs, "learned_errors", **command)
    says = f"The same student, both biases lowered by {-SHIFT_OF_7_AND_8}"
    shifted = claim_of("C8", says, "C8 shifted", runs, "paper_errors", **command)
    lower = shifted.run.mean < c8.run.mean
    return [c8, shifted._replace(direction=lower)]


def measured_claims() -> list[Claim]:
    """Those of README.md: students of 800 units, T = 20."""
    return [*saw_all_digits(), *missed_digits(800)]


def temperature_claims() -> list[dict[str, str]]:
    """C4 and C5, which are comparisons of many runs."""
    above_8 = ", ".join(f"{range_above_8(units)} ({units} units)" for units in (300, 800))
    return [
        {
            "claim": "C4",
            "says": "300 units per layer or more: temperatures above 8 are fairly similar",
            "ours": above_8,
            "verdict": "similarity shown" if shown_similar() else "similarity not shown",
            "command": f"{DISTIL} --hidden-units 300 800 --temperature 12 20 40 --seed "
            + " ".join(map(str, LAID_DOWN[800])),
        },
        {
            "claim": "C5",
            "says": "30 units per layer: temperatures from 2.5 to 4 are significantly better than "
            "higher or lower ones",
            "ours": good_and_others(),
            "verdict": "direction reproduced" if shown_best() else "not shown",
            "command": f"{DISTIL} --hidden-units 30 --temperature 1 1.5 2 2.5 3 4 6 8 12 20 "
            "--epochs 60 --seed " + " ".join(map(str, LAID_DOWN[30])),
        },
    ]


def headline() -> str:
    """The table of README.md."""
    rows = [
        [c.number, c.says, in_brackets(c.paper), c.ours, c.interval, c.verdict]
        for c in measured_claims()
    ]
    rows += [
        [each["claim"], each["says"], "", each["ours"], "", each["verdict"]]
        for each in temperature_claims()
    ]
    header = ["", "claim", "paper", "ours", "one new run (95 %)", "verdict"]
    return table(header, sorted(rows, key=lambda row: row[0][-2:]))


def overview(units: int) -> str:
    """Each claim with the two spreads that the interval is made of, for students of one width."""
    claims = measured_claims()
    if units != 800:
        claims = [distilled_claim("", units, TEACHER_LENGTH), *missed_digits(units)]
    rows = []
    for claim in claims:
        deviations = (claim.run.runs, claim.run.teachers)
        spreads = [f"{sd:.1f}" if sd is not None else "" for sd in deviations]
        cells = [claim.number, claim.says, in_brackets(claim.paper), claim.ours, *spreads]
        rows.append([*cells, claim.runs or "", claim.interval, claim.verdict])
    if units == 800:
        says = "Share of the gap between small net and teacher that distillation closes"
        rows.insert(4, ["", says, *recovered(), "", "", "", "", ""])
    spreads = ["sd over seeds", "sd over teachers", "runs"]
    header = ["", "claim", "paper", "ours", *spreads, "one new run (95 %)", "verdict"]
    return table(header, rows)


def by_length() -> str:
    """Claims on students of 800 units, with teachers of each length of which there are several."""
    found = [
        [distilled_claim("C3", 800, epochs), *missed_digits(800, epochs)]
        for epochs in COMPARED_LENGTHS
    ]
    rows = []
    for each in zip(*found, strict=True):
        claim, *_ = each
        ours = [cell for c in each for cell in (c.ours, c.interval)]
        rows.append([claim.number, claim.says, in_brackets(claim.paper), *ours])
    lengths = [cell for n in COMPARED_LENGTHS for cell in (f"{n:,} epochs", "one new run (95 %)")]
    return table(["", "claim", "paper", *lengths], rows)


def recovered() -> list[str]:
    """What part of the errors between C2 and C1 distillation saves: the paper's and ours."""
    c1, c2, c3, _ = saw_all_digits()
    errors = [[claim.paper[0] for claim in (c1, c2, c3)]]
    errors.append([claim.run.mean for claim in (c1, c2, c3)])
    return [f"{100 * (small - student) / (small - net):.0f} %" for net, small, student in errors]


def as_json() -> str:
    """What results/claims.json holds: the claims as other work would cite them."""
    claims = [
        {
            "claim": claim.number,
            "says": claim.says,
            "paper": claim.paper[0],
            "mean": round(claim.run.mean, 1),
            "sd_over_seeds": claim.run.runs and round(claim.run.runs, 1),
            "sd_over_teachers": claim.run.teachers and round(claim.run.teachers, 1),
            "interval_95": [round(claim.run.low, 1), round(claim.run.high, 1)],
            "runs": claim.runs,
            "verdict": claim.verdict,
            "command_of_one_run": claim.command,
        }
        for claim in measured_claims()
    ]
    everything = sorted([*claims, *temperature_claims()], key=lambda claim: claim["claim"][-2:])
    return json.dumps(everything, indent=1) + "\n"
