"""Beyond the claims: biases, every digit, length of teacher training, translations, trials."""

import statistics
from itertools import takewhile

import numpy as np

from results.claims import (
    SHIFT_OF_3,
    SHIFT_OF_7_AND_8,
    STUDENTS,
    distilled,
    never_saw_3,
    of_teachers,
    over_seeds,
    saw_7_and_8,
    student,
    where,
)
from results.intervals import new_run
from results.runs import (
    COMPARED_LENGTHS,
    LENGTHS,
    PAPER_NET,
    TEACHER_LENGTH,
    Runs,
    cumbersome,
    first_students,
    runs_in,
    students,
    translated,
)
from results.summary import table
from support.means import deviation, spread
from support.paper import PAPER, in_brackets

LABELS = ("0.1", "0.5")  # weights
RATES = (10, 5, 3)  # at which the first epochs of that schedule were trained


def labels() -> str:
    """C3 with labels in the loss as well."""
    runs = {"0": distilled(800)}
    runs |= {weight: students("distilled_800_labels", hard_weight=weight) for weight in LABELS}
    rows = [[w, spread(each.numbers("errors")), len(each.lines)] for w, each in runs.items()]
    return table(["weight of the labels", "errors", "seeds"], rows)


def shifts() -> str:
    """C6 to C8: errors as learned, and at three shifts of the biases."""
    rows = []
    for units in STUDENTS:
        for name, runs, counted in (
            ("never saw a 3, {} (errors on 3s)", never_saw_3(units), ("errors", "on_group")),
            ("saw 7s and 8s only, {}", saw_7_and_8(units), ("errors",)),
        ):
            cells = []
            for shift in ("learned", "paper", "best", "label_free"):
                by = statistics.mean(runs.numbers(f"{shift}_shift"))
                at = f" at {by:+.1f}" if by else ""
                cells.append(over_seeds(runs, [f"{shift}_{each}" for each in counted]) + at)
            rows.append([name.format(student(units)), *cells, len(runs.lines)])
    kinds = ["as learned", "the paper's shift", "best on the test set", "by class frequencies"]
    return table(["student", *kinds, "seeds"], rows)


def by_teacher() -> str:
    """Students of each of several teachers: mean ± standard deviation over their seeds."""
    nets = [net for epochs in COMPARED_LENGTHS for net in cumbersome(epochs).each()]
    rows = []
    for units in STUDENTS:
        for name, kind, column in (
            ("distilled", "distilled", "errors"),
            ("never saw a 3", "no_three", "learned_errors"),
            (f"the same at {SHIFT_OF_3:+}", "no_three", "paper_errors"),
            ("saw 7s and 8s only", "only_7_8", "learned_errors"),
            (f"the same at {SHIFT_OF_7_AND_8:+}", "only_7_8", "paper_errors"),
        ):
            file, setting = where(kind, units)
            found = [first_students(file, net, **setting) for net in nets]
            cells = [spread(runs.numbers(column)) if runs else "" for runs in found]
            rows.append([f"{name}, {student(units)}", *cells])
    firsts = [net.lines[0] for net in nets]
    names = [f"{int(first['epochs']):,} epochs, seed {first['seed']}" for first in firsts]
    errors = [spread(net.numbers("errors")) for net in nets]
    return table(["students", *names], [["the teacher itself", *errors], *rows])


def biases() -> str:
    """C6: the learned bias of the class that was never seen beside those of the others."""
    rows = []
    for units in STUDENTS:
        learned = np.array(never_saw_3(units).numbers("biases", 10))
        others = np.delete(learned, 3, axis=1)
        each = others.mean(axis=0)
        rows.append(
            [
                student(units),
                f"{learned[:, 3].mean():+.2f} ± {deviation(learned[:, 3]):.2f}",
                f"{others.mean():+.2f}",
                f"{each.min():+.2f} to {each.max():+.2f}",
            ]
        )
    return table(["", "bias of the 3", "mean of the others", "each of the others"], rows)


def omitted_digits() -> str:
    """Each digit omitted in turn: errors as learned and shifted, and the bias of that class.

    Its bias in students that saw it is that in those which missed one of the other digits.
    """
    runs_without = {d: students("omitted_digits", omit=d) for d in "012456789"}
    runs_without["3"] = never_saw_3(300)
    learned = {d: np.mean(runs.numbers("biases", 10), axis=0) for d, runs in runs_without.items()}
    rows = []
    for digit, runs in sorted(runs_without.items()):
        seen = statistics.mean(b[int(digit)] for d, b in learned.items() if d != digit)
        cells = [f"{learned[digit][int(digit)]:+.2f}", f"{seen:+.2f}"]
        for shift in ("learned", "label_free"):
            cells.append(over_seeds(runs, [f"{shift}_errors", f"{shift}_on_group"]))
        mean_shift = statistics.mean(runs.numbers("label_free_shift"))
        rows.append([digit, *cells, f"{mean_shift:+.2f}", len(runs.lines)])
    header = ["omitted digit", "its bias", "its bias where it was seen"]
    errors = ["errors as learned (on that digit)", "errors shifted without test labels"]
    return table([*header, *errors, "shift", "seeds"], rows)


def teachers() -> str:
    """Cumbersome nets of several lengths and of PaperParams, and students that saw all digits."""
    rows = []
    for name, seeds in nets_by_length().items():
        teacher, *_ = seeds.each()
        each = [spread(runs.numbers("errors")) for runs in (teacher, seeds)]
        students = distilled(800, teacher)
        errors = in_brackets(each[: len(seeds.lines)])
        rows.append([name, errors, spread(students.numbers("errors")), len(students.lines)])
    header = ["epochs of the teacher", "its errors (over seeds)", f"distilled, {student(800)}"]
    return table([*header, "students"], rows)


def nets_by_length() -> dict[str, Runs]:
    """The cumbersome nets of each number of epochs, and last the one of PaperParams."""
    nets = {f"{epochs:,}": cumbersome(epochs) for epochs in LENGTHS}
    return nets | {"3,000, `PaperParams`": runs_in(PAPER_NET)}


def missed_by_length() -> str:
    """Students that did not see all digits, by the length of their teacher's training."""
    rows = []
    for kind, runs_of, units in (
        ("never saw a 3", never_saw_3, 800),
        ("never saw a 3", never_saw_3, 300),
        ("saw 7s and 8s only", saw_7_and_8, 300),
    ):
        for name, seeds in nets_by_length().items():
            runs = runs_of(units, seeds.each()[0])
            columns = ("learned_errors", "paper_errors", "best_errors")
            means = [f"{statistics.mean(runs.numbers(column)):,.0f}" for column in columns]
            best = round(statistics.mean(runs.numbers("best_shift")), 1) + 0.0  # no -0.0
            rows.append([f"{kind}, {student(units)}", name, *means, f"{best:+.1f}"])
    errors = ["as learned", "at the paper's shift", "at the best shift", "best shift"]
    return table(["student", "epochs of the teacher", *errors], rows)


def ensembles() -> str:
    """C3 with each of three cumbersome nets of 1,000 epochs as the teacher, and with all three."""
    teachers = {
        f"seed {seed}": (cumbersome(1000, seed=seed), f"cumbersome_1000_seed_{seed}.pt")
        for seed in range(3)
    }
    teachers["all three"] = (cumbersome(1000), "the ensemble")
    rows = []
    for name, (nets, counted) in teachers.items():
        (errors,), *_ = translated("ensemble_1000", counted)
        runs = distilled(800, nets)
        rows.append([name, f"{errors:.0f}", spread(runs.numbers("errors")), len(runs.lines)])
    return table(["teacher", "its errors", f"distilled, {student(800)}", "seeds"], rows)


def lowest() -> str:
    """Errors after the last epoch beside the lowest of any: what choosing it would have gained."""
    claims = [
        ("C1", f"cumbersome net, {TEACHER_LENGTH:,} epochs", cumbersome(TEACHER_LENGTH)),
        ("C2", "small net, 800 units", runs_in("small_800")),
        ("C3", f"distilled, {student(800)}", distilled(800)),
        *(("C6", f"never saw a 3, {student(n)}", never_saw_3(n)) for n in STUDENTS),
        *(("C8", f"saw 7s and 8s only, {student(n)}", saw_7_and_8(n)) for n in STUDENTS),
    ]
    rows = []
    for number, name, runs in claims:
        errors = [spread(runs.numbers(column)) for column in ("errors", "lowest_errors")]
        paper = in_brackets(PAPER[number][:1])
        rows.append([f"{number}: {name}", paper, *errors, len(runs.lines)])
    return table(["", "paper", "last epoch", "lowest of all epochs", "seeds"], rows)


def tries() -> str:
    """C3 if one reported the lowest count of any epoch, of the best of several runs."""
    runs = of_teachers("distilled", 800)
    lowest = new_run([each.numbers("lowest_errors") for each in runs])
    enough = lowest.chance_of_at_most(PAPER["C3"][0])
    rows = [[n, f"{1 - (1 - enough) ** n:.0%}".replace("%", " %")] for n in (1, 5, 10)]
    return table(["runs", f"chance of {PAPER['C3'][0]} errors or fewer"], rows)


def paper_params() -> str:
    """The cumbersome net by PaperParams, and at lower rates: the errors of each seed."""
    nets = [
        ("3,000", runs_in(PAPER_NET)),
        *(("300, compressed", runs_in(f"cumbersome_paper{r}")) for r in ("", "_rate_5", "_rate_3")),
        *(("the first 12", runs_in("cumbersome_paper_12", learning_rate=r)) for r in RATES),
    ]
    rows = []
    for epochs, runs in nets:
        rate = f"{runs.numbers('learning_rate')[0]:g}"
        errors, losses = (runs.numbers(column) for column in ("errors", "loss"))
        each = [", ".join(f"{e:,.0f}" for e in errors), ", ".join(f"{x:.2f}" for x in losses)]
        rows.append([epochs, rate, *each])
    return table(["epochs", "initial rate", "errors of each seed", "loss in the last epoch"], rows)


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
