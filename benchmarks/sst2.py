"""SST-2 end to end: the headline figures of the README.

    .venv/bin/python benchmarks/sst2.py                 # the whole search, about half an hour on two cores
    .venv/bin/python benchmarks/sst2.py --throughput    # only: our training loop beside a plain one

Needs the data folder (``--data``, default ``../shared/data``) with ``text/sst2`` and ``teachers/sst2-minilm``.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; read when torch is imported
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from compressors.distillation import Distillation
from compressors.importance import score_importance
from launch.commands import make_executor, make_tracker
from launch.recipes import load_recipe, save_recipe
from launch.report import terminal_table, write_report
from launch.report_data import report_data
from launch.results import Candidate
from launch.terminal import make_progress
from nas.bundle import Outputs
from nas.data.sources import load_data
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens
from nas.distill import distill
from nas.engine import Engine, open_record
from nas.outputs import predict_logits
from nas.pareto import pareto_front
from nas.recipe import Recipe, TrainSettings
from nas.run_folder import RunFolder, fresh_folder
from nas.teacher import load_teacher
from search_spaces.families.encoder_hf import save_hf
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.families.text_encoder import TextEncoderFamily

RECIPE = Path(__file__).with_name("sst2.yaml")


def main() -> None:
    """Run what the options ask for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--recipe", type=Path, default=RECIPE, help="of the search; its paths are filled in")
    options.add_argument("--output", type=Path, default=None, help="run folder; an existing one is continued")
    options.add_argument("--throughput", action="store_true", help="only compare training loops")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = options.parse_args()
    recipe = recipe_of(arguments.recipe, arguments.data, arguments.set)
    if arguments.throughput:
        compare_throughput(recipe)
    else:
        run_search(recipe, arguments.output)


def recipe_of(recipe: Path, data: Path, sets: list[str]) -> Recipe:
    """Return a recipe of the benchmark with paths into the data folder."""
    sst2 = data / "text" / "sst2"
    paths = {
        "teacher.model": str(data / "teachers" / "sst2-minilm"),
        "data.source": str(sst2 / "train.csv.gz"),
        "data.validation": str(sst2 / "dev.csv.gz"),
        "data.test": str(sst2 / "test.csv.gz"),
    }
    return load_recipe(str(recipe), paths, sets)


def run_search(recipe: Recipe, output: Path | None) -> None:
    """Run the search and print the figures that the README quotes."""
    folder = RunFolder(output) if output else fresh_folder(Path("runs"), recipe.name)
    folder.create()
    folder.lock()
    save_recipe(recipe, folder.recipe)
    progress, tracker, executor = make_progress(folder.log), make_tracker(recipe, folder), make_executor(recipe)
    memory = PeakMemory()
    started = time.monotonic()
    try:
        Engine(recipe, folder, executor, tracker, progress).run()
        tracker.finish("finished")
    finally:
        progress.close()
        executor.close()
    wall = time.monotonic() - started
    data = report_data(folder, recipe)
    write_report(folder.path, data)
    progress.console.print(terminal_table(data))
    print("front of the search phase (accuracy after short training, latency predicted; constraints left aside):")
    for row in whole_front(data.candidates):
        print(f"  {row.accuracy:.3f}  {row.latency_ms:6.3f} ms  {row.shape}")
    print(json.dumps(figures(folder, recipe, wall, memory.stop()), indent=2))


def whole_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in accuracy and latency, fastest first."""
    costs = np.array([[-row.accuracy, row.latency_ms] for row in candidates])
    kept = [row for row, keep in zip(candidates, pareto_front(costs), strict=True) if keep]
    return sorted(kept, key=lambda row: row.latency_ms)


def figures(folder: RunFolder, recipe: Recipe, wall_s: float, worker_mb: float) -> dict[str, object]:
    """Return the benchmark's figures from the run's record."""
    attrs = open_record(folder, recipe).attrs
    teacher, best = attrs["teacher"], attrs["students"][0]
    return {
        "minutes": round(wall_s / 60, 1),
        "seconds_per_phase": {name: round(seconds, 1) for name, seconds in attrs["seconds"].items()},
        "share_not_training_or_measuring": round(attrs["overhead"], 4),
        "share_of_slots_idle": round(attrs["idle"], 4),
        "best": best["name"],
        "shape": best["shape"],
        "accuracy_of_teacher_dev": round(best["metrics"]["accuracy"] / teacher["accuracy"], 4),
        "accuracy_dev_mean_sd": [round(best["accuracy_mean"], 4), round(best["accuracy_sd"], 4)],
        "accuracy_test_mean_sd": [round(best["test_mean"], 4), round(best["test_sd"], 4)],
        "teacher_dev_test": [round(teacher["accuracy"], 4), round(teacher["test_accuracy"], 4)],
        "speedup": round(best["measurement"]["speedup"], 2),
        "latency_ms": round(best["measurement"]["median_ms"], 3),
        "teacher_latency_ms": round(best["measurement"]["reference_ms"], 3),
        "predictor": attrs["predictor"],
        "peak_driver_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_worker_mb": round(worker_mb),
    }


class PeakMemory:
    """Watches the largest resident size of any descendant process."""

    def __init__(self) -> None:
        """Start watching, twice a second."""
        self._peak, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        """Sample until told to stop."""
        while not self._done.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    self._peak = max(self._peak, child.memory_info().rss / 2**20)
                except psutil.Error:  # it ended meanwhile
                    continue

    def stop(self) -> float:
        """Stop watching and return the peak in MiB."""
        self._done.set()
        self._thread.join()
        return self._peak


def compare_throughput(recipe: Recipe, rows: int = 2560, rounds: int = 3) -> None:
    """Print sentences per second of our loop and of a plain loop on the same student, interleaved."""
    data = load_data(recipe.data, 0)
    teacher, _ = load_teacher(recipe.teacher, data.labels)
    family = TextEncoderFamily()
    genes = {**family.warm_start(teacher.model.config, "uniform")[0]}
    genes |= {f"keep_{i}": i in (2, 5) for i in range(1, 6)} | {"ffn": 768}
    architecture = family.architecture(teacher.model.config, genes, "uniform")
    sample = tokenize(teacher.tokenizer, data.train, recipe.data.max_length).subset(np.arange(rows))
    outputs = Outputs(predict_logits(teacher.model, sample).astype(np.float16))
    batch = sample.collate(np.arange(64))
    importance = score_importance(teacher.model, [(batch, torch.from_numpy(sample.labels[:64]))], "first_order")
    live = AutoModelForSequenceClassification.from_pretrained(recipe.teacher.model, dtype=torch.float32).eval()
    plain, ours = [], []
    for _ in range(rounds):
        student = family.build(teacher.model, architecture, importance)
        plain.append(_plain_loop(_as_transformers(student), live, sample, 640))
        epochs = distill(student, sample, outputs, TrainSettings(epochs=1), seed=0, loss=Distillation()).epochs
        ours.append(epochs[-1].sentences_per_s)
        print(f"plain {plain[-1]:.0f}, ours {ours[-1]:.0f} sentences/s", flush=True)
    first, second = statistics.median(plain), statistics.median(ours)
    threads = torch.get_num_threads()
    print(
        f"{architecture.describe()}, {threads} threads: {second:.0f} / {first:.0f} = {second / first:.1f} times faster"
    )


def _as_transformers(student: TextEncoder) -> torch.nn.Module:
    """Return a student as the plain transformers model that loads from its folder."""
    with tempfile.TemporaryDirectory() as folder:
        save_hf(student, Path(folder))
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


def _plain_loop(student: torch.nn.Module, teacher: torch.nn.Module, tokens: Tokens, rows: int) -> float:
    """Return sentences/s of the usual loop: live teacher, random batches padded to their longest, all parameters."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4)
    order = np.random.default_rng(0).permutation(len(tokens))[:rows]
    student.train()
    started = time.perf_counter()
    for start in range(0, rows, 32):
        ids, mask, types = tokens.collate(order[start : start + 32])
        labels = torch.from_numpy(tokens.labels[order[start : start + 32]])
        with torch.no_grad():
            soft = F.softmax(teacher(ids, mask, types).logits / 2, dim=-1)
        logits = student(ids, mask, types).logits
        kl = F.kl_div(F.log_softmax(logits / 2, dim=-1), soft, reduction="batchmean") * 4
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    return rows / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
