import re
from collections import Counter

import pytest

from nas.data import docstrings
from nas.data.docstrings import LIBRARIES, SPLIT_SIZES, load_docstrings
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


def test_rows_are_whole_sentences_of_5_to_40_words_without_markup(data):
    for text in all_texts(data):
        assert 5 <= len(text.split()) <= 40
        assert text[0].isupper()
        assert text.endswith(".")
        assert "`" not in text
        assert ">>>" not in text


def test_a_second_reading_is_equal(data):
    assert load_docstrings().fingerprint == data.fingerprint


def test_the_libraries_are_not_imported():
    import subprocess
    import sys

    code = "import sys; from nas.data.docstrings import _new_sentences as s; next(s('networkx', set())); "
    code += "assert not {'networkx', 'sqlalchemy', 'transformers', 'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
