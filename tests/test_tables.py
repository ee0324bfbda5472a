import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcbook.tables import decode_table, decode_value, encode_table, encode_value


def round_trip(table):
    text = json.dumps(encode_table(table), allow_nan=False)
    return decode_table(json.loads(text))


def test_every_kind_of_column_comes_back():
    table = pd.DataFrame(
        {
            "double": np.array([0.1, math.nan, math.inf, -math.inf, -0.0]),
            "single": np.array([0.1, 1e-38, math.nan, 3, 4], dtype="float32"),
            "half": np.array([0.1, 1, 2, 3, 4], dtype="float16"),
            "whole": np.array([1, -2, 2**62, 4, 5]),
            "small": np.array([1, 2, 3, 4, 255], dtype="uint8"),
            "truth": [True, False, True, True, False],
            "text": ["a", "é", "", "nan", "5"],
            "text or nothing": ["a", None, "b", None, "c"],
            "mixed": pd.Series([1, "a", None, 2.5, True], dtype="object"),
            "missing whole": pd.array([1, None, 3, 4, 5], dtype="Int64"),
            "missing truth": pd.array([True, None, False, True, True], dtype="boolean"),
        }
    )
    back = round_trip(table)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert list(back.dtypes) == list(table.dtypes)
    assert math.copysign(1, back["double"][4]) == -1
    assert [type(x) for x in back["mixed"]] == [type(x) for x in table["mixed"]]


def test_nan_among_objects_is_not_none():
    back = round_trip(pd.DataFrame({"x": pd.Series([math.nan, None, -math.inf], dtype="object")}))
    assert math.isnan(back["x"][0])
    assert back["x"][1] is None
    assert back["x"][2] == -math.inf


@pytest.mark.parametrize("dtype", ["float64", "int64", "bool", "str", "object"])
def test_an_empty_column_keeps_its_type(dtype):
    table = pd.DataFrame({"x": pd.Series([], dtype=dtype)})
    pd.testing.assert_frame_equal(round_trip(table), table)


def test_no_columns():
    assert round_trip(pd.DataFrame()).shape == (0, 0)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.floats(width=64), max_size=20), st.lists(st.text(), max_size=20))
def test_floats_and_texts_come_back_bit_for_bit(numbers, texts):
    back = round_trip(pd.DataFrame({"x": np.array(numbers, dtype="float64")}))["x"].to_numpy()
    expected = np.array(numbers, dtype="float64")
    assert np.array_equal(np.isnan(back), np.isnan(expected))
    kept = ~np.isnan(expected)
    assert back[kept].tobytes() == expected[kept].tobytes()
    assert round_trip(pd.DataFrame({"s": pd.Series(texts, dtype="str")}))["s"].tolist() == texts


@pytest.mark.parametrize("value", ["a", True, 3, 2.5, None, np.int32(4), np.bool_(True)])
def test_values_come_back(value):
    back = decode_value(json.loads(json.dumps(encode_value(value), allow_nan=False)))
    assert back == value
    assert type(back) in (type(value), type(getattr(value, "item", lambda: value)()))


@pytest.mark.parametrize("value", [[1], {}, object(), 1j])
def test_other_values_are_refused_by_name(value):
    with pytest.raises(TypeError, match="the seed: expected text, a number"):
        encode_value(value, "the seed")


def test_tables_that_cannot_be_kept_are_refused():
    with pytest.raises(TypeError, match="expected a pandas DataFrame, found list"):
        encode_table([1])
    with pytest.raises(ValueError, match="default index"):
        encode_table(pd.DataFrame({"x": [1, 2]}, index=["a", "b"]))
    with pytest.raises(ValueError, match="distinct texts"):
        encode_table(pd.DataFrame([[1, 2]], columns=["x", "x"]))
    with pytest.raises(ValueError, match="distinct texts"):
        encode_table(pd.DataFrame([[1, 2]]))
    with pytest.raises(TypeError, match="column 'when'.*datetime64"):
        encode_table(pd.DataFrame({"when": pd.to_datetime(["2026-01-01"])}))
    with pytest.raises(TypeError, match="column 'x', row 1: expected text"):
        encode_table(pd.DataFrame({"x": [1, [2]]}))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (3, "expected columns by name"),
        ({"x": 3}, "column 'x': expected a dtype and values"),
        ({"x": {"dtype": "float64"}}, "column 'x': expected a dtype and values"),
        ({"x": {"dtype": "date", "values": []}}, "expected a known dtype, found 'date'"),
        ({"x": {"dtype": "int64", "values": [1.5]}}, "column 'x' of int64: expected int"),
        ({"x": {"dtype": "bool", "values": [1]}}, "column 'x' of bool: expected bool"),
        ({"x": {"dtype": "uint8", "values": [256]}}, "column 'x' of uint8"),
        ({"x": {"dtype": "float64", "values": ["abc"]}}, "column 'x' of float64"),
        ({"x": {"dtype": "object", "values": [[]]}}, "column 'x' of object"),
        (
            {
                "x": {"dtype": "int64", "values": [1]},
                "y": {"dtype": "int64", "values": [1, 2]},
            },
            "columns of one length",
        ),
    ],
)
def test_damaged_columns_are_named(columns, found):
    with pytest.raises(ValueError, match=found):
        decode_table(columns)
