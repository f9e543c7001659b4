import numpy as np
import onnx
import onnxruntime
import pytest

from compressors.half import Half
from compressors.int8 import DynamicInt8
from compressors.onnx_outputs import with_outputs
from nas.devices.onnx_text_encoder import build_onnx
from tests.compressors.encoders import encoder, texts


@pytest.mark.parametrize("method", [None, DynamicInt8, Half])
def test_each_output_has_its_columns_and_the_first_has_all(method):
    model = encoder()
    artefact = build_onnx(model) if method is None else method().apply(build_onnx(model))
    before = bytes(artefact)
    changed = with_outputs(artefact, {"logits.a": 1, "logits.b": 1})
    assert artefact == before
    onnx.checker.check_model(onnx.load_model_from_string(changed))
    batch = texts(4).collate(np.arange(4))
    feed = dict(zip(("input_ids", "attention_mask", "token_type_ids"), (part.numpy() for part in batch), strict=True))
    old, new = (onnxruntime.InferenceSession(content) for content in (artefact, changed))
    assert [output.name for output in new.get_outputs()] == ["logits", "logits.a", "logits.b"]
    assert [output.shape for output in new.get_outputs()] == [["batch", 2], ["batch", 1], ["batch", 1]]
    (expected,) = old.run(None, feed)
    logits, a, b = new.run(None, feed)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(np.concatenate([a, b], 1), expected)


def test_parts_that_are_not_all_of_the_columns_are_a_bug():
    with pytest.raises(AssertionError):
        with_outputs(build_onnx(encoder()), {"logits.a": 1})
