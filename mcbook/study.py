"""Making records: plain files of jobs, run one after another, resumable.

`study/<name>.py` makes the record `<name>`.  It has a docstring that says
what is measured, the jobs, as `JOBS` or as a function `jobs()` (job name →
arguments), and `run(**arguments)`, which returns the job's rows (a list of
dictionaries).  A function `provenance()` may add facts to the record.

The rows of every finished job are kept in `study/_partial/<name>/`, so that a
run that is killed goes on at the first unfinished job.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from .checkout import NoCheckoutError, find_checkout
from .errors import DamagedFileError, UnknownNameError
from .files import write_atomic
from .progress import Bar
from .records import Record, check_name, list_records, load_record, save_record
from .tables import decode_value, encode_value

__all__ = ["Study", "StudyError", "find_studies", "load_study", "report", "run", "status"]

_FORMAT = "mcbook-study-job"
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*")


class StudyError(RuntimeError):
    """A study that cannot be run as it is written, or whose job failed."""


@dataclass(frozen=True)
class Study:
    """The code that makes one record.

    Args:
        name: the record's name.
        file: the study file.
        about: the first line of its docstring.
        jobs: the arguments of every job, by the job's name.
        module: the loaded file.
        hash: of the file's content.
    """

    name: str
    file: Path
    about: str
    jobs: dict[str, dict[str, Any]]
    module: ModuleType
    hash: str

    @property
    def partial(self) -> Path:
        """The folder that keeps the rows of finished jobs."""
        return self.file.parent / "_partial" / self.name


def _study_folder(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    try:
        return find_checkout().study
    except NoCheckoutError:
        here = Path.cwd() / "study"
        if here.is_dir():
            return here
        raise


def find_studies(names: Iterable[str] = (), folder: Path | None = None) -> dict[str, Path]:
    """The study files there are, or those named.

    Args:
        names: names of records; all by default.
        folder: where; by default `study/` of the checkout, else of the
            current folder.

    Returns:
        The files by name, sorted.

    Raises:
        UnknownNameError: there is no study of that name.
    """
    place = _study_folder(folder)
    files = sorted(file for file in place.glob("*.py") if not file.name.startswith("_"))
    known = {file.stem: file for file in files}
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise UnknownNameError("study", name, known)
    return {name: file for name, file in known.items() if not wanted or name in wanted}


def load_study(file: Path) -> Study:
    """Load a study file and check that it has what a study needs.

    Args:
        file: the file.

    Returns:
        The study.

    Raises:
        StudyError: something is missing, or jobs and `run` do not fit.
    """
    name = check_name(file.stem)
    content = file.read_bytes()
    spec = importlib.util.spec_from_file_location(f"mcbook_study_{name}", file)
    if spec is None or spec.loader is None:
        raise StudyError(f"{file}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    about = inspect.getdoc(module)
    if not about:
        raise StudyError(f"{file}: expected a docstring that says what is measured, found none")
    work = getattr(module, "run", None)
    if not callable(work):
        raise StudyError(f"{file}: expected a function run(**arguments) -> rows, found none")
    jobs = module.jobs() if hasattr(module, "jobs") else getattr(module, "JOBS", None)
    if not isinstance(jobs, Mapping) or not jobs:
        raise StudyError(f"{file}: expected JOBS or jobs(), a dictionary, found {jobs!s:.60}")
    signature = inspect.signature(work)
    for job, arguments in jobs.items():
        if not isinstance(job, str) or not _JOB.fullmatch(job):
            raise StudyError(
                f"{file}: expected job names of letters, digits and . _ = , + - "
                f"(they name files), found {job!r}"
            )
        if not isinstance(arguments, Mapping):
            raise StudyError(f"{file}: job {job}: expected a dictionary, found {arguments!s:.60}")
        try:
            signature.bind(**arguments)
        except TypeError as problem:
            raise StudyError(f"{file}: job {job} does not fit run{signature}: {problem}") from None
    plain = {job: dict(arguments) for job, arguments in jobs.items()}
    digest = hashlib.sha256(content).hexdigest()
    return Study(name, file, about.splitlines()[0], plain, module, digest)


def _arguments_text(arguments: Mapping[str, Any]) -> str:
    """Arguments in a spelling that can be compared after a round trip."""
    return json.dumps(arguments, sort_keys=True, default=str)


def _read_job(study: Study, job: str) -> dict[str, Any] | None:
    """What is kept of a job, or None; a damaged file is as good as none."""
    try:
        kept = json.loads((study.partial / f"{job}.json").read_text(encoding="utf-8"))
        if kept["format"] != _FORMAT:
            return None
        rows = [{key: decode_value(value) for key, value in row.items()} for row in kept["rows"]]
        return {**kept, "rows": rows, "seconds": float(kept["seconds"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _finished(study: Study, keep: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The jobs whose rows can be used, and those kept from another version of the file."""
    done: dict[str, dict[str, Any]] = {}
    stale: list[str] = []
    for job, arguments in study.jobs.items():
        kept = _read_job(study, job)
        if kept is None:
            continue
        same = kept.get("arguments") == _arguments_text(arguments)
        if same and (keep or kept.get("hash") == study.hash):
            done[job] = kept
        else:
            stale.append(job)
    return done, stale


def _run_job(study: Study, job: str) -> dict[str, Any]:
    begun = time.perf_counter()
    rows = study.module.run(**study.jobs[job])
    seconds = time.perf_counter() - begun
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise StudyError(
            f"{study.file}: job {job}: expected a list of dictionaries, found {rows!s:.60}"
        )
    plain = [
        {str(key): encode_value(value, f"job {job}, {key!r}") for key, value in row.items()}
        for row in rows
    ]
    kept = {
        "format": _FORMAT,
        "hash": study.hash,
        "arguments": _arguments_text(study.jobs[job]),
        "seconds": seconds,
        "rows": plain,
    }
    write_atomic(study.partial / f"{job}.json", json.dumps(kept, allow_nan=False) + "\n")
    rows = [{key: decode_value(value) for key, value in row.items()} for row in plain]
    return {**kept, "rows": rows}


def run(
    names: Iterable[str] = (),
    folder: Path | None = None,
    results: Path | None = None,
    keep: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Make records, going on where an earlier run stopped.

    A record that this very study file has made already is left as it is.

    Args:
        names: which studies; all by default.
        folder: of the study files; by default `study/` of the checkout, else
            of the current folder.
        results: where the records go; by default `mcbook/results/` of the
            checkout.
        keep: use the rows of finished jobs also when the study file has
            changed since.  Without it such jobs run anew.
        fresh: run every job anew, whatever there is.
        progress: whether to show a bar over the jobs, and a line for each.

    Returns:
        The files of the records made.

    Raises:
        UnknownNameError: there is no study of that name.
        StudyError: a study file lacks something.
        NoCheckoutError: no `results` are given and there is no checkout.
    """
    # Before anything runs: rows that cannot be saved are no use.
    results = results or find_checkout().results
    made = []
    for file in find_studies(names, folder).values():
        study = load_study(file)
        if not fresh and _is_made(study, results):
            if progress:
                print(f"{study.name}: made already by this very study file (--fresh makes it anew)")
            continue
        made.append(_run_study(study, results, keep, fresh, progress))
    return made


def _is_made(study: Study, results: Path) -> bool:
    try:
        record = _record(study.name, results)
    except DamagedFileError:
        return False
    return record is not None and record.provenance.get("study_hash") == study.hash


def _run_study(study: Study, results: Path, keep: bool, fresh: bool, progress: bool) -> Path:
    done, stale = ({}, []) if fresh else _finished(study, keep)
    if stale:
        print(
            f"{study.name}: the study has changed since {len(stale)} of its jobs ran "
            f"({', '.join(stale[:3])}{', ...' if len(stale) > 3 else ''}); they run anew"
        )
    if done and progress:
        print(f"{study.name}: {len(done)} of {len(study.jobs)} jobs are done already")
    with Bar(len(study.jobs), study.name, progress) as bar:
        bar.advance(len(done))
        for job in study.jobs:
            if job in done:
                continue
            done[job] = _run_job(study, job)
            bar.advance()
            if progress:
                print(f"{study.name}: {job}: {done[job]['seconds']:.1f} s", flush=True)
    rows = [row for job in study.jobs for row in done[job]["rows"]]
    more = study.module.provenance() if hasattr(study.module, "provenance") else {}
    versions = sorted({done[job]["hash"] for job in study.jobs})
    facts = {
        "about": study.about,
        "seconds": round(sum(done[job]["seconds"] for job in study.jobs), 3),
        "arguments": study.jobs,
        # With --keep, rows can come from several versions of the file: all are named.
        "study_hash": study.hash if versions == [study.hash] else versions,
        **more,
    }
    file = save_record(study.name, pd.DataFrame(rows), results, **facts)
    for job in study.jobs:
        (study.partial / f"{job}.json").unlink(missing_ok=True)
    if study.partial.is_dir() and not any(study.partial.iterdir()):
        study.partial.rmdir()
    if progress:
        print(f"{study.name}: {len(rows)} rows in {file}")
    return file


def _record(name: str, results: Path) -> Record | None:
    return load_record(name, results) if name in list_records(results) else None


def status(
    names: Iterable[str] = (), folder: Path | None = None, results: Path | None = None
) -> pd.DataFrame:
    """How far every study is.

    Args:
        names: which studies; all by default.
        folder: of the study files.
        results: of the records; by default `mcbook/results/` of the checkout.

    Returns:
        A row for each: name, jobs (done/all), record ("yes", "no" or
        "damaged"), created, commit, and changed ("yes" when the study file is
        no longer the one that made the record).
    """
    results = results or find_checkout().results
    rows = []
    for name, file in find_studies(names, folder).items():
        study = load_study(file)
        done, _ = _finished(study, keep=False)
        row = {"name": name, "jobs": f"{len(done)}/{len(study.jobs)}", "record": "no"}
        row |= {"created": "", "commit": "", "changed": ""}
        try:
            record = _record(name, results)
        except DamagedFileError:
            record, row["record"] = None, "damaged"
        if record is not None:
            facts = record.provenance
            head, plus, changes = str(facts.get("commit") or "").partition("+")
            row |= {"record": "yes", "created": str(facts.get("created", ""))}
            row["commit"] = head[:10] + plus + changes
            row["changed"] = "no" if facts.get("study_hash") == study.hash else "yes"
            if not done:  # the partial results went into the record
                row["jobs"] = f"{len(study.jobs)}/{len(study.jobs)}"
        rows.append(row)
    return pd.DataFrame(rows, columns=["name", "jobs", "record", "created", "commit", "changed"])


def report(names: Iterable[str] = (), results: Path | None = None) -> str:
    """The records in short: where each comes from, and its columns summarised.

    Args:
        names: which records; all by default.
        results: of the records; those of the package by default.

    Returns:
        The text to print.

    Raises:
        UnknownNameError: there is no record of that name.
    """
    return "\n\n".join(
        _summary(load_record(name, results)) for name in (list(names) or list_records(results))
    )


def _summary(record: Record) -> str:
    facts, table = record.provenance, record.table
    lines = [f"{record.name}: {facts.get('about', '')}".rstrip(": ")]
    shown = ("created", "commit", "seconds", "cpu", "device", "torch")
    lines.append("  " + ", ".join(f"{key} {facts[key]}" for key in shown if facts.get(key)))
    lines.append(f"  {len(table)} rows")
    for name in table.columns:
        column = table[name].dropna()
        if pd.api.types.is_float_dtype(column.dtype) and len(column):
            told = f"{column.min():.4g} to {column.max():.4g}, mean {column.mean():.4g}"
        else:
            values = list(dict.fromkeys(column))
            told = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        missing = len(table) - len(column)
        lines.append(f"  {name}: {told}" + (f" ({missing} missing)" if missing else ""))
    return "\n".join(lines)
