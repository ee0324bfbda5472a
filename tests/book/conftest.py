"""The site, built once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcbook.checkout import find_checkout
from mcbook.site import build_site


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return find_checkout().root


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built from the committed notebooks; a warning fails it."""
    folder = tmp_path_factory.mktemp("site") / "html"
    return build_site(root, folder, quiet=True).parent
