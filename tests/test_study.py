import json
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from mcbook.errors import UnknownNameError
from mcbook.records import load_record
from mcbook.study import StudyError, find_studies, load_study, report, run, status

# Each call of a job leaves a line in calls.txt beside the study.
STUDY = '''\
"""How the square grows.

More about it.
"""

from pathlib import Path

JOBS = {f"x{x}": {"x": x} for x in range(4)}
CALLS = Path(__file__).parent.parent / "calls.txt"


def run(x):
    with open(CALLS, "a") as stream:
        print(x, file=stream)
    return [{"x": x, "square": x * x / 3, "even": x % 2 == 0}]


def provenance():
    return {"data": "none"}
'''


class Place:
    def __init__(self, root):
        self.folder = root / "study"
        self.results = root / "results"
        self.folder.mkdir()
        self._calls = root / "calls.txt"

    def write(self, name="squares", text=STUDY):
        (self.folder / f"{name}.py").write_text(text)
        return self.folder / f"{name}.py"

    def calls(self):
        return self._calls.read_text().split() if self._calls.is_file() else []

    def run(self, *names, **options):
        return run(names, self.folder, self.results, progress=False, **options)

    def status(self):
        return status((), self.folder, self.results).set_index("name")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def broken_after(jobs):
    """The study, with a run() that is cut short after some jobs."""
    return STUDY.replace(
        "def run(x):\n", f"def run(x):\n    if x == {jobs}:\n        raise KeyboardInterrupt\n"
    )


def test_makes_a_record_of_all_jobs(place):
    place.write()
    (file,) = place.run()
    assert file == place.results / "squares.json"
    record = load_record("squares", place.results)
    expected = [{"x": x, "square": x * x / 3, "even": x % 2 == 0} for x in range(4)]
    pd.testing.assert_frame_equal(record.table, pd.DataFrame(expected), check_exact=True)
    facts = record.provenance
    assert facts["about"] == "How the square grows."
    assert facts["arguments"] == {f"x{x}": {"x": x} for x in range(4)}
    assert facts["study_hash"] == load_study(place.folder / "squares.py").hash
    assert facts["seconds"] >= 0
    assert facts["data"] == "none"
    assert not (place.folder / "_partial" / "squares").exists()


def test_an_interrupted_run_goes_on_at_the_first_unfinished_job(place):
    text = STUDY.replace(
        "def run(x):\n",
        "def run(x):\n    if x == 2 and not CALLS.with_name('go').exists():\n"
        "        raise KeyboardInterrupt\n",
    )
    place.write(text=text)
    with pytest.raises(KeyboardInterrupt):
        place.run()
    assert place.calls() == ["0", "1"]
    assert place.status().loc["squares", "jobs"] == "2/4"
    assert not place.results.exists()
    (place.folder.parent / "go").touch()
    place.run()
    assert place.calls() == ["0", "1", "2", "3"]
    assert load_record("squares", place.results).table["x"].tolist() == [0, 1, 2, 3]


def test_a_killed_run_goes_on_at_the_first_unfinished_job(place):
    text = STUDY.replace(
        "    with open", "    import time\n    time.sleep(0.01 if x < 2 else 60)\n    with open"
    )
    place.write(text=text)
    program = "import sys; from mcbook.study import run; from pathlib import Path; "
    program += "run((), Path(sys.argv[1]), Path(sys.argv[2]), progress=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(place.folder), str(place.results)]
    )
    kept = place.folder / "_partial" / "squares" / "x1.json"
    until = time.monotonic() + 60
    while not kept.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert place.calls() == ["0", "1"]
    place.write(text=text.replace("else 60", "else 0.01"))
    place.run(keep=True)
    assert place.calls() == ["0", "1", "2", "3"]


def test_a_changed_study_says_so_and_runs_those_jobs_anew(place, capsys):
    place.write(text=broken_after(2))
    with pytest.raises(KeyboardInterrupt):
        place.run()
    place.write()
    place.run()
    assert "squares: the study has changed since 2 of its jobs ran" in capsys.readouterr().out
    assert place.calls() == ["0", "1", "0", "1", "2", "3"]


def test_keep_uses_the_finished_jobs_and_names_both_versions(place):
    place.write(text=broken_after(2))
    with pytest.raises(KeyboardInterrupt):
        place.run()
    place.write()
    place.run(keep=True)
    assert place.calls() == ["0", "1", "2", "3"]
    assert len(load_record("squares", place.results).provenance["study_hash"]) == 2


def test_a_job_with_other_arguments_runs_anew_even_with_keep(place):
    place.write(text=broken_after(2))
    with pytest.raises(KeyboardInterrupt):
        place.run()
    place.write(text=STUDY.replace('{"x": x}', '{"x": x + 10}'))
    place.run(keep=True)
    assert place.calls()[2:] == ["10", "11", "12", "13"]


def test_a_damaged_partial_result_is_made_anew(place):
    place.write(text=broken_after(2))
    with pytest.raises(KeyboardInterrupt):
        place.run()
    kept = place.folder / "_partial" / "squares" / "x0.json"
    kept.write_text(kept.read_text()[:40])
    place.write()
    place.run(keep=True)
    assert place.calls() == ["0", "1", "0", "2", "3"]


def test_a_made_record_is_left_alone_until_its_study_changes(place, capsys):
    place.write()
    place.run()
    assert place.run() == []
    assert len(place.calls()) == 4
    assert place.run(fresh=True)
    assert len(place.calls()) == 8
    place.write(text=STUDY + "\n# changed\n")
    assert place.status().loc["squares", "changed"] == "yes"
    assert place.run()
    assert len(place.calls()) == 12


def test_rows_with_missing_numbers_and_numpy_values(place):
    text = STUDY.replace(
        'return [{"x": x, "square": x * x / 3, "even": x % 2 == 0}]',
        "import numpy as np\n    return [{'x': np.int64(x), 'y': np.float32(0.1) if x else np.nan,"
        " 'z': None if x else 'a'}]",
    )
    place.write(text=text)
    place.run()
    table = load_record("squares", place.results).table
    assert table["x"].dtype == "int64"
    assert table["y"].isna().tolist() == [True, False, False, False]
    assert table["z"].isna().tolist() == [False, True, True, True]


def test_status_tells_how_far_each_study_is(place):
    place.write()
    place.write("later", STUDY)
    place.write("_helper", "")
    before = place.status()
    assert before.index.tolist() == ["later", "squares"]
    assert before["jobs"].tolist() == ["0/4", "0/4"]
    assert before["record"].tolist() == ["no", "no"]
    place.run("squares")
    after = place.status()
    assert after.loc["squares", ["jobs", "record", "changed"]].tolist() == ["4/4", "yes", "no"]
    assert after.loc["squares", "created"]
    (place.results / "squares.json").write_text("{")
    assert place.status().loc["squares", "record"] == "damaged"


def test_report_summarises_the_records(place):
    place.write()
    place.run()
    text = report((), place.results)
    assert text.startswith("squares: How the square grows.\n")
    assert "4 rows" in text
    assert "square: 0 to 3, mean 1.167" in text
    assert "x: 0, 1, 2, 3" in text
    with pytest.raises(UnknownNameError, match="unknown record 'square'.*'squares'"):
        report(["square"], place.results)


def test_an_unknown_study_offers_the_close_ones(place):
    place.write()
    with pytest.raises(UnknownNameError, match="unknown study 'sqares'.*'squares'"):
        place.run("sqares")
    assert list(find_studies((), place.folder)) == ["squares"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\n", "expected a docstring"),
        ('"""A."""\nJOBS = {"a": {}}\n', r"expected a function run\(\*\*arguments\)"),
        ('"""A."""\ndef run(): ...\n', "expected JOBS or jobs"),
        ('"""A."""\nJOBS = {}\ndef run(): ...\n', "expected JOBS or jobs"),
        ('"""A."""\nJOBS = {"a/b": {}}\ndef run(): ...\n', "expected job names .* found 'a/b'"),
        ('"""A."""\nJOBS = {"a": 3}\ndef run(): ...\n', "job a: expected a dictionary, found 3"),
        ('"""A."""\nJOBS = {"a": {"y": 1}}\ndef run(x): ...\n', r"job a does not fit run\(x\)"),
    ],
)
def test_a_study_that_lacks_something_is_named(place, text, found):
    place.write("bad", text)
    with pytest.raises(StudyError, match=rf"bad\.py: .*{found}"):
        place.run()


def test_rows_of_the_wrong_kind_are_named(place):
    place.write("bad", '"""A."""\ndef jobs():\n    return {"a": {}}\ndef run():\n    return 3\n')
    with pytest.raises(StudyError, match="job a: expected a list of dictionaries, found 3"):
        place.run()
    place.write("bad", '"""A."""\nJOBS = {"a": {}}\ndef run():\n    return [{"x": [1]}]\n')
    with pytest.raises(TypeError, match="job a, 'x': expected text, a number"):
        place.run()


def test_a_kept_job_is_strict_json(place):
    place.write(text=broken_after(1).replace("x * x / 3", "float('nan')"))
    with pytest.raises(KeyboardInterrupt):
        place.run()
    text = (place.folder / "_partial" / "squares" / "x0.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["rows"] == [{"x": 0, "square": {"float": "nan"}, "even": True}]
