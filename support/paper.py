"""The numbers of the paper, and which of them a net compares with. [KD]: arXiv 1503.02531, s.3."""

from collections.abc import Sequence
from typing import Any

# Errors of 10,000 and, where [KD] gives them, those on the digit that was left out.
PAPER = {
    "C1": (67,),  # the cumbersome net
    "C2": (146,),  # the small net
    "C3": (74,),  # the distilled net
    "C6": (206, 133),  # a student that never saw a 3
    "C7": (109, 14),  # the same, its bias raised by 3.5
    "C8": (4730,),  # one that saw 7s and 8s only: "47.3%"
    "C8 shifted": (1320,),  # the same, their biases lowered by 7.6: "13.2%"
}
# By the digits that were left out or in: [KD]'s shift of their biases, chosen on the test set, and
# the claims before and after it. [KD] gives neither width nor temperature of these students.
PAPER_SHIFTS = {
    ("omit", (3,)): (+3.5, "C6", "C7"),
    ("keep", (7, 8)): (-7.6, "C8", "C8 shifted"),
}


def in_brackets(errors: Sequence[int | str]) -> str:
    """The first of `errors` and, if there are more, the others in brackets: "206 (133)"."""
    words = [f"{n:,}" if isinstance(n, int) else n for n in errors]
    return " ".join(words[:1] + [f"({n})" for n in words[1:]])


def paper_errors(record: dict[str, Any]) -> int | None:
    """The paper's errors of 10,000 for a net like that of `record` (a checkpoint), if it has one.

    A cumbersome net compares only with all of its regularisation, a small one only with none.
    """
    parameters, data = record.get("parameters", {}), record.get("data_set", {})
    if data.get("name") != "MNIST" or data.get("digits") != list(range(10)):
        return None
    names = ("dropout_visible", "dropout_hidden", "max_squared_length", "jitter")
    regularised = frozenset(name for name in names if parameters.get(name))
    claim = {
        (1200, None, frozenset(names)): "C1",
        (800, None, frozenset()): "C2",
        (800, 20.0, frozenset()): "C3",
    }.get((record["hidden_units"], parameters.get("temperature"), regularised))
    return PAPER[claim][0] if claim else None
