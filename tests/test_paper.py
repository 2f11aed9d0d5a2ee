"""The numbers of the paper, and beside which nets they stand."""

import pytest

from support.paper import paper_errors

PUBLISHED = {"dropout_hidden": 0.5, "dropout_visible": 0.2, "max_squared_length": 15.0, "jitter": 2}


@pytest.mark.parametrize(
    ("units", "temperature", "changes", "digits", "name", "errors"),
    [
        (1200, None, PUBLISHED, range(10), "MNIST", 67),
        (800, None, {}, range(10), "MNIST", 146),
        (800, 20.0, {}, range(10), "MNIST", 74),
        (800, 8.0, {}, range(10), "MNIST", None),
        (300, None, {}, range(10), "MNIST", None),
        (1200, None, {}, range(10), "MNIST", None),
        *[(1200, None, PUBLISHED | {n: 0}, range(10), "MNIST", None) for n in PUBLISHED],
        *[(800, None, {n: PUBLISHED[n]}, range(10), "MNIST", None) for n in PUBLISHED],
        (800, 20.0, {}, (7, 8), "MNIST", None),
        (1200, None, PUBLISHED, range(10), "sample", None),
        (1200, None, PUBLISHED, range(10), "MNIST validation", None),
    ],
)
def test_the_number_of_the_paper_stands_only_beside_a_net_like_it(
    units, temperature, changes, digits, name, errors
):
    parameters = dict.fromkeys(PUBLISHED, 0) | changes
    if temperature:
        parameters["temperature"] = temperature
    data = {"name": name, "digits": list(digits)}
    record = {"hidden_units": units, "parameters": parameters, "data_set": data}
    assert paper_errors(record) == errors
