"""Figures of what the published nets answer to test images."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import Mnist, pixels
from distillation import soft_targets
from distillation_no_three import errors_at, found_shifts
from evaluate import logits_of
from layers import RectifierNet
from results.claims import saw_all_digits
from results.kinds import NEVER_3, ONLY_7_8, Kind
from results.style import BLACK, BLUE, GREEN, RED, WIDTH, legend_below
from support.checkpoints import MODELS, load_model
from support.paper import PAPER_SHIFTS
from support.teacher import TEACHER

STUDENT = MODELS / "distilled_model_800_20.pt"
TWOS = (924, 2496)  # test images that we picked: a 2 that looks like a 7, and one like a 3


class Student(NamedTuple):
    """A published student that did not see all digits."""

    kind: Kind
    file: str
    shifts: np.ndarray  # of their biases, to draw

    @property
    def net(self) -> RectifierNet:
        return load_model(MODELS / self.file)

    @property
    def digits(self) -> tuple[str, tuple[int, ...]]:
        """Which it did not see or alone saw: "omit" or "keep", and the digits."""
        ((which, digits),) = self.kind.digits.items()
        return which, tuple(map(int, str(digits).split()))


STUDENTS = (
    Student(NEVER_3, "distilled_model_wo3_800_20.pt", np.linspace(-1, 6, 281)),
    Student(ONLY_7_8, "distilled_model_only78_800_20.pt", np.linspace(-12, 2, 281)),
)


def shifts(plt: Any, mnist: Mnist) -> Any:
    """Errors against the shift of the biases of classes that were never, or alone, seen."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    for axes, student in zip(panels, STUDENTS, strict=True):
        _draw_shifts(axes, student, mnist)
        axes.set_title(student.kind.says)
    panels[0].set_ylabel("test errors")
    return figure


def _draw_shifts(axes: Any, student: Student, mnist: Mnist) -> None:
    """The panel of a student: errors in total and on its digits, and where some shifts are."""
    which, digits = student.digits
    group, labels, omitted = list(digits), mnist.test.labels, which == "omit"
    paper, *_ = PAPER_SHIFTS[which, digits]
    cases, best, _ = found_shifts(student.net, mnist, group)
    total, on_group = zip(
        *(errors_at(cases, labels, group, s) for s in student.shifts), strict=True
    )
    as_learned, shifted = (errors_at(cases, labels, group, s)[0] for s in (0.0, paper))
    names = " and ".join(f"{digit}s" for digit in group)
    curves = ((total, "all digits", BLUE, "-"), (on_group, f"on {names}", RED, "--"))
    for curve, text, colour, line in curves:
        axes.plot(student.shifts, curve, color=colour, ls=line)
        end = -1 if omitted else 0
        look = {"ha": "right" if omitted else "left", "color": colour, "fontsize": 9}
        above = {"xytext": (0, 6), "textcoords": "offset points", **look}
        axes.annotate(text, (student.shifts[end], curve[end]), **above)
    beside = {"ha": "left" if omitted else "right", "va": "bottom"}
    marks = (
        (f"as learned: {as_learned:,}", 0.0, as_learned, (5 if omitted else -5, 5), beside),
        (f"{paper:+}: {shifted:,}", paper, shifted, (4, -5), {"va": "top"}),
    )
    for label, shift, errors, offset, place in marks:
        axes.axvline(shift, color=BLACK, lw=0.8, ls=":", zorder=0)
        axes.plot(shift, errors, "o", color=BLACK, ms=5)
        where = {"xytext": offset, "textcoords": "offset points", "fontsize": 9, **place}
        axes.annotate(label, (shift, errors), **where)
    top = 1.45 * as_learned
    axes.axvline(best, color=GREEN, lw=1.2, ls="--", zorder=0)
    away = "left" if best > paper else "right"  # from the line of the paper's shift
    axes.text(best, top, " best ", color=GREEN, fontsize=9, va="top", ha=away)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"added to the bias of {' and '.join(map(str, group))}")


def unseen_logits(plt: Any, mnist: Mnist) -> Any:
    """Margins of students against those of their teacher, on digits that they saw and on others."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.0))
    teacher = logits_of(load_model(TEACHER), mnist.test.images)
    for axes, student in zip(panels, STUDENTS, strict=True):
        which, digits = student.digits
        group, logits = list(digits), logits_of(student.net, mnist.test.images)
        # Less the mean of the others: only differences between logits have a meaning.
        x, y = (_above_others(z, group) for z in (teacher, logits))
        in_group = torch.isin(mnist.test.labels, torch.tensor(group))
        seen = in_group if which == "keep" else ~in_group
        for cases, name, colour in (
            (~seen, "digits never shown", RED),
            (seen, "digits shown", BLUE),
        ):
            slope, _ = np.polyfit(x[cases], y[cases], 1)
            more = round(float((y - x)[cases].mean()), 1) + 0.0  # never -0.0
            axes.plot(x[cases], y[cases], ".", color=colour, ms=1.5, alpha=0.3, label=name)
            text = f"slope {slope:.2f}, difference {more:+.1f}"
            at = {"x": 0.03, "y": 0.97 if name == "digits shown" else 0.9, "va": "top"}
            axes.text(s=text, color=colour, fontsize=9, transform=axes.transAxes, **at)
        ends = [float(max(x.min(), y.min())), float(min(x.max(), y.max()))]
        axes.plot(ends, ends, color=BLACK, lw=1, label="student = teacher")
        axes.set_title(student.kind.says)
        names = " and ".join(map(str, group))
        axes.set_xlabel(f"teacher's margin for {names}")
        axes.set_ylabel(f"student's margin for {names}")
        axes.set_ylim(top=float(y.max()) + 0.25 * float(y.max() - y.min()))  # for the text
    legend_below(figure, ncols=3, markerscale=6)
    for mark in figure.legends[0].legend_handles:
        mark.set_alpha(1)
    return figure


def _above_others(logits: Tensor, group: list[int]) -> Tensor:
    """The mean logit of the classes in `group` less that of the others: (N, 10) to (N,)."""
    others = [k for k in range(logits.shape[1]) if k not in group]
    return logits[:, group].mean(1) - logits[:, others].mean(1)


def dark_knowledge(plt: Any, mnist: Mnist) -> Any:
    """Soft targets of the cumbersome net for two test images, on linear and shared axes."""
    temperatures = (1, 4, 20)
    teacher = load_model(TEACHER)
    shape = {"width_ratios": (0.8, 2, 2, 2), "squeeze": False}
    figure, panels = plt.subplots(len(TWOS), 4, figsize=(WIDTH, 3.2), **shape)
    for row, case in zip(panels, TWOS, strict=True):
        image = mnist.test.images[case : case + 1]
        _draw_digit(row[0], image[0])
        for axes, temperature in zip(row[1:], temperatures, strict=True):
            _draw_targets(axes, soft_targets(logits_of(teacher, image), temperature)[0])
    for axes, temperature in zip(panels[0, 1:], temperatures, strict=True):
        axes.set_title(f"T = {temperature}")
    return figure


def _draw_digit(axes: Any, image: Tensor) -> None:
    axes.imshow(image, cmap="gray_r")
    axes.axis("off")


def _draw_targets(axes: Any, targets: Tensor, colour: str = BLUE) -> None:
    """Ten bars on a linear scale from 0 to 100 %, with the two highest as numbers."""
    shares = 100 * targets
    axes.bar(range(10), shares, color=colour)
    left, right = sorted(shares.topk(2).indices.tolist())
    apart = right - left > 1  # or their numbers would run together
    for k, away in ((left, "right"), (right, "left")):
        if shares[k] > 0.5:
            place = {"ha": "center" if apart else away, "fontsize": 8}
            axes.text(k, float(shares[k]) + 2, f"{shares[k]:.0f}", **place)
    axes.set_ylim(0, 115)
    axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])
    axes.set_xticks(range(10))
    axes.tick_params(labelsize=8)


def in_one_picture(plt: Any, mnist: Mnist) -> Any:
    """What came out, beside the paper; and how: teacher, soft targets, student."""
    figure = plt.figure(figsize=(WIDTH, 3.9))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    _draw_three_nets(top.subplots())
    digit, of_teacher, of_student = bottom.subplots(1, 3, width_ratios=(0.7, 2, 2))
    digit.set_title("this 2:")
    image = mnist.test.images[TWOS[0] : TWOS[0] + 1]
    _draw_digit(digit, image[0])
    nets = (
        (of_teacher, TEACHER, "the teacher (T = 4)", BLUE),
        (of_student, STUDENT, "the distilled student (T = 4)", GREEN),
    )
    for axes, file, name, colour in nets:
        _draw_targets(axes, soft_targets(logits_of(load_model(file), image), 4.0)[0], colour)
        axes.set_title(name)
    return figure


def _draw_three_nets(axes: Any) -> None:
    """Bars of C2, C3 and C1: our mean errors, and the paper's figure."""
    claims = {claim.number: claim for claim in saw_all_digits()}
    names = {
        "C2": "small net, labels",
        "C3": "small net, distilled",
        "C1": "cumbersome net",
    }
    for place, (number, colour) in enumerate(zip(names, (RED, GREEN, BLUE), strict=True)):
        claim = claims[number]
        axes.barh(place, claim.run.mean, color=colour, height=0.6)
        axes.text(2, place, f"{claim.run.mean:.0f}", color="white", va="center", weight="bold")
        axes.plot([claim.paper[0]] * 2, [place - 0.38, place + 0.38], color=BLACK, lw=3)
        inside = claim.paper[0] < claim.run.mean
        look = {"color": "white" if inside else BLACK, "ha": "right" if inside else "left"}
        at, text = claim.paper[0] + (-2 if inside else 2), f"paper: {claim.paper[0]}"
        axes.text(at, place, text, va="center", fontsize=9, **look)
    axes.set_yticks(range(3), names.values())
    axes.invert_yaxis()
    axes.set_xlim(0, 175)
    axes.set_xlabel("errors on the 10,000 test images (our mean; black: the paper)")


def shares_on(net: RectifierNet, images: Tensor) -> list[Tensor]:
    """Of each hidden layer, the share of the uint8 images (N, 28, 28) that turn each unit on.

    float32 (units,) in [0, 1], the highest first.
    """
    shares, values = [], pixels(images)
    for layer in (net.hidden1, net.hidden2):
        values = layer(values).relu()
        shares.append((values > 0).float().mean(0).sort(descending=True).values)
    return shares


def mistakes(plt: Any, mnist: Mnist) -> Any:
    """Every test digit that the distilled net gets wrong, by whether its teacher is right."""
    images, labels = mnist.test.images, mnist.test.labels
    student, teacher = (logits_of(load_model(f), images).argmax(1) for f in (STUDENT, TEACHER))
    wrong = student != labels
    groups = {
        "the teacher is right": (wrong & (teacher == labels), BLUE),
        "the teacher is wrong, too": (wrong & (teacher != labels), RED),
    }
    columns = 12
    cases = [(mask.nonzero().flatten().tolist(), name, c) for name, (mask, c) in groups.items()]
    rows = [-(-len(found) // columns) for found, *_ in cases]
    figure = plt.figure(figsize=(WIDTH, 0.7 * sum(rows) + 0.9))
    figure.suptitle("above each image: the student's answer, and in brackets the truth", fontsize=9)
    parts = figure.subfigures(2, 1, height_ratios=[n + 0.6 for n in rows])
    for part, (found, name, colour), height in zip(parts, cases, rows, strict=True):
        part.suptitle(f"{len(found)} where {name}", color=colour, fontsize=10, weight="bold")
        panels = part.subplots(height, columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        for axes, case in zip(panels.flat, found, strict=False):
            axes.imshow(images[case], cmap="gray_r")
            axes.set_title(f"{student[case]} ({labels[case]})", fontsize=8, color=colour, pad=2)
    return figure
