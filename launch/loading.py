"""How a delivered student is loaded: the lines of Python that the report and the model card show.

Knows what each file wants of its runtime; nothing of reports and cards.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.recipe import Recipe


def loading(folder: str, facts: Mapping[str, Any], recipe: Recipe) -> tuple[str, str]:
    """Return how the artefact answers to a text, and how the full-precision weights are loaded in torch.

    Args:
        folder: Of the student, as a user would type it.
        facts: What the student's manifest says of the recipe's device.
        recipe: For one device.
    """
    return artefact_lines(folder, facts.get("artefact", "model.onnx"), recipe), _weights_lines(folder, facts["uniform"])


def artefact_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how the artefact answers to a text: the last line makes ``logits``, ``(rows, labels)``."""
    lines = LINES.get(recipe.device.backend) or LINES[Path(file).suffix]
    return lines(_quoted(folder), file, recipe)


def _onnxruntime_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how ONNX Runtime runs an ONNX file."""
    return f"""\
import numpy as np, onnxruntime
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{{folder}}/{file}", providers=["CPUExecutionProvider"])
options = dict(truncation=True, max_length={recipe.data.max_length}, return_token_type_ids=True)
row = tokenizer("a text", **options, return_tensors="np")
names = [node.name for node in session.get_inputs()]
logits = session.run(None, {{name: row[name].astype(np.int64) for name in names}})[0]"""


def _openvino_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how OpenVINO runs an ONNX file, with the arithmetic that was measured."""
    told = recipe.device.options
    target, precision = told.get("target", "CPU"), told.get("precision", "f32")
    hint = "" if precision == "auto" else f', {{"INFERENCE_PRECISION_HINT": "{precision}"}}'
    return f"""\
import numpy as np, openvino
from transformers import AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
core = openvino.Core()
model = core.read_model(f"{{folder}}/{file}")
compiled = core.compile_model(model, "{target}"{hint})
options = dict(truncation=True, max_length={recipe.data.max_length}, return_token_type_ids=True)
row = tokenizer("a text", **options, return_tensors="np")
names = [port.any_name for port in model.inputs]
logits = compiled({{name: row[name].astype(np.int64) for name in names}})[0]"""


def _torch_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how torch runs the file of its runtime."""
    return f"""\
from pathlib import Path
from transformers import AutoTokenizer
from compressors.torch_file import from_blob  # of prentice; no pickle, no remote code

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model, rounding = from_blob("student", Path(folder, "{file}").read_bytes())
options = dict(truncation=True, max_length={recipe.data.max_length}, return_token_type_ids=True)
logits = model(**tokenizer("a text", **options, return_tensors="pt")).detach().numpy()"""


def _executorch_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how ExecuTorch runs its file, whose rows are fixed."""
    return f"""\
import torch
from executorch.runtime import Runtime
from tokenizers import Tokenizer

folder = {folder}
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
tokenizer.enable_truncation({recipe.data.max_length})
tokenizer.enable_padding()
program = Runtime.get().load_program(f"{{folder}}/{file}")
method = program.load_method("forward")
rows = tokenizer.encode_batch(["a text"] * {recipe.device.batch})  # as many as the file is made for
names = ["ids", "attention_mask", "type_ids"][: method.metadata.num_inputs()]
inputs = [torch.tensor([getattr(row, name) for row in rows]) for name in names]
logits = method.execute(inputs)[0].numpy()"""


def _litert_lines(folder: str, file: str, recipe: Recipe) -> str:
    """Return how LiteRT runs its file, whose rows are fixed and whose tokens are of a few lengths."""
    return f"""\
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer

folder = {folder}
interpreter = Interpreter(f"{{folder}}/{file}")
lengths = sorted(int(name.removeprefix("tokens_")) for name in interpreter.get_signature_list())
tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
tokenizer.enable_truncation(min({recipe.data.max_length}, lengths[-1]))
tokenizer.enable_padding()
rows = tokenizer.encode_batch(["a text"] * {recipe.device.batch})  # as many as the file is made for
length = next(length for length in lengths if length >= len(rows[0]))
for row in rows:
    row.pad(length)
runner = interpreter.get_signature_runner(f"tokens_{{length}}")
columns = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
given = {{name: [getattr(row, attribute) for row in rows] for name, attribute in columns.items()}}
inputs = {{name: np.array(given[name], told["dtype"]) for name, told in runner.get_input_details().items()}}
(logits,) = runner(**inputs).values()"""


LINES: Mapping[str, Callable[[str, str, Recipe], str]] = {
    ".onnx": _onnxruntime_lines,
    ".pte": _executorch_lines,
    ".safetensors": _torch_lines,
    ".tflite": _litert_lines,
    "openvino": _openvino_lines,
}
"""By the ending of the file; a backend whose runtime is not the usual one of its file has a row of its own."""


def _weights_lines(folder: str, uniform: bool) -> str:
    """Return how torch loads the full-precision weights."""
    if uniform:
        return (
            "from transformers import AutoModelForSequenceClassification\n\n"
            f"model = AutoModelForSequenceClassification.from_pretrained({_quoted(folder)})"
        )
    return f"import nas  # of prentice; no remote code\n\nmodel = nas.load_student({_quoted(folder)})"


def _quoted(text: str) -> str:
    """Return a text as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
