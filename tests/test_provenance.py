import datetime
import json
import platform
import tomllib
from pathlib import Path

import torch

from mcbook.provenance import machine, package_version, provenance


def test_says_what_ran_where():
    facts = provenance()
    assert list(facts)[:3] == ["created", "package", "commit"]
    assert (
        datetime.date.fromisoformat(facts["created"]) <= datetime.datetime.now(datetime.UTC).date()
    )
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__
    assert facts["cpu"]
    assert facts["device"]
    json.dumps(facts, allow_nan=False)
    assert machine().items() <= facts.items()


def test_the_version_is_that_of_the_checkout():
    project = Path(__file__).parents[1] / "pyproject.toml"
    assert package_version() == tomllib.loads(project.read_text())["project"]["version"]
