"""The commands: `python -m mcbook build | chapters | study | check`."""

from __future__ import annotations

import argparse
import ast
import sys
from typing import Any

from .checkout import NoCheckoutError
from .errors import DamagedFileError, IncompatibleError, MissingDataError, UnknownNameError
from .execution import ChapterError
from .provenance import package_version
from .study import StudyError

_OWN_ERRORS = (
    ChapterError,
    DamagedFileError,
    IncompatibleError,
    MissingDataError,
    NoCheckoutError,
    StudyError,
    UnknownNameError,
)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected name=value, found {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a plain word
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mcbook",
        description="Build the mode connectivity book, run its chapters, make its records.",
    )
    parser.add_argument("--version", action="version", version=f"mcbook {package_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    scales: dict[str, Any] = {
        "choices": ("smoke", "default", "full"),
        "default": "default",
        "help": "smoke: cut small; default: real digits, two cores; full: MNIST or CIFAR-10",
    }

    build = commands.add_parser(
        "build",
        help="execute every chapter and make the site",
        description="Execute every chapter into _build/book/ and make the site. book/ is never "
        "written to. Chapters that have not changed since they last ran there are not run again.",
    )
    build.add_argument("names", nargs="*", metavar="NAME", help="execute only these chapters")
    build.add_argument("--scale", **scales)
    build.add_argument("--no-run", action="store_true", help="show the committed notebooks")
    build.add_argument("--fresh", action="store_true", help="run unchanged chapters too")
    build.set_defaults(call=_build)

    chapters = commands.add_parser("chapters", help="run, sync or list chapters")
    actions = chapters.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="execute chapters and write the committed notebooks",
        description="Execute chapters and write book/NAME.ipynb; at another scale, or with "
        "parameters, _build/SCALE/NAME.ipynb.",
    )
    run.add_argument("--scale", **scales)
    run.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        type=_parameter,
        metavar="name=value",
        help="set a parameter of the chapters (repeatable)",
    )
    run.set_defaults(call=_chapters_run)
    smoke = actions.add_parser("smoke", help="execute chapters, cut small, into _build/smoke/")
    smoke.set_defaults(call=_chapters_smoke)
    sync = actions.add_parser(
        "sync", help="bring the committed notebooks' prose up to date, keeping outputs"
    )
    sync.set_defaults(call=_chapters_sync)
    listed = actions.add_parser("list", help="what there is, and what is out of date")
    listed.set_defaults(call=_chapters_list)
    verdicts = actions.add_parser("verdicts", help="what the committed notebooks claim")
    verdicts.set_defaults(call=_chapters_verdicts)
    for action in (run, smoke, sync, listed, verdicts):
        action.add_argument("names", nargs="*", metavar="NAME", help="all chapters by default")

    study = commands.add_parser("study", help="make records, or look at them")
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="make records, going on where an earlier run stopped",
        description="Run the jobs of study/NAME.py that are not done and write the record.",
    )
    run.add_argument(
        "--keep", action="store_true", help="use finished jobs though the study file has changed"
    )
    run.add_argument("--fresh", action="store_true", help="run every job anew")
    run.set_defaults(call=_study_run)
    status = actions.add_parser("status", help="how far every study is")
    status.set_defaults(call=_study_status)
    report = actions.add_parser("report", help="the records, summarised")
    report.set_defaults(call=_study_report)
    for action in (run, status, report):
        action.add_argument("names", nargs="*", metavar="NAME", help="all by default")

    check = commands.add_parser("check", help="is this machine ready")
    check.set_defaults(call=_check)
    return parser


def _build(arguments: argparse.Namespace) -> int:
    from .building import build
    from .site import SiteError

    try:
        made = build(
            arguments.names, arguments.scale, run=not arguments.no_run, fresh=arguments.fresh
        )
    except SiteError as problem:
        print(f"mcbook: {problem}", file=sys.stderr)
        return 1
    for error in made.errors:
        print(error, file=sys.stderr)
    chapters = made.status["chapters"]
    seconds = sum(one["seconds"] or 0 for one in chapters)
    unexpected = sum(one["verdicts"]["unexpected"] for one in chapters)
    print(
        f"{len(chapters) - len(made.errors)} of {len(chapters)} chapters, {seconds:.0f} s", end=""
    )
    print(f", {unexpected} unexpected verdicts" if unexpected else "")
    if made.page is None:
        print("no site: a chapter has neither a new nor a committed notebook", file=sys.stderr)
    else:
        print(f"open {made.page.resolve().as_uri()}")
    return 1 if made.errors or made.page is None else 0


def _chapters_run(arguments: argparse.Namespace) -> int:
    from .chapters import run

    run(arguments.names, arguments.scale, dict(arguments.parameter))
    return 0


def _chapters_smoke(arguments: argparse.Namespace) -> int:
    from .chapters import smoke

    smoke(arguments.names)
    return 0


def _chapters_sync(arguments: argparse.Namespace) -> int:
    from .chapters import sync

    for file in sync(arguments.names):
        print(f"{file}: brought up to date")
    return 0


def _chapters_list(arguments: argparse.Namespace) -> int:
    from .chapters import check_sync, find_chapters

    for chapter in find_chapters(arguments.names):
        differ = check_sync([chapter.name], chapter.checkout)
        print(f"{chapter.name}: {chapter.title}")
        for sentence in differ:
            print(f"  {sentence}")
    return 0


def _chapters_verdicts(arguments: argparse.Namespace) -> int:
    from .chapters import find_chapters
    from .verdicts import read_verdicts

    for chapter in find_chapters(arguments.names):
        for one in read_verdicts(chapter.notebook) if chapter.notebook.is_file() else ():
            print(f"{chapter.name}: {one}")
    return 0


def _study_run(arguments: argparse.Namespace) -> int:
    from .study import run

    run(arguments.names, keep=arguments.keep, fresh=arguments.fresh)
    return 0


def _study_status(arguments: argparse.Namespace) -> int:
    from .study import status

    table = status(arguments.names)
    print("no studies" if table.empty else table.to_string(index=False))
    return 0


def _study_report(arguments: argparse.Namespace) -> int:
    from .study import report

    print(report(arguments.names) or "no records")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from .readiness import check_machine

    findings = check_machine()
    for one in findings:
        print(one)
    missing = sum(one.state == "missing" for one in findings)
    print(f"{missing} things are missing" if missing else "ready")
    return 1 if missing else 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after `python -m mcbook`.

    Returns:
        The exit status: 0, 1 when something failed that others survived, 2
        when the command could not be carried out, 130 when interrupted.
    """
    given = _parser().parse_args(arguments)
    try:
        return int(given.call(given))
    except _OWN_ERRORS as problem:
        print(f"mcbook: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "mcbook: interrupted; what is finished is kept, the same command goes on",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
