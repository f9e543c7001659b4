from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compressors.static_int8 import StaticInt8
from nas.bundle import Bundle, Outputs
from nas.executor import Task
from nas.prepare import prepare
from nas.progress import Silent
from nas.recipe import Recipe, TrainSettings
from nas.run_folder import RunFolder
from nas.stages import CALIBRATION_ROWS, compress
from nas.trial import measure_shapes, train_student
from nas.workbench import workbench
from search_spaces.errors import ConfigError
from tests.conftest import write_rows

COMPRESS = {
    "weights_4bit": {"scope": "tables", "block": 32, "symmetric": True, "table_bits": 8, "exclude": ""},
    "static_int8": {"calibration": "percentile", "per_channel": True, "exclude": "head.*"},
}
SHAPE = {"keep_1": False, "keep_2": True, "hidden": 32, "ffn": 32}


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose recipe quantizes in two steps, one of which looks at activations."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "quantized")
    folder.create()
    rows = write_rows(tmp_path_factory.mktemp("data") / "train.csv", 900, 0)
    recipe = {
        "teacher": {"model": str(tiny_teacher)},
        "data": {"source": str(rows), "validation_share": 0.3},
        "compress": COMPRESS,
    }
    return prepare(Recipe.model_validate(recipe), folder, Silent()).bundle


def genes(bundle: Bundle, enabled: bool = True) -> dict[str, Any]:
    switches = {f"{name}.enabled": enabled for name in COMPRESS}
    return workbench(bundle).candidates.space.canonical({**SHAPE, **switches})


def test_a_runner_shows_what_is_added_to_the_outputs_of_as_many_rows_as_asked_for(bundle: Bundle) -> None:
    bench = workbench(bundle)
    probe = onnx.load_model_from_string(bench.reference)
    probe.graph.output.append(onnx.helper.make_tensor_value_info("layers.0.out", onnx.TensorProto.FLOAT, None))
    for n_rows, expected in ((3, 3), (10**6, CALIBRATION_ROWS)):
        calls = list(bench.runner(n_rows)(probe.SerializeToString()))
        assert sum(len(call["logits"]) for call in calls) == expected
        assert {call["layers.0.out"].shape[2] for call in calls} == {32}
    assert len(bundle.train) > CALIBRATION_ROWS


def test_a_student_is_calibrated_and_its_reports_name_what_was_left_out(bundle: Bundle) -> None:
    train = TrainSettings(epochs=0.1, precision="fp32").model_dump()
    spec = {"genes": genes(bundle), "seed": 0, "train": train, "deliver": True}
    sure = replace(bundle, outputs=Outputs(np.zeros((len(bundle.train), 2), np.float16)))
    result = train_student(Task("t", "train", spec, {}), sure)
    operators = {node.op_type for node in onnx.load_model_from_string(result["artefact"]).graph.node}
    assert {"GatherBlockQuantized", "MatMulIntegerToFloat"} <= operators
    tables, matrices = result["reports"]
    assert {change["where"] for change in tables["changed"]} >= {"words"}
    assert {"where": "head.out.matmul", "why": "excluded by 'head.*'"} in matrices["skipped"]
    assert result["metrics"]["size_bytes"] == len(result["artefact"]) == matrices["figures"]["bytes_after"]


def test_a_student_is_deployed_with_the_ranges_that_it_learned(bundle: Bundle) -> None:
    knobs = {"scheme": "symmetric", "bits": 8, "per_channel": True, "start": 0.0, "embeddings": False}
    learning = {**knobs, "activations": "learned", "activation_bits": 8}
    fixed = {"enabled": True, "calibration": "min_max", "per_channel": True, "exclude": ""}
    recipe = {**bundle.recipe, "compress": {"quantization_aware": learning, "static_int8": fixed}}
    sure = Outputs(np.zeros((len(bundle.train), 2), np.float16))
    other = replace(bundle, recipe=recipe, outputs=sure, fingerprint="learned ranges")
    train = TrainSettings(epochs=0.1, precision="fp32").model_dump()
    spec = {"genes": workbench(other).candidates.space.canonical(SHAPE), "seed": 0, "train": train, "deliver": False}
    training, file = train_student(Task("t", "train", spec, {}), other)["reports"]
    assert set(training["ranges"]) >= {"layers.0.query", "layers.0.down", "head.out"}
    n_shared = 3  # of two layers: query, key and value of the first, key and value of the last
    assert file["figures"]["ranges_learned"] == len(training["ranges"]) - n_shared


def test_untrained_shapes_are_measured_with_ranges_too(bundle: Bundle) -> None:
    wanted = [genes(bundle, enabled) for enabled in (True, False)]
    result = measure_shapes(Task("m", "measure", {"tokens": 8, "quick": True, "candidates": wanted}, {}), bundle)
    sizes = [measurement["size_bytes"] for measurement in result["measurements"]]
    assert sizes[0] < sizes[1]


def test_a_method_that_needs_activations_says_so_when_there_are_none(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="static_int8: run is None"):
        compress(workbench(bundle).reference, [StaticInt8()])
