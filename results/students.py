"""Students that saw all digits: other trainings, the choice of an epoch, moved test images."""

from results.intervals import new_run
from results.kinds import DISTILLED, NEVER_3, ONLY_7_8, SIZES, student
from results.runs import TEACHER_LENGTH, Runs, cumbersome, runs_in, students, translated
from results.summary import in_words, interval, less, table
from support.means import spread
from support.paper import PAPER, in_brackets

LABELS = ("0.1", "0.5")  # weights


def variants() -> str:
    """C3 with other trainings of the student, all of the default teacher."""
    with_labels = {w: students("distilled_800_labels", hard_weight=w) for w in LABELS}
    runs = {
        "60 epochs": students("distilled_800_60_epochs"),
        "SGD by the schedule of [DO], 300 epochs": students("distilled_800_sgd"),
        **{f"labels with a weight of {w}": found for w, found in with_labels.items()},
        "**control**: moved images, soft targets of each, 60 epochs": students("moved_images"),
    }
    usual = DISTILLED.first(800)
    rows = [["20 epochs, soft targets alone (C3)", *_errors(usual), ""]]
    for name, each in runs.items():
        more = "one seed"
        if len(each.lines) > 1:
            more = in_words(*interval(less(each.by_seed(), [usual.by_seed()])))
        rows.append([name, *_errors(each), more])
    return table([f"student, {student(800)}", "errors", "seeds", "more than C3 (95 %)"], rows)


def _errors(runs: Runs) -> list[str]:
    """The cells of a row: mean ± standard deviation, and of how many."""
    return [spread(runs.numbers("errors")), str(len(runs.lines))]


def lowest() -> str:
    """Errors after the last epoch beside the lowest of any: what choosing it would have gained."""
    claims = [
        ("C1", f"cumbersome net, {TEACHER_LENGTH:,} epochs", cumbersome(TEACHER_LENGTH)),
        ("C2", "small net, 800 units", runs_in("small_800")),
        ("C3", DISTILLED.in_words(800), DISTILLED.of_teacher(800)),
        *(("C6", NEVER_3.in_words(n), NEVER_3.of_teacher(n)) for n in SIZES),
        *(("C8", ONLY_7_8.in_words(n), ONLY_7_8.of_teacher(n)) for n in SIZES),
    ]
    rows = []
    for number, name, runs in claims:
        errors = [spread(runs.numbers(column)) for column in ("errors", "lowest_errors")]
        paper = in_brackets(PAPER[number][:1])
        rows.append([f"{number}: {name}", paper, *errors, len(runs.lines)])
    return table(["", "paper", "last epoch", "lowest of all epochs", "seeds"], rows)


def tries() -> str:
    """C3 if one reported the lowest count of any epoch, of the best of several runs."""
    runs = DISTILLED.of_teachers(800)
    lowest = new_run([each.numbers("lowest_errors") for each in runs])
    enough = lowest.chance_of_at_most(PAPER["C3"][0])
    rows = [[n, f"{1 - (1 - enough) ** n:.0%}".replace("%", " %")] for n in (1, 5, 10)]
    return table(["runs", f"chance of {PAPER['C3'][0]} errors or fewer"], rows)


def translations() -> str:
    """C3': mean errors on the test images as they are and moved by 1, 2 and 3 pixels."""
    nets = {
        "3,000-epoch teachers": ("ensemble_3000", "cumbersome_3000_seed_"),
        "ensemble of the three 3,000-epoch teachers": ("ensemble_3000", "the ensemble"),
        "students of the 3,000-epoch teacher of seed 0": ("translated", "distilled_"),
        "small net, 800 units, labels": ("translated", "small_"),
        "60-epoch teacher": ("translated_60", "cumbersome_"),
        "students of the 60-epoch teacher": ("translated_60", "of_jittered_"),
        "60-epoch teacher, trained without jitter": ("translated_60", "unjittered_"),
        "students of the 60-epoch teacher without jitter": ("translated_60", "of_unjittered_"),
    }
    rows = []
    for name, (file, start) in nets.items():
        found = translated(file, start)
        rows.append([name, *map(spread, found), len(found[0])])
    return table(["test images moved by", "0 pixels", "1", "2", "3", "seeds"], rows)
