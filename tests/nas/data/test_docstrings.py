import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from nas.data import docstrings
from nas.data.docstrings import LIBRARIES, MASK, SPLIT_SIZES, load_docstrings
from nas.data.splits import TextData
from search_spaces.errors import MissingDependencyError


@pytest.fixture(scope="module")
def data() -> TextData:
    return load_docstrings()


def all_texts(data: TextData) -> list[str]:
    return [row[0] for split in (data.train, data.validation, data.test) for row in split.texts]


def test_all_libraries_have_equally_many_rows_in_every_split(data):
    assert data.labels == LIBRARIES
    for split, size in zip((data.train, data.validation, data.test), SPLIT_SIZES, strict=True):
        assert Counter(split.labels.tolist()) == dict.fromkeys(range(len(LIBRARIES)), size)


def test_no_two_rows_of_any_split_begin_alike(data):
    beginnings = [" ".join(re.sub("[^a-z ]", "", text.lower()).split()[:5]) for text in all_texts(data)]
    assert len(set(beginnings)) == len(beginnings)


def test_no_row_names_a_library_or_its_usual_short_name(data):
    names = re.compile("|".join([*LIBRARIES, r"\bpd\.", r"\bplt\.", r"\bnx\."]), re.IGNORECASE)
    assert [text for text in all_texts(data) if names.search(text)] == []
    assert any("library" in text for text in all_texts(data))


def test_rows_are_whole_sentences_of_12_to_40_words_without_markup(data):
    for text in all_texts(data):
        assert 10 <= len(text.split()) <= 42  # a mask may join or split words
        assert text[0].isupper() or text.startswith(MASK)
        assert text.endswith(".")
        assert "`" not in text
        assert ">>>" not in text


FIRST = "import itertools, sys, nas.data.docstrings as d; L = itertools.islice(d._new_rows('pandas', set()), 99)"


def run_fresh(code: str, hash_seed: str = "0") -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-W", "ignore", "-c", f"{FIRST}; {code}"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_every_process_reads_the_same_rows_in_the_same_order():
    assert run_fresh("print(list(L))", "1") == run_fresh("print(list(L))", "2")


def test_the_libraries_are_not_imported():
    names = {"networkx", "sqlalchemy", "transformers", "matplotlib", "pandas", "torch"}
    assert run_fresh(f"n = len(list(L)); print(n, {names} & set(sys.modules))") == "99 set()\n"


def test_a_missing_library_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(docstrings, "LIBRARIES", ("pandas_that_is_not_there",))
    with pytest.raises(MissingDependencyError, match="pip install pandas_that_is_not_there"):
        load_docstrings()


def test_a_library_with_fewer_sentences_shortens_all_classes(monkeypatch):
    monkeypatch.setattr(docstrings, "LIBRARIES", ("networkx", "idna"))
    short = load_docstrings()
    n_rows = [len(split) for split in (short.train, short.validation, short.test)]
    assert 0 < sum(n_rows) < 2 * sum(SPLIT_SIZES)
    assert all(n % 2 == 0 for n in n_rows)


def test_neighbouring_sentences_share_a_row_while_they_fit():
    sentence = "This one has ten words and ends with a stop."
    docstring = " ".join([sentence] * 6) + " " + "This one is longer than any row may be, " * 5 + "and is left out."
    rows = list(docstrings._passages(docstring))
    assert [len(row.split()) for row in rows] == [40, 20, 0]


@pytest.mark.parametrize(
    ("docstring", "sentences"),
    [
        ("One line\nthat goes on. Another one.", ["One line that goes on.", "Another one."]),
        ("See :class:`~a.b.Graph` and ``x``.", ["See a.b.Graph and x."]),
        ("Text.\n\n>>> code()\n\nArgs:\n    x: a number.\n\nMore.", ["Text.", "More."]),
        ("Parameters\n----------\nx : int\n    A number.", []),
        ("", [""]),
    ],
)
def test_prose_is_told_from_code_and_lists(docstring, sentences):
    assert list(docstrings._prose(docstring)) == sentences
