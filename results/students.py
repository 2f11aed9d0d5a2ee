"""Students that saw all digits: labels, the choice of an epoch, moved test images."""

from results.intervals import new_run
from results.kinds import DISTILLED, NEVER_3, ONLY_7_8, SIZES
from results.runs import TEACHER_LENGTH, cumbersome, runs_in, students, translated
from results.summary import table
from support.means import spread
from support.paper import PAPER, in_brackets

LABELS = ("0.1", "0.5")  # weights


def labels() -> str:
    """C3 with labels in the loss as well."""
    runs = {"0": DISTILLED.of_teacher(800)}
    runs |= {weight: students("distilled_800_labels", hard_weight=weight) for weight in LABELS}
    rows = [[w, spread(each.numbers("errors")), len(each.lines)] for w, each in runs.items()]
    return table(["weight of the labels", "errors", "seeds"], rows)


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
        "400-epoch teachers": ("translated", "cumbersome_model_1200_seed_"),
        "1,000-epoch teachers": ("ensemble_1000", "cumbersome_1000_seed_"),
        "ensemble of the three 1,000-epoch teachers": ("ensemble_1000", "the ensemble"),
        "students of the 1,000-epoch teacher of seed 0": ("translated", "distilled_"),
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
