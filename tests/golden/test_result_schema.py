"""The contract of result.json, and that the checker of it does find what is wrong."""

import copy
import json
from typing import Any

import pytest
from golden.results import make_result, three_runs
from golden.schema import SCHEMA, violations

# Written out a second time on purpose: whoever changes the contract has to mean it.
ROUND = "round train_loss test_loss test_metric density bytes_down bytes_up seconds clients dropped"
FINAL = (
    "train_error test_error generalization_gap test_metric metric parameters parameters_kept density bytes_down "
    "bytes_up bytes_dense seconds train_flops peak_memory_bytes"
)


def test_the_contract_of_schema_1_does_not_change():
    assert SCHEMA["properties"]["schema"] == {"const": 1}
    assert SCHEMA["required"] == ["schema", "name", "config", "environment", "rounds", "final"]
    assert SCHEMA["properties"]["environment"]["required"] == ["python", "torch", "fedbonsai", "cpu", "threads"]
    assert SCHEMA["$defs"]["round"]["required"] == ROUND.split()
    assert SCHEMA["$defs"]["final"]["required"] == FINAL.split()


def test_results_of_all_shapes_keep_it():
    for result in three_runs():
        assert violations(json.loads(json.dumps(result))) == []
    assert violations(make_result(rounds=1) | {"something": "new"}) == []


def _set(*path: str | int, to: Any):
    def change(result: dict[str, Any]) -> None:
        for key in path[:-1]:
            result = result[key]
        result[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda result: result.pop("final"), "result.final is missing"),
        (lambda result: result["rounds"][3].pop("seconds"), "result.rounds[3].seconds is missing"),
        (_set("schema", to=2), "result.schema must be one of [1], got 2"),
        (_set("rounds", to={}), "result.rounds must be array, got {}"),
        (_set("rounds", 0, "bytes_up", to=1.5), "result.rounds[0].bytes_up must be integer, got 1.5"),
        (_set("rounds", 0, "clients", to=True), "result.rounds[0].clients must be integer, got True"),
        (_set("rounds", 0, "dropped", to=-1), "result.rounds[0].dropped must be at least 0, got -1"),
        (
            _set("rounds", 0, "test_metric", to=float("nan")),
            "result.rounds[0].test_metric must be number or null, got nan",
        ),
        (_set("layers", 0, "shape", 1, to="3"), "result.layers[0].shape[1] must be integer, got '3'"),
        (_set("final", "density", to=1.01), "result.final.density must be at most 1, got 1.01"),
        (_set("final", "scope", to="all"), "result.final.scope must be one of ['global', 'personal'], got 'all'"),
    ],
)
def test_every_breach_is_found_and_named(change, said):
    result = copy.deepcopy(make_result(rounds=5))
    change(result)
    assert violations(result) == [said]


def test_a_keyword_that_is_not_checked_is_an_error():
    with pytest.raises(KeyError, match="multipleOf"):
        violations({}, {"multipleOf": 2})
