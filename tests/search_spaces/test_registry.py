import sys
from fractions import Fraction

import pytest

from search_spaces.errors import ConfigError
from search_spaces.registry import Table, unknown_name

SHAPES = Table("shape", {"fraction": "fractions:Fraction", "decimal": "decimal:Decimal", "absent": "no_such_module:X"})


def test_a_table_is_a_read_only_mapping_of_names_to_places():
    assert dict(SHAPES)["fraction"] == "fractions:Fraction"
    assert len(SHAPES) == 3
    assert "square" not in SHAPES
    with pytest.raises(KeyError):
        SHAPES["square"]


def test_a_row_is_loaded_by_its_name():
    assert SHAPES.load("fraction") is Fraction


def test_listing_a_table_imports_nothing():
    sys.modules.pop("this", None)
    assert list(Table("poem", {"zen": "this:s"})) == ["zen"]
    assert "this" not in sys.modules


def test_later_changes_of_the_rows_do_not_reach_the_table():
    rows = {"a": "math:pi"}
    table = Table("number", rows)
    rows["b"] = "math:e"
    assert list(table) == ["a"]


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError, match=r"^shape: 'fractoin' is unknown; known: .*\. Did you mean 'fraction'\?$"):
        SHAPES.load("fractoin")


def test_a_name_like_no_other_gets_no_suggestion():
    assert str(unknown_name("shape", "zzz", ["square"])) == "shape: 'zzz' is unknown; known: square."


def test_a_row_whose_module_is_missing_says_so():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        SHAPES.load("absent")
