"""The numbers of the paper, and beside which nets they stand."""

import pytest

from support.paper import paper_errors

PUBLISHED = {"dropout_hidden": 0.5, "dropout_visible": 0.2, "max_squared_length": 15.0, "jitter": 2}


@pytest.mark.parametrize(
    ("units", "parameters", "data", "errors"),
    [
        (1200, PUBLISHED, {}, 67),
        (800, {}, {}, 146),
        (800, {"temperature": 20.0}, {}, 74),
        (800, {"temperature": 8.0}, {}, None),
        *[(units, {}, {}, None) for units in (300, 1200)],
        *[(1200, PUBLISHED | {name: 0}, {}, None) for name in PUBLISHED],
        *[(800, {name: PUBLISHED[name]}, {}, None) for name in PUBLISHED],
        (800, {"temperature": 20.0}, {"digits": [7, 8]}, None),
        *[(1200, PUBLISHED, {"name": name}, None) for name in ("sample", "MNIST validation")],
    ],
)
def test_the_number_of_the_paper_stands_only_beside_a_net_like_it(units, parameters, data, errors):
    record = {
        "hidden_units": units,
        "parameters": dict.fromkeys(PUBLISHED, 0) | parameters,
        "data_set": {"name": "MNIST", "digits": [*range(10)]} | data,
    }
    assert paper_errors(record) == errors
