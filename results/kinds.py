"""The kinds of students that the tables have: what each saw, its size and temperature, its runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from results.runs import STUDENTS_EACH, TEACHER_LENGTH, Runs, cumbersome, students
from support.means import spread
from support.paper import PAPER_SHIFTS, in_brackets

SIZES = {800: 20, 300: 8}  # units and temperature of those that missed digits: two guesses
SHIFT_OF_3, *_ = PAPER_SHIFTS["omit", (3,)]  # [KD]'s
SHIFT_OF_7_AND_8, *_ = PAPER_SHIFTS["keep", (7, 8)]


class Kind(NamedTuple):
    """Students that saw the same digits, in words and in results/."""

    says: str
    file: str  # the start of its name, which goes on with the number of units
    digits: dict[str, Any]  # the columns that say what they saw

    def of_teacher(self, units: int, teacher: Runs | None = None, **setting: object) -> Runs:
        """The students of one teacher, by default the default one. Raises UserError."""
        usual = self.digits | {"temperature": SIZES[units]}
        return students(f"{self.file}_{units}", teacher, **usual | setting)

    def first(self, units: int, teacher: Runs | None = None) -> Runs:
        """As many students as each teacher has, with seeds from 0 up. Raises UserError."""
        return self.of_teacher(units, teacher).of_seeds(range(STUDENTS_EACH))

    def of_teachers(self, units: int, epochs: int = TEACHER_LENGTH) -> list[Runs]:
        """The first students of each teacher of so many epochs."""
        return [self.first(units, teacher) for teacher in cumbersome(epochs).each()]

    def in_words(self, units: int) -> str:
        return f"{self.says}, {student(units)}"


DISTILLED = Kind("distilled", "distilled", {})
NEVER_3 = Kind("never saw a 3", "no_three", {"omit": 3})
ONLY_7_8 = Kind("saw 7s and 8s only", "only_7_8", {"keep": "7 8"})
OUTCOMES = (  # of their training: in words, of which kind, in which column
    (DISTILLED.says, DISTILLED, "errors"),
    (NEVER_3.says, NEVER_3, "learned_errors"),
    (f"the same at {SHIFT_OF_3:+}", NEVER_3, "paper_errors"),
    (ONLY_7_8.says, ONLY_7_8, "learned_errors"),
    (f"the same at {SHIFT_OF_7_AND_8:+}", ONLY_7_8, "paper_errors"),
)


def student(units: int) -> str:
    """In words, of the first guess or the second."""
    return f"{units} units, T = {SIZES[units]}"


def over_seeds(runs: Runs, columns: Sequence[str]) -> str:
    """Mean ± standard deviation of the first of `columns` and, in brackets, of the second."""
    return in_brackets([spread(runs.numbers(column)) for column in columns])
