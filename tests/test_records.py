import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mcbook.checkout
import mcbook.files
import mcbook.records
from mcbook.checkout import NoCheckoutError
from mcbook.errors import DamagedFileError, UnknownNameError
from mcbook.records import Record, list_records, load_record, save_record

TABLE = pd.DataFrame({"width": [32, 128], "barrier": [1 / 3, np.nan], "who": ["a", "b"]})


def test_comes_back_with_its_provenance(tmp_path):
    file = save_record("barrier_width", TABLE, tmp_path, seeds=(0, 1), arguments={"lr": 0.1})
    assert file == tmp_path / "barrier_width.json"
    record = load_record("barrier_width", tmp_path)
    assert isinstance(record, Record)
    assert record.name == "barrier_width"
    pd.testing.assert_frame_equal(record.table, TABLE, check_exact=True)
    assert record.provenance["seeds"] == [0, 1]
    assert record.provenance["arguments"] == {"lr": 0.1}
    assert "barrier_width" in repr(record)


def test_provenance_is_added_by_itself_and_the_caller_wins(tmp_path):
    save_record("a", TABLE, tmp_path, device="a GPU", seconds=np.float64(3.5), where=tmp_path)
    facts = load_record("a", tmp_path).provenance
    for key in ("created", "package", "commit", "python", "torch", "numpy", "platform", "cpu"):
        assert key in facts
    assert facts["threads"] >= 1
    assert facts["device"] == "a GPU"
    assert facts["seconds"] == 3.5
    assert facts["where"] == str(tmp_path)


def test_the_file_is_strict_json_with_a_column_a_line(tmp_path):
    text = save_record("a", TABLE, tmp_path, loss=float("nan")).read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(text, parse_constant=refuse)
    assert (content["format"], content["version"], content["rows"]) == ("mcbook-record", 1, 2)
    assert content["provenance"]["loss"] == "nan"
    (line,) = [line for line in text.splitlines() if '"barrier"' in line]
    assert repr(1 / 3) in line
    assert text.endswith("}\n")


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first = save_record("a", TABLE, tmp_path).read_bytes()
    assert save_record("a", TABLE, tmp_path).read_bytes() == first


def test_an_empty_table(tmp_path):
    save_record("a", pd.DataFrame(), tmp_path)
    assert load_record("a", tmp_path).table.empty


@pytest.mark.parametrize("name", ["", "a/b", "../a", "A", "a.b", "_a", "a b", None])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="record name: expected small letters"):
        save_record(name, TABLE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_provenance_that_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"provenance\['model'\]\['a'\]\[1\]: expected text"):
        save_record("a", TABLE, tmp_path, model={"a": [1, object()]})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_offers_the_close_ones(tmp_path):
    save_record("barrier_width", TABLE, tmp_path)
    save_record("length", TABLE, tmp_path)
    assert list_records(tmp_path) == ["barrier_width", "length"]
    with pytest.raises(UnknownNameError, match="unknown record 'barier_width'.*'barrier_width'"):
        load_record("barier_width", tmp_path)
    with pytest.raises(UnknownNameError, match="there are: none"):
        load_record("a", tmp_path / "nowhere")


def damage(**changes):
    def change(content):
        return {**content, **changes}

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (damage(format="x"), "expected format 'mcbook-record', found 'x'"),
        (lambda content: [content], "expected format 'mcbook-record', found 'list'"),
        (damage(version=7), "expected version 1 of the format, found 7"),
        (damage(name="b"), "expected record 'a', found 'b'"),
        (damage(rows=3), "expected 3 rows, as it says, found 2"),
        (damage(provenance=None), "expected a provenance"),
        (damage(columns={"x": {"dtype": "int64", "values": ["1"]}}), "column 'x' of int64"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_found(tmp_path, change, found):
    file = save_record("a", TABLE, tmp_path)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(DamagedFileError, match=found) as caught:
        load_record("a", tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("part", [0, 1, 100, 400, -2])
def test_a_truncated_file_is_named(tmp_path, part):
    file = save_record("a", TABLE, tmp_path)
    file.write_bytes(file.read_bytes()[:part])
    with pytest.raises(DamagedFileError, match=r"a\.json: expected a record in JSON, found"):
        load_record("a", tmp_path)


def test_a_bare_nan_is_no_json(tmp_path):
    file = save_record("a", TABLE, tmp_path)
    file.write_text(file.read_text().replace("null", "NaN"))
    with pytest.raises(DamagedFileError, match="bare constant NaN"):
        load_record("a", tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedFileError, match=r"a\.json: expected a record in JSON"):
        load_record("a", tmp_path)


def test_a_save_that_is_cut_short_leaves_the_earlier_record(tmp_path, monkeypatch):
    file = save_record("a", TABLE, tmp_path)
    before = file.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mcbook.files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_record("a", TABLE.head(1), tmp_path)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]


def test_by_default_records_go_to_the_checkout_and_come_from_the_package(tmp_path, monkeypatch):
    checkout = mcbook.checkout.Checkout(tmp_path)
    monkeypatch.setattr(mcbook.records, "package_checkout", lambda: checkout)
    assert save_record("a", TABLE) == tmp_path / "mcbook" / "results" / "a.json"
    monkeypatch.setattr(mcbook.records.resources, "files", lambda name: tmp_path / name)
    assert list_records() == ["a"]
    assert load_record("a").name == "a"


def test_without_a_checkout_a_folder_must_be_given(monkeypatch):
    monkeypatch.setattr(mcbook.records, "package_checkout", lambda: None)
    with pytest.raises(NoCheckoutError, match="say where with folder="):
        save_record("a", TABLE)


def test_the_shipped_records_are_whole():
    for name in list_records():
        record = load_record(name)
        assert len(record.table)
        assert record.provenance["commit"]


def test_reading_records_needs_nothing_more_than_the_package(tmp_path):
    save_record("a", TABLE, tmp_path)
    program = (
        "import sys, mcbook.records as r; r.load_record('a', sys.argv[1]); "
        "print([m for m in ('matplotlib', 'sklearn', 'papermill') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
