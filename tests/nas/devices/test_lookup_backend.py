"""Latencies from a table: by shape, by file, and what is said where the table does not know."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressors.int8 import DynamicInt8
from nas.devices.base import Workload
from nas.devices.lookup_backend import Lookup
from nas.devices.onnx_text_encoder import build_onnx
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError
from tests.nas.devices.test_onnx_text_encoder import BERT, encoder

SMALL, LARGE = build_onnx(encoder(replace(BERT, heads=(2,), ffn=(32,)))), build_onnx(encoder(BERT))


def device(table: Path) -> Lookup:
    return Lookup(DeviceSettings(name="phone", backend="lookup", options={"table": str(table)}))


def by_shape(folder: Path) -> Path:
    table = folder / "t.csv"
    table.write_text(
        "depth,heads,ffn,tokens,weights,latency_ms,p95_ms\n"
        "1,2,32,8,float32,0.50,0.75\n1,2,32,16,float32,0.90,\n1,2,32,8,int8,0.25,\n3,6-3-5,64-96-32,8,float32,2.0,2.5\n"
    )
    return table


def test_a_shape_is_found_with_its_reference(tmp_path: Path) -> None:
    (seen,) = device(by_shape(tmp_path)).measure([SMALL], LARGE, Workload(1, 8))
    assert (seen.median_ms, seen.p95_ms, seen.reference_ms, seen.speedup) == (0.5, 0.75, 2.0, 4.0)
    assert (seen.origin, seen.n, seen.size_bytes) == ("looked up", 0, len(SMALL))


def test_quantized_files_have_rows_of_their_own_and_a_mix_is_a_mean(tmp_path: Path) -> None:
    phone = device(by_shape(tmp_path))
    assert phone.measure([DynamicInt8().apply(SMALL)], None, Workload(1, 8))[0].median_ms == 0.25
    mixed = phone.measure([SMALL], None, Workload(1, 10, ((8, 0.75), (16, 0.25))))[0]
    assert mixed.median_ms == pytest.approx(0.75 * 0.5 + 0.25 * 0.9)


def test_a_file_is_found_by_its_sum(tmp_path: Path) -> None:
    rows = [{"sha256": hashlib.sha256(each).hexdigest(), "latency_ms": i + 1} for i, each in enumerate((SMALL, LARGE))]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert [m.median_ms for m in device(tmp_path / "t.json").measure([SMALL, LARGE], None, Workload(1, 8))] == [1, 2]


def test_what_is_not_in_the_table_is_said_with_its_keys(tmp_path: Path) -> None:
    message = r"device 'phone': 0 of 4 rows of .*t\.csv fit depth 1, heads 2, ffn 32, tokens 9, weights float32; one"
    with pytest.raises(DeviceError, match=message):
        device(by_shape(tmp_path)).measure([SMALL], None, Workload(1, 9))


def test_several_rows_that_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("depth,latency_ms\n1,2\n1,3\n")
    with pytest.raises(DeviceError, match="2 of 2 rows"):
        device(tmp_path / "t.csv").measure([SMALL], None, Workload(1, 8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, r"t\.csv cannot be read \(No such file"),
        ("t.csv", "depth,latency_ms\n", "has 0 rows"),
        ("t.csv", "depth,latency_ms\n1,fast\n", r"row 1: latency_ms: 'fast' is no latency"),
        ("t.csv", "depth,latency_ms\n1,-2\n", "'-2' is no latency"),
        ("t.csv", "latency_ms\n2\n", "row 1: has no column but latency_ms"),
        ("t.json", "{}", "holds a dict; give a list"),
        ("t.json", "[", "is no table"),
    ],
)
def test_a_table_that_is_none_is_refused_before_anything_starts(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        device(tmp_path / name).check()
    assert "\n" not in str(caught.value)
