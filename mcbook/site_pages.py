"""What the build writes into the status page and the provenance page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcbook.errors import DamagedFileError
from mcbook.provenance import provenance
from mcbook.records import list_records, load_record

__all__ = ["markdown_table", "provenance_section", "read_status", "status_section"]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    Args:
        head: the column titles.
        rows: the cells; line breaks and bars in them do no harm.

    Returns:
        The table's text.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def read_status(folder: Path | None) -> dict[str, Any] | None:
    """The account of a run that its executor left.

    Args:
        folder: where the executed chapters are, or None.

    Returns:
        The content of `status.json` there; None when there was no run.

    Raises:
        DamagedFileError: the file is not what an executor writes.
    """
    file = folder / "status.json" if folder is not None else None
    if file is None or not file.is_file():
        return None
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise DamagedFileError(f"{file}: expected JSON, found {problem}") from problem
    if not isinstance(status, dict) or not isinstance(status.get("chapters"), list):
        raise DamagedFileError(f"{file}: expected an object with a list 'chapters'")
    return status


def status_section(status: Mapping[str, Any] | None, book: Path) -> str:
    """How the chapters on show were made.

    Args:
        status: what the executor wrote; None when the committed notebooks
            are shown.
        book: the folder with the notebooks on show.

    Returns:
        Markdown.
    """
    facts = provenance()
    if status is None:
        shown = sorted(book.glob("[0-9]*.ipynb"))
        text = (
            "No chapter was run for this site: it shows the committed notebooks, "
            f"{len(shown)} in number, with the outputs they were committed with. "
            "`python -m mcbook build` runs every chapter and shows what came out.\n\n"
            "## The machine that built the pages\n\n"
        )
        return text + _facts(facts)
    chapters = status["chapters"]
    failed = [chapter for chapter in chapters if not chapter.get("ok")]
    surprises = sum(_verdicts(chapter)[2] for chapter in chapters)
    total = sum(chapter.get("seconds") or 0 for chapter in chapters)
    text = (
        f"For this site {_number(len(chapters), 'chapter')} ran at scale "
        f"`{status.get('scale', 'default')}`, in {_duration(total)} altogether: "
        f"{_number(len(chapters) - len(failed), 'chapter')} to the end, "
        f"{_number(len(failed), 'failure')}, {_number(surprises, 'unexpected verdict')}.\n\n"
    )
    head = ("Chapter", "Outcome", "Time", "Claims that hold", "Claims known not to", "Surprises")
    rows = []
    for chapter in chapters:
        name = str(chapter.get("name", ""))
        title = str(chapter.get("title") or name)
        link = f"[{title}]({name}.ipynb)" if (book / f"{name}.ipynb").is_file() else title
        outcome = "ran" if chapter.get("ok") else f"failed: {_short(chapter.get('error'))}"
        rows.append((link, outcome, _duration(chapter.get("seconds")), *_verdicts(chapter)))
    text += markdown_table(head, rows)
    text += (
        '\n\nA *claim* is a verdict cell of a chapter. "Known not to" are claims of a paper '
        "that this setting does not bear out, and whose chapter says so; a *surprise* is a "
        "claim that came out other than the chapter says.\n\n## The machine they ran on\n\n"
    )
    return text + _facts({**facts, **(status.get("machine") or {})})


def provenance_section(folder: Path | None = None) -> str:
    """Where every recorded result comes from.

    Args:
        folder: the records' folder; by default those of the package.

    Returns:
        Markdown: a table of all records, then a section for each.
    """
    names = list_records(folder)
    if not names:
        return "There are no recorded results yet.\n"
    records = [load_record(name, folder) for name in names]
    head = ("Record", "Rows", "Made", "On", "Commit")
    rows = []
    for record in records:
        facts = record.provenance
        device = facts.get("device")
        machine = facts.get("cpu") if device in (None, "cpu") else device
        commit = str(facts.get("commit") or "not recorded")
        rows.append(
            (
                f"[{record.name}](#record-{record.name})",
                len(record.table),
                facts.get("created", "not recorded"),
                machine or "not recorded",
                f"`{commit[:12]}`" + (" with changes" if commit.endswith("+changes") else ""),
            )
        )
    sections = [markdown_table(head, rows)]
    for record in records:
        columns = ", ".join(f"`{column}`" for column in record.table.columns)
        sections.append(
            f"(record-{record.name})=\n## Record {record.name}\n\n"
            f'`mc.load_record("{record.name}")`: {_number(len(record.table), "row")} of '
            f"{columns}.\n\n" + _facts(_brief(record.provenance))
        )
    return "\n\n".join(sections) + "\n"


def _brief(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance with the arguments of a study's jobs put together: they can be a hundred."""
    jobs = facts.get("arguments")
    if not (isinstance(jobs, Mapping) and jobs):
        return dict(facts)
    if not all(isinstance(job, Mapping) for job in jobs.values()):
        return dict(facts)
    return {**facts, "arguments": _summary(list(jobs.values()))}


def _summary(jobs: Sequence[Mapping[str, Any]]) -> str:
    """The values that each argument takes over all jobs, and how many jobs there are."""
    values: dict[str, list[Any]] = {}
    for job in jobs:
        for name, value in job.items():
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    parts = [f"{name}: {_values(seen)}" for name, seen in values.items()]
    every = math.prod(len(seen) for seen in values.values()) == len(jobs) > 1
    return "; ".join([*parts, _number(len(jobs), "job") + (", every combination" * every)])


def _values(seen: Sequence[Any]) -> str:
    """Values as text; whole numbers without a gap as their first and last."""
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in seen)
    if whole and len(seen) > 2 and max(seen) - min(seen) == len(seen) - 1:
        return f"{min(seen)} to {max(seen)}"
    return ", ".join(map(str, seen))


def _facts(facts: Mapping[str, Any]) -> str:
    """Nested provenance as a table of two columns."""
    return markdown_table(("What", "Value"), [(k, f"`{v}`") for k, v in _flat(facts)])


def _flat(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in facts.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found += _flat(value, f"{name}: ")
        elif isinstance(value, (list, tuple)):
            found.append((name, ", ".join(map(str, value)) or "none"))
        else:
            found.append((name, "none" if value in (None, "") else str(value).replace("`", "'")))
    return found


def _verdicts(chapter: Mapping[str, Any]) -> tuple[int, int, int]:
    """How many claims held, were known not to, and came out unexpected."""
    counts = chapter.get("verdicts") or {}
    return counts.get("held", 0), counts.get("expected_not", 0), counts.get("unexpected", 0)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _short(error: object) -> str:
    """The last line of an error, short enough for a table."""
    lines = str(error or "no reason given").strip().splitlines()
    return lines[-1][:120] if lines else "no reason given"
