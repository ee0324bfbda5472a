"""Where the book's sources are, and what version they are.

The package runs from anywhere; building the book, running its chapters and
making its records need the repository's checkout.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .errors import DamagedFileError

__all__ = ["Checkout", "NoCheckoutError", "find_checkout"]


class NoCheckoutError(FileNotFoundError):
    """Something that needs the book's checkout was asked for outside one."""


@dataclass(frozen=True)
class Checkout:
    """The folders of one checkout of the book.

    Args:
        root: the folder that holds `pyproject.toml` and `mcbook/`.
    """

    root: Path

    @property
    def book(self) -> Path:
        """The folder of the pages, and of the committed notebooks."""
        return self.root / "book"

    @property
    def sources(self) -> Path:
        """The folder of the chapters' text files."""
        return self.root / "book" / "src"

    @property
    def build(self) -> Path:
        """The folder of everything made and not committed."""
        return self.root / "_build"

    @property
    def study(self) -> Path:
        """The folder of the code that makes the records."""
        return self.root / "study"

    @property
    def results(self) -> Path:
        """The folder of the records."""
        return self.root / "mcbook" / "results"

    def version(self) -> str:
        """The version in `pyproject.toml`.

        Raises:
            DamagedFileError: the file has none.
        """
        return project_version(self.root / "pyproject.toml")

    def repository_url(self) -> str:
        """Where the repository is published: `repository.url` in `_config.yml`.

        Raises:
            DamagedFileError: `_config.yml` is missing or has no such key.
        """
        import yaml

        file = self.root / "_config.yml"
        if not file.is_file():
            raise DamagedFileError(f"{file}: expected the book's configuration, found no such file")
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        url = (settings.get("repository") or {}).get("url")
        if not isinstance(url, str) or not url.startswith("https://"):
            raise DamagedFileError(
                f"{file}: expected an https address under repository: url:, found {url!r}"
            )
        return url.rstrip("/")

    def tag(self) -> str:
        """The tag of the release with this version."""
        return f"v{self.version()}"

    def commit(self) -> str | None:
        """The commit checked out, with "+changes" when code differs from it.

        Recorded results, which change whenever one is made, do not count.

        Returns:
            The full hash, or None where this is no git checkout.
        """
        # A checkout unpacked inside another repository must not report that one's commit.
        top = self._git("rev-parse", "--show-toplevel")
        head = self._git("rev-parse", "HEAD")
        if top is None or head is None or Path(top).resolve() != self.root.resolve():
            return None
        changes = self._git("status", "--porcelain", "--", ".", ":(exclude)mcbook/results")
        return f"{head}+changes" if changes else head

    def code_hash(self) -> str:
        """A hash of everything in the package that a chapter's output can depend on."""
        digest = hashlib.sha256()
        package = self.root / "mcbook"
        for file in sorted(package.rglob("*")):
            if file.suffix in {".py", ".js", ".css", ".json"} and file.is_file():
                digest.update(file.relative_to(package).as_posix().encode() + b"\0")
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def _git(self, *arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()


def project_version(file: Path) -> str:
    """The version a `pyproject.toml` declares.

    Args:
        file: the `pyproject.toml`.

    Returns:
        The version, as written.

    Raises:
        DamagedFileError: it cannot be read, or declares none.
    """
    try:
        version = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as problem:
        raise DamagedFileError(f"{file}: expected project.version, found {problem!r}") from problem
    return str(version)


def is_checkout(folder: Path) -> bool:
    """Whether `folder` is the top of a checkout of the book.

    Args:
        folder: any path.
    """
    project = folder / "pyproject.toml"
    if not project.is_file() or not (folder / "mcbook").is_dir():
        return False
    named = re.search(r'^name\s*=\s*"mcbook"\s*$', project.read_text(encoding="utf-8"), re.M)
    return named is not None


def find_checkout(start: Path | None = None) -> Checkout:
    """The checkout that this package is imported from, else the one around `start`.

    Args:
        start: where to look when the package is installed elsewhere; the
            current folder and the folders above it by default.

    Returns:
        The checkout.

    Raises:
        NoCheckoutError: there is none.
    """
    own = package_checkout()
    if own is not None:
        return own
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if is_checkout(folder):
            return Checkout(folder)
    raise NoCheckoutError(
        "this needs the book's checkout (its repository, with book/ and study/), and mcbook is "
        f"installed apart from one; no checkout at {start} or above it either. "
        "Clone the repository and call it there."
    )


@functools.cache
def package_checkout() -> Checkout | None:
    """The checkout this very package lies in (an editable installation), or None."""
    root = Path(__file__).resolve().parent.parent
    return Checkout(root) if is_checkout(root) else None
