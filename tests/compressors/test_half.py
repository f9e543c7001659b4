import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from compressors.half import SMALLEST, Half
from compressors.int8 import DynamicInt8
from search_spaces.errors import ConfigError
from tests.compressors.artefacts import artefact, constants, error, nodes


@pytest.mark.parametrize(("format", "bound"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_the_artefact_is_nearly_half_as_large_and_nearly_the_same_function(format: str, bound: float) -> None:
    compressor = Half(format=format)
    file = compressor.apply(artefact())
    assert 0 < error(file) < bound
    saved = sum(change.before - change.after for change in compressor.report().changed)
    assert len(artefact()) - len(file) > 0.95 * saved
    assert saved > 0.45 * sum(array.nbytes for array in constants(artefact()).values())


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_constants_are_rounded_to_the_nearest_as_torch_does(format: str) -> None:
    stored = next(
        tensor
        for tensor in onnx.load_model_from_string(Half(format=format).apply(artefact())).graph.initializer
        if tensor.name == f"word_{format}"
    )
    assert stored.data_type == {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[format]
    expected = torch.from_numpy(constants(artefact())["word"].copy()).to(getattr(torch, format)).view(torch.int16)
    assert np.frombuffer(stored.raw_data, "<i2").tolist() == expected.flatten().tolist()


def test_small_constants_and_integers_stay() -> None:
    compressor = Half()
    file = compressor.apply(artefact())
    left = {name for name, array in constants(file).items() if array.dtype == np.float32}
    assert {*left, "latency"} == {skip.where for skip in compressor.report().skipped}
    assert compressor.report().skipped[-1].why.endswith("smaller, not faster")
    assert all(constants(file)[name].size < SMALLEST for name in left)
    assert constants(file)["first"].dtype == np.int64


def test_a_number_beyond_float16_stays_in_float32_and_fits_bfloat16() -> None:
    model = onnx.load_model_from_string(artefact())
    word = next(tensor for tensor in model.graph.initializer if tensor.name == "word")
    numbers = np.frombuffer(word.raw_data, np.float32).copy()
    numbers[0] = 1e5
    word.raw_data = numbers.tobytes()
    compressor = Half()
    compressor.apply(model.SerializeToString())
    assert "its largest number, 100000, is beyond float16" in {skip.why for skip in compressor.report().skipped}
    roomy = Half(format="bfloat16")
    roomy.apply(model.SerializeToString())
    assert "word" in {change.where for change in roomy.report().changed}


def test_it_follows_int8_and_stores_what_is_still_float() -> None:
    quantized = DynamicInt8().apply(artefact())
    file = Half().apply(quantized)
    assert len(file) < len(quantized)
    assert error(file) == pytest.approx(error(quantized), rel=0.1)
    assert nodes(file, "MatMulInteger")


def test_the_argument_is_not_changed_and_equal_files_give_equal_bytes() -> None:
    file = bytes(artefact())
    assert Half().apply(file) == Half().apply(file)
    assert file == artefact()
    assert Half(enabled=False).apply(file) == file


def test_twice_and_an_unknown_format_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"half: 0 of \d+ constants can be stored in 16 bits"):
        Half().apply(Half().apply(artefact()))
    with pytest.raises(ConfigError, match="'fp16' is unknown; known: float16, bfloat16"):
        Half(format="fp16")
