"""The peak memory of a process that runs a model."""

import numpy as np
import pytest
import torch

from nas.devices.base import Workload
from nas.devices.memory import peak_memory
from nas.devices.onnx_text_encoder import build_onnx
from search_spaces.errors import DeviceError
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

CALL = Workload(batch=1, tokens=8)


def artefact(words: int) -> bytes:
    torch.manual_seed(0)
    shape = ("bert", words, 32, 2, 64, 64, 0, 16, (4,), (64,), "gelu", "tanh", 1e-12, 0.0, 0, 0, ("no", "yes"))
    return build_onnx(TextEncoder(EncoderConfig(*shape)).eval())


def test_a_larger_model_takes_more_memory_by_about_its_size() -> None:
    small, large = artefact(100), artefact(200_000)
    one, other = peak_memory(small, CALL, 1), peak_memory(large, CALL, 1)
    assert other.total_bytes - one.total_bytes > 0.9 * (len(large) - len(small))
    assert 0 < one.idle_bytes < one.total_bytes


def test_what_this_process_holds_does_not_count() -> None:
    held = np.ones(400_000_000 // 8)  # getrusage of a child would say 400 MB
    assert peak_memory(artefact(100), CALL, 1).total_bytes < 300e6 < held.nbytes


def test_a_file_that_is_no_model_is_one_line() -> None:
    with pytest.raises(DeviceError, match="the process ended with code 1"):
        peak_memory(b"no model", CALL, 1)
