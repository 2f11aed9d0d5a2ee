"""Teachers: what their seed, length of training, schedule and number do to them and students."""

import statistics

from results.kinds import DISTILLED, NEVER_3, ONLY_7_8, OUTCOMES, SIZES, student
from results.logistic_units import nets_so_far
from results.runs import (
    COMPARED_LENGTHS,
    LENGTHS,
    PAPER_NET,
    Runs,
    cumbersome,
    runs_in,
    translated,
)
from results.summary import in_words, interval, less, table
from support.errors import UserError
from support.means import spread
from support.paper import in_brackets

RATES = (10, 5, 3)  # at which the first epochs of the published schedule were trained


def by_teacher() -> str:
    """Students of each of several teachers: mean ± standard deviation over their seeds."""
    nets = [net for epochs in COMPARED_LENGTHS for net in cumbersome(epochs).each()]
    rows = []
    for units in SIZES:
        for says, kind, column in OUTCOMES:
            cells = [spread(kind.first(units, net).numbers(column)) for net in nets]
            rows.append([f"{says}, {student(units)}", *cells])
    firsts = [net.lines[0] for net in nets]
    names = [f"{int(first['epochs']):,} epochs, seed {first['seed']}" for first in firsts]
    errors = [spread(net.numbers("errors")) for net in nets]
    return table(["students", *names], [["the teacher itself", *errors], *rows])


def teachers() -> str:
    """Cumbersome nets of several lengths and of PaperParams, and students that saw all digits."""
    rows = []
    for name, seeds in nets_by_length().items():
        teacher, *_ = seeds.each()
        each = [spread(runs.numbers("errors")) for runs in (teacher, seeds)]
        students = DISTILLED.of_teacher(800, teacher)
        errors = in_brackets(each[: len(seeds.lines)])
        rows.append([name, errors, spread(students.numbers("errors")), len(students.lines)])
    header = ["epochs of the teacher", "its errors (over seeds)", DISTILLED.in_words(800)]
    return table([*header, "students"], rows)


def nets_by_length() -> dict[str, Runs]:
    """The cumbersome nets of each number of epochs, and last the one of PaperParams."""
    nets = {f"{epochs:,}": cumbersome(epochs) for epochs in LENGTHS}
    return nets | {"3,000, `PaperParams`": runs_in(PAPER_NET)}


def missed_by_length() -> str:
    """Students that did not see all digits, by the length of their teacher's training."""
    rows, nets = [], nets_by_length()
    for kind in (NEVER_3, ONLY_7_8):
        for name, seeds in nets.items():
            runs = kind.of_teacher(800, seeds.each()[0])
            columns = ("learned_errors", "paper_errors", "best_errors")
            means = [f"{statistics.mean(runs.numbers(column)):,.0f}" for column in columns]
            best = round(statistics.mean(runs.numbers("best_shift")), 1) + 0.0  # no -0.0
            rows.append([kind.in_words(800), name, *means, f"{best:+.1f}"])
    errors = ["as learned", "at the paper's shift", "at the best shift", "best shift"]
    return table(["student", "epochs of the teacher", *errors], rows)


def precisions() -> str:
    """C1 and C3 with a teacher of 150 epochs in each precision."""
    rows = []
    for name, net in {"fp32": runs_in("precision"), "bf16": cumbersome(150)}.items():
        runs = DISTILLED.of_teacher(800, net)
        rows.append([name, *(spread(r.numbers("errors")) for r in (net, runs)), len(runs.lines)])
    return table(["teacher of 150 epochs", "its errors", "its students", "seeds"], rows)


def ensembles() -> str:
    """C3 with three cumbersome nets as the teacher, each alone and all together."""
    rows = []
    for epochs in COMPARED_LENGTHS:
        nets = cumbersome(epochs)
        (errors,), *_ = translated(f"ensemble_{epochs}", "the ensemble")
        together = DISTILLED.first(800, nets)
        alone = [DISTILLED.first(800, net) for net in nets.each()]
        mean = statistics.mean(e for runs in alone for e in runs.numbers("errors"))
        each = [spread(nets.numbers("errors")), f"{errors:.0f}", f"{mean:.1f}"]
        fewer = less(together.by_seed(), [runs.by_seed() for runs in alone])
        cells = [*each, spread(together.numbers("errors")), in_words(*interval(fewer))]
        rows.append([f"{epochs:,}", *cells])
    header = ["epochs of the nets", "their errors", "the ensemble's", "distilled from one net"]
    return table([*header, "distilled from all three", "difference (95 % interval)"], rows)


def paper_params() -> str:
    """The cumbersome net by PaperParams, and at lower rates: the errors of each seed."""
    nets = [
        ("3,000", runs_in(PAPER_NET)),
        *(("300, compressed", runs_in(f"cumbersome_paper{r}")) for r in ("", "_rate_5", "_rate_3")),
        *(("the first 12", runs_in("cumbersome_paper_12", learning_rate=r)) for r in RATES),
        ("the first 12; initial weights from N(0, 0.1²)", runs_in("cumbersome_paper_12_variance")),
    ]
    rows = []
    for epochs, runs in nets:
        rate = f"{runs.numbers('learning_rate')[0]:g}"
        errors, losses = (runs.numbers(column) for column in ("errors", "loss"))
        each = [", ".join(f"{e:,.0f}" for e in errors), ", ".join(f"{x:.2f}" for x in losses)]
        rows.append([epochs, rate, *each])
    return table(["epochs", "initial rate", "errors of each seed", "loss in the last epoch"], rows)


def logistic_units() -> str:
    """The published schedule in 300 epochs, with the units that it was published for and others."""
    nets = nets_so_far().values()
    if {net["data_set"] for net in nets} != {"MNIST"}:
        raise UserError("results/logistic_units.json has no net, or one that is not of MNIST")
    errors = {"logistic": [net["result"]["errors"] for net in nets]}
    errors["rectified linear"] = runs_in("cumbersome_paper").numbers("errors")
    rows = [[name, ", ".join(f"{e:.0f}" for e in each)] for name, each in errors.items()]
    return table(["hidden units", "errors of each seed"], rows)
