"""What a worker does with a request, in this process."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from sidecar.learning import worker
from sidecar.learning.payload import Message
from sidecar.learning.training import outcome_from_arrays, train
from sidecar.learning.worker import ModelSpec, ModelUnavailable, answer, build_model
from sidecar.learning.workers import FitPool, WorkerError
from sidecar.models.registry import ModelContext
from tests.unit.learning.toys import (
    POISON,
    BrokenModel,
    HarmfulModel,
    MeanModel,
    MeanState,
    OwnModel,
    instants,
)

CONTEXT = ModelContext(granularity_ms=60_000, horizon_steps=3, n_lags=4)
SPEC = ModelSpec.of(MeanModel, {}, CONTEXT)


def request(spec: ModelSpec = SPEC, poison: bool = False, **arrays: np.ndarray) -> Message:
    y = np.random.default_rng(0).normal(size=(2, 60))
    y[1, 0] = POISON if poison else 0.0
    meta = {"spec": vars(spec), "horizon_steps": 3, "validation": 0, "mode": "full_retrain"}
    return Message("train", meta, {"t_ms": instants(60), "y": y, **arrays})


def test_an_answer_is_what_training_gives() -> None:
    asked = request()
    reply = answer(asked, {})
    assert reply.kind == "done"
    got = outcome_from_arrays(MeanState, reply.arrays)
    expected = train(MeanModel(), asked.arrays["t_ms"], asked.arrays["y"], horizon_steps=3)
    np.testing.assert_array_equal(got.residuals, expected.residuals)


def test_what_a_model_raises_is_told_with_where() -> None:
    spec = ModelSpec.of(HarmfulModel, {"harm": "raise"}, CONTEXT)
    reply = answer(request(spec, poison=True), {})
    assert reply.kind == "error"
    assert reply.meta["message"].startswith("ZeroDivisionError: the poisoned series (toys.py:")


def test_a_model_that_cannot_be_built_is_not_the_fault_of_a_series() -> None:
    reply = answer(request(ModelSpec.of(BrokenModel, {}, CONTEXT)), {})
    assert reply.kind == "unavailable"
    assert "do not go together" in reply.meta["message"]


def test_a_model_is_built_once_for_each_recipe() -> None:
    models: dict[str, object] = {}
    answer(request(), models)  # type: ignore[arg-type]
    answer(request(), models)  # type: ignore[arg-type]
    answer(request(ModelSpec.of(MeanModel, {"least": 3}, CONTEXT)), models)  # type: ignore[arg-type]
    assert len(models) == 2


def test_a_spec_is_plain_json() -> None:
    assert ModelSpec(**json.loads(json.dumps(vars(SPEC)))) == SPEC


def test_models_are_named_by_the_registry_or_by_where_they_are_defined() -> None:
    assert build_model(ModelSpec.of("linear", {}, CONTEXT)).name == "linear"
    assert SPEC.model == "tests.unit.learning.toys:MeanModel"
    assert isinstance(build_model(SPEC), MeanModel)
    own = build_model(ModelSpec.of(OwnModel, {}, CONTEXT))
    assert own.fit(instants(60), np.ones((1, 60))).sigma.size == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_model", "no_such_model"),
        ("no.such.module:Model", "No module named 'no'"),
        ("tests.unit.learning.toys:NoSuch", "NoSuch"),
        ("tests.unit.learning.toys:POISON", "not a class"),
    ],
)
def test_a_model_that_is_not_there_is_told_by_its_name(model: str, message: str) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        build_model(ModelSpec.of(model, {}, CONTEXT))


def test_a_class_inside_a_function_is_refused_with_what_to_do() -> None:
    class Local(MeanModel):
        pass

    with pytest.raises(ValueError, match="define it at the top level of a module"):
        ModelSpec.of(Local, {}, CONTEXT)


SCRIPT = """
import sys
from tests.unit.learning.toys import MeanModel

class Mine(MeanModel):
    name = "mine"

if __name__ == "__main__":
    sys.exit("the script ran")
"""


def test_a_class_of_the_running_script_is_found_by_the_scripts_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(script)))
    monkeypatch.delitem(sys.modules, worker._SCRIPT, raising=False)
    mine = type("Mine", (MeanModel,), {"__module__": "__main__", "__qualname__": "Mine"})
    spec = ModelSpec.of(mine, {}, CONTEXT)
    assert spec.script == str(script)
    assert build_model(spec).name == "mine"
    monkeypatch.delitem(sys.modules, worker._SCRIPT, raising=False)


def test_a_class_of_a_module_run_as_main_is_found_by_the_modules_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = ModuleType("__main__")
    main.__spec__ = SimpleNamespace(name="tests.unit.learning.toys")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    mine = type("MeanModel", (MeanModel,), {"__module__": "__main__", "__qualname__": "MeanModel"})
    assert ModelSpec.of(mine, {}, CONTEXT).model == "tests.unit.learning.toys:MeanModel"


def test_a_class_typed_into_an_interactive_session_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    mine = type("Mine", (MeanModel,), {"__module__": "__main__", "__qualname__": "Mine"})
    with pytest.raises(ValueError, match="put it into a file"):
        ModelSpec.of(mine, {}, CONTEXT)


def test_a_script_that_starts_sentinel_when_imported_is_told_how_not_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, worker.MARK, "1")
    with pytest.raises(WorkerError, match='if __name__ == "__main__":'):
        FitPool()
