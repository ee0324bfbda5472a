"""The commands people read, the ones machines run, and the facts that stand in one place only."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from mcbook.checkout import Checkout

ROOT = Path(__file__).resolve().parents[1]
BUILD = (
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt "
    "&& .venv/bin/python -m mcbook build"
)
TEST = (
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt "
    "&& .venv/bin/python -m pytest"
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def workflow(name):
    return yaml.safe_load(read(".github", "workflows", f"{name}.yml"))


def steps(content):
    return [step for job in content["jobs"].values() for step in job["steps"]]


def commands(content):
    return [step["run"] for step in steps(content) if "run" in step]


def project_files():
    """Every file that belongs to the repository, without what is made or brought along."""
    made = {"__pycache__", "_build", "build", "dist", "data", "_partial", "node_modules"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            one
            for one in folders
            if one not in made
            and not one.endswith(".egg-info")
            and (not one.startswith(".") or one in (".ci", ".github"))
        ]
        yield from (Path(folder, file) for file in files if not file.endswith(".part"))


def test_the_readme_gives_exactly_two_commands_for_a_fresh_machine():
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```$", read("README.md"), re.M | re.S)
    assert [block.strip() for block in blocks] == [BUILD, TEST]


def test_ci_runs_the_second_command_and_ends_with_it():
    script = read(".ci", "run")
    assert script.splitlines()[-1] == TEST
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_every_change_runs_what_people_run():
    content = workflow("checks")
    triggers = content[True]  # YAML reads the key `on` as a truth value
    assert set(triggers) == {"push", "pull_request"}
    assert commands(content) == ["bash .ci/run"]


def test_the_site_is_what_the_first_command_builds():
    content = workflow("site")
    assert content[True]["push"] == {"branches": ["main"]}
    assert commands(content) == [BUILD]
    (upload,) = [one for one in steps(content) if "upload-pages" in one.get("uses", "")]
    assert upload["with"]["path"] == "_build/html"
    assert content["jobs"]["publish"]["needs"] == "build"


def test_every_week_everything_is_made_anew_and_verdicts_are_compared():
    content = workflow("weekly")
    assert content[True]["schedule"]
    text = "\n".join(commands(content))
    assert "bash .ci/run" in text
    order = [
        text.index(word) for word in ("> committed.txt", "chapters run", "> today.txt", "diff")
    ]
    assert order == sorted(order)
    assert ".ci/lower-bounds" in text


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_have_least_permissions_and_pinned_actions(file):
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]
    for name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 90
        expected = {"pages": "write", "id-token": "write"} if name == "publish" else None
        assert job.get("permissions") == expected
    uses = re.findall(r"uses: *(.*)", text)
    assert uses
    for action in uses:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    for step in steps(content):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    assert "secrets." not in text
    assert "pull_request_target" not in text


def test_one_action_has_one_pin():
    pins = {}
    for file in WORKFLOWS:
        for action, pin in re.findall(r"uses: *([\w/-]+)@(\S+)", file.read_text(encoding="utf-8")):
            pins.setdefault(action, set()).add(pin)
    assert len(WORKFLOWS) == 3
    assert all(len(one) == 1 for one in pins.values()), pins


def test_owner_and_repository_stand_in_one_place():
    url = Checkout(ROOT).repository_url()
    owner, repository = url.removeprefix("https://github.com/").split("/")
    words = [f"{owner}/{repository}", f"github.com/{owner}", f"{owner}.github.io"]
    found = []
    for file in project_files():
        if file.suffix == ".ipynb":  # made from the texts and that one place
            continue
        text = file.read_bytes().decode("utf-8", errors="replace").lower()
        found += [str(file.relative_to(ROOT)) for word in words if word.lower() in text]
    assert set(found) == {"_config.yml"}
    assert read("_config.yml").count(f"{owner}/{repository}") == 1


def test_the_version_agrees_wherever_it_must_be_written():
    version = Checkout(ROOT).version()
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == version
    assert f"## [{version}]" in read("CHANGELOG.md")


def test_the_citation_has_what_the_format_asks_for():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The mode connectivity book contributors"}]


def test_lower_bounds_are_those_of_the_project():
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "lower-bounds")],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.split()
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert len(lines) == len(project["dependencies"]) + len(
        project["optional-dependencies"]["book"]
    )
    assert "torch==2.4" in lines
    assert not any("torch" in line and "==" in line for line in project["dependencies"])


def test_the_tested_set_is_pinned_and_within_the_bounds():
    lines = [line for line in read("requirements.txt").splitlines() if line and line[0] != "#"]
    assert lines[-1] == "-e ."
    pins = dict(line.split("==") for line in lines[:-1])
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "lower-bounds")],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.split():
        name, bound = line.split("==")
        pinned = [int(part) for part in re.findall(r"\d+", pins[name])]
        assert pinned >= [int(part) for part in bound.split(".")], line


def test_nothing_made_is_tracked():
    ignored = read(".gitignore").split()
    for made in (".venv/", "/_build/", "/study/_partial/", "*.egg-info/", "__pycache__/"):
        assert made in ignored
