"""Print how often a student measured in two sessions agrees with itself, and whether a burner beside it is noticed.

Run: python benchmarks/run_twice.py [--sessions 8] [--starts 3] [--device cpu] [--json FILE]

A session measures untrained students beside a teacher of MiniLM's shape as a search measures its finalists: in several
fresh processes, pooled. Two sessions agree on a student's latency, or on its speed-up over the teacher, if their stated
95 % intervals overlap; the goal is 95 % of the pairs. Beside it stands the same for the speed-up by the first process
of each session alone. Then a burner keeps every other processor busy, with arithmetic or with memory: it is noticed if
a measurement is called contended, or the teacher takes longer beside it than it ever does in calm (what a search
measures again). Nothing else should run meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from compressors.int8 import DynamicInt8
from nas.calm import calm_reference_ms
from nas.devices.base import Measurement, Workload
from nas.devices.measured import pooled
from nas.devices.settings import open_device, resolved
from nas.devices.starts import measure_fresh
from nas.recipe import DeviceSettings
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

TEACHER = EncoderConfig(
    "bert", 30522, 512, 2, 384, 384, 0, 32, (12,) * 6, (1536,) * 6, "gelu", "tanh", 1e-12, 0.1, 0, 0, ("no", "yes")
)
SHAPES = {"3x384": ((12,) * 3, 384, 768), "2x256": ((8,) * 2, 256, 512), "1x128": ((4,), 128, 256)}
CALL = Workload(1, 25)
BURNERS = {
    "arithmetic": "while True: pass",
    "memory": "import numpy as np\na = np.ones(1 << 24)\nb = a.copy()\nwhile True: b[:] = a",
}

Session = list[dict[str, Measurement]]
"""One measurement of each student by each process."""


def main() -> None:
    """Print both tables, and write the figures where asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sessions", type=int, default=8)
    options.add_argument("--starts", type=int, default=3)
    options.add_argument("--device", default="cpu", help="a built-in device")
    options.add_argument("--json", type=Path, help="file for the figures")
    chosen = options.parse_args()
    settings = resolved(DeviceSettings(name=chosen.device))
    reference, artefacts = made(settings)
    sessions = []
    for i in range(chosen.sessions):
        print(f"session {i + 1} of {chosen.sessions}", file=sys.stderr, flush=True)
        sessions.append(session(settings, reference, artefacts, chosen.starts))
    figures: dict[str, Any] = {"agreement": print_agreement(sessions)}
    calm_ms = calm_reference_ms([float(m.reference_ms or 0) for each in sessions for m in whole(each).values()])
    figures["burners"] = [print_burner(name, settings, (reference, artefacts), sessions, calm_ms) for name in BURNERS]
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1))


def made(settings: DeviceSettings) -> tuple[bytes, dict[str, bytes]]:
    """Return the artefacts of a teacher and of students without training; where the device runs ONNX, in int8, too."""
    device, students = open_device(settings), {}
    torch.manual_seed(0)
    for name, (heads, hidden, ffn) in SHAPES.items():
        shape = replace(TEACHER, heads=heads, hidden=hidden, embedding=hidden, ffn=(ffn,) * len(heads))
        students[f"{name} fp32"] = device.export(TextEncoder(shape).eval())
        if device.format in DynamicInt8.formats:
            students[f"{name} int8"] = DynamicInt8().apply(students[f"{name} fp32"])
    return device.export(TextEncoder(TEACHER).eval()), students


def session(settings: DeviceSettings, reference: bytes, artefacts: Mapping[str, bytes], n_starts: int) -> Session:
    """Return what some fresh processes measure, one after the other."""
    starts = [measure_fresh(settings, list(artefacts.values()), reference, CALL)[0] for _ in range(n_starts)]
    return [dict(zip(artefacts, each, strict=True)) for each in starts]


def whole(starts: Session) -> dict[str, Measurement]:
    """Return the pooled measurement of each student."""
    return {name: pooled([start[name] for start in starts]) for name in starts[0]}


def print_agreement(sessions: Sequence[Session]) -> dict[str, dict[str, float]]:
    """Print and return how often two sessions agree on a student."""
    pools, firsts = [whole(each) for each in sessions], [each[0] for each in sessions]
    print(f"\n{len(sessions)} sessions of {len(sessions[0])} processes, every pair of them; 95 % intervals\n")
    print("| student | median | half-width | agree | speed-up | half-width | agree | one process: half-width | agree |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    found = {name: {**_agreement(pools, name), **_agreement(firsts, name, "one_")} for name in pools[0]}
    found["all"] = {key: float(np.mean([each[key] for each in found.values()])) for key in next(iter(found.values()))}
    for name, each in found.items():
        print(
            f"| {name} | {each['median_ms']:.3f} ms | {each['width']:.1%} | {each['agree']:.1%} "
            f"| {each['speedup']:.1f}x | {each['speedup_width']:.1%} | {each['speedup_agree']:.1%} "
            f"| {each['one_speedup_width']:.1%} | {each['one_speedup_agree']:.1%} |"
        )
    return found


def _agreement(seen: Sequence[Mapping[str, Measurement]], name: str, prefix: str = "") -> dict[str, float]:
    """Return what all pairs of sessions say of one student."""
    each = [session[name] for session in seen]
    figures: dict[str, Any] = {
        "median_ms": np.median([m.median_ms for m in each]),
        "speedup": np.median([m.speedup or 0 for m in each]),
    }
    for what, ends in {
        "": [(m.low_ms, m.high_ms) for m in each],
        "speedup_": [(m.speedup_low or 0, m.speedup_high or 0) for m in each],
    }.items():
        figures[f"{what}width"] = np.mean([(high - low) / (high + low) for low, high in ends])
        pairs = combinations(ends, 2)
        figures[f"{what}agree"] = np.mean([a[0] <= b[1] and b[0] <= a[1] for a, b in pairs])
    return {prefix + key: float(value) for key, value in figures.items()}


def print_burner(
    name: str,
    settings: DeviceSettings,
    models: tuple[bytes, Mapping[str, bytes]],
    sessions: Sequence[Session],
    calm_ms: float,
) -> dict[str, Any]:
    """Print and return what a burner on the other processors does to the measurements, and whether it is noticed."""
    with burner(name):
        seen = whole(session(settings, *models, len(sessions[0])))
    calm = {student: float(np.median([whole(each)[student].median_ms for each in sessions])) for student in seen}
    slower = float(np.median([m.median_ms / calm[student] for student, m in seen.items()]))
    noticed = [student for student, m in seen.items() if m.contended or (m.reference_ms or 0) > calm_ms]
    beside = float(np.median([m.reference_ms or 0 for m in seen.values()]))
    print(
        f"\nburner, {name}: students take {slower:.2f} times as long; the teacher {beside:.3f} ms, in calm at most "
        f"{calm_ms:.3f} ms; noticed for {len(noticed)} of {len(seen)} students"
    )
    return {"burner": name, "slower": slower, "reference_ms": beside, "calm_ms": calm_ms, "noticed": noticed}


@contextmanager
def burner(name: str) -> Iterator[None]:
    """Keep all processors but the last busy."""
    allowed = sorted(os.sched_getaffinity(0))
    burning = []
    for processor in allowed[:-1]:
        burning.append(subprocess.Popen([sys.executable, "-c", BURNERS[name]]))
        os.sched_setaffinity(burning[-1].pid, {processor})
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
