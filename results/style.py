"""The style that all figures share."""

from typing import Any

from support.errors import UserError

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STYLE = {
    "figure.facecolor": "white",  # opaque, so that it can be read on a dark page too
    "figure.constrained_layout.use": True,
    "figure.dpi": 160,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}
WIDTH = 6.4  # inches, of every figure: its text can be read on a phone


def pyplot() -> Any:
    """matplotlib.pyplot in our style, without a display. Raises UserError if it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install matplotlib") from None
    except ValueError as error:  # for what is in $MPLBACKEND
        raise UserError(f"cannot use matplotlib: {error}") from None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    return plt


def logarithmic(axes: Any, axis: str, *ticks: int) -> None:
    """Make the x or y axis logarithmic, with plain numbers at `ticks` and nowhere else."""
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def legend_below(part: Any, **options: Any) -> None:
    """A legend below axes, or below the whole figure: each label once, over no data."""
    is_figure = hasattr(part, "savefig")
    found = {}
    for axes in part.axes if is_figure else [part]:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
    place = {"loc": "outside lower center"} if is_figure else below
    part.legend(found.values(), found.keys(), fontsize=9, **place, **options)
