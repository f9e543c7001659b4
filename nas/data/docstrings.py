"""The built-in data set: which library do these sentences of a docstring come from?

Six libraries that the project installs anyway, their names masked. Sources are parsed, never imported; equal versions
of the libraries give equal rows, whatever the seed of the search.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from nas.data.splits import Split, TextData
from search_spaces.errors import MissingDependencyError

LIBRARIES = ("matplotlib", "mlflow", "networkx", "pandas", "sqlalchemy", "transformers")
SPLIT_SIZES = (600, 150, 150)  # train, validation and test rows of each library
MASK = "library"
_FILE_CAP = 30  # rows of one file, so that no file's subject decides what its library is
_MIN_WORDS, _MAX_WORDS = 12, 40

_NAMES = re.compile(
    r"matplotlib|mpl_|mlflow\w*|networkx|pandas|sql ?alchemy|transformers|hugging ?face|\b(plt|mpl|nx|pd|sa|hf)\b", re.I
)
_FOREIGN = {"tests", "testing", "externals", "_vendor", "thirdparty_files"}  # folders of other people's text
_ROLE = re.compile(r":[a-z:]+:`~?(?:[^`<]*<)?[.~]?([^`>]*)>?`")  # :class:`~a.B` and :ref:`text <a.B>` mean a.B
_NOT_PROSE = re.compile(r"^\s*(>>>|\.\.|[-:*|+=#@`])|:\s*$|^\S+ : ", re.MULTILINE)  # code, lists, tables, headings
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def load_docstrings() -> TextData:
    """Return 3,600 training, 900 validation and 900 test rows of a few sentences, all libraries alike.

    Raises:
        MissingDependencyError: One of the libraries is not installed.
    """
    beginnings: set[str] = set()
    bounds = np.cumsum([0, *SPLIT_SIZES])
    found = [list(islice(_new_rows(library, beginnings), bounds[-1])) for library in LIBRARIES]
    n_rows = min(map(len, found))  # less than wanted where another version of a library holds less
    shuffled = [sorted(rows[:n_rows], key=_digest) for rows in found]
    train, validation, test = (
        _interleaved([rows[start:stop] for rows in shuffled]) for start, stop in pairwise(bounds * n_rows // bounds[-1])
    )
    return TextData(train, validation, test, LIBRARIES)


def _interleaved(classes: list[list[str]]) -> Split:
    """Return one split of equally many rows of each class, the classes in turn."""
    texts = tuple((text,) for row in zip(*classes, strict=True) for text in row)
    return Split(texts, np.tile(np.arange(len(classes), dtype=np.int64), len(classes[0])))


def _digest(text: str) -> bytes:
    """Return a key that sorts texts in an order that looks random and is the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def _new_rows(library: str, beginnings: set[str]) -> Iterator[str]:
    """Yield masked rows of a library whose first five words are not yet in ``beginnings``, and add them."""
    for path in _source_files(library):
        fresh = (text for text in _file_rows(path) if _is_new(text, beginnings))
        yield from islice(fresh, _FILE_CAP)


def _is_new(text: str, beginnings: set[str]) -> bool:
    """Remember how a row begins; False when another one began alike (such are copies, or nearly)."""
    beginning = " ".join(re.sub(r"[^a-z ]", "", text.lower()).split()[:5])
    is_new = beginning not in beginnings
    beginnings.add(beginning)
    return is_new


def _source_files(library: str) -> list[Path]:
    """Return the source files of an installed library in an order that looks random and is the same everywhere."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"data 'docstrings': library {library!r} is not installed; all of {', '.join(LIBRARIES)} are needed. "
            f"Install it with: pip install {library}"
        )
    root = Path(spec.submodule_search_locations[0])
    names = [path.relative_to(root) for path in root.rglob("*.py")]
    own = [name for name in names if not _FOREIGN & set(name.parts)]
    return [root / name for name in sorted(own, key=lambda name: _digest(name.as_posix()))]


def _file_rows(path: Path) -> Iterator[str]:
    """Yield the masked rows of all docstrings of a file."""
    for docstring in _docstrings(ast.parse(path.read_bytes())):
        for text in _passages(docstring):
            if len(text.split()) >= _MIN_WORDS and _is_plain(text):
                yield _NAMES.sub(MASK, text)


def _docstrings(node: _Documented) -> Iterator[str]:
    """Yield the docstrings of a module, class or function and of all that is defined directly within."""
    docstring = ast.get_docstring(node)
    if docstring:
        yield docstring
    for child in node.body:
        if isinstance(child, _Documented):
            yield from _docstrings(child)


def _passages(docstring: str) -> Iterator[str]:
    """Yield neighbouring sentences together, as many as fit."""
    words: list[str] = []
    for sentence in map(str.split, _prose(docstring)):
        if len(words) + len(sentence) > _MAX_WORDS:
            yield " ".join(words)
            words = []
        words += sentence if len(sentence) <= _MAX_WORDS else []
    yield " ".join(words)


def _prose(docstring: str) -> Iterator[str]:
    """Yield the sentences of the paragraphs that are prose, without markup."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        if not _NOT_PROSE.search(paragraph):
            yield from _SENTENCE_END.split(" ".join(_ROLE.sub(r"\1", paragraph).replace("`", "").split()))


def _is_plain(text: str) -> bool:
    """Return whether a text is whole and mostly made of words."""
    n_letters = sum(character.isalpha() or character == " " for character in text)
    return text[0].isupper() and text.endswith(".") and n_letters >= 0.9 * len(text)
