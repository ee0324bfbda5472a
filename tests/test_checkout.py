import subprocess

import pytest
from tiny_book import URL, make_checkout

import mcbook.checkout
from mcbook.checkout import NoCheckoutError, find_checkout, is_checkout, package_checkout
from mcbook.errors import DamagedFileError


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path / "top")


def git(checkout, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(checkout.root), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_address_version_and_tag_come_from_their_one_place(checkout):
    assert checkout.repository_url() == URL
    assert checkout.version() == "9.8.7"
    assert checkout.tag() == "v9.8.7"


@pytest.mark.parametrize("text", ["", "repository: {}\n", "repository:\n  url: 5\n"])
def test_a_configuration_without_an_address_is_named(checkout, text):
    (checkout.root / "_config.yml").write_text(text)
    with pytest.raises(DamagedFileError, match=r"_config\.yml: expected an https address"):
        checkout.repository_url()


def test_a_missing_configuration_is_named(checkout):
    (checkout.root / "_config.yml").unlink()
    with pytest.raises(DamagedFileError, match=r"_config\.yml: .* found no such file"):
        checkout.repository_url()


@pytest.mark.parametrize("text", ["[project]\n", "[project\n", "project = 3\n"])
def test_a_project_without_a_version_is_named(checkout, text):
    (checkout.root / "pyproject.toml").write_text(text)
    with pytest.raises(DamagedFileError, match=r"pyproject\.toml: expected project\.version"):
        checkout.version()


def test_the_checkout_around_a_folder_is_found(checkout, monkeypatch, tmp_path):
    monkeypatch.setattr(mcbook.checkout, "package_checkout", lambda: None)
    assert find_checkout(checkout.sources) == checkout
    assert not is_checkout(checkout.sources)
    with pytest.raises(NoCheckoutError, match="installed apart from one"):
        find_checkout(tmp_path)


def test_the_package_s_own_checkout_goes_first(checkout, monkeypatch):
    monkeypatch.chdir(checkout.root)
    own = package_checkout()
    assert own is not None
    assert find_checkout() == own


def test_the_commit_tells_of_changes_to_code_only(checkout):
    assert checkout.commit() is None
    git(checkout, "init", "-q")
    assert checkout.commit() is None
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "first")
    head = git(checkout, "rev-parse", "HEAD")
    assert checkout.commit() == head
    checkout.results.mkdir()
    (checkout.results / "a.json").write_text("{}")
    assert checkout.commit() == head
    (checkout.study / "new.py").write_text("")
    assert checkout.commit() == f"{head}+changes"


def test_another_repository_around_it_is_not_its_own(checkout):
    outer = type(checkout)(checkout.root.parent)
    git(outer, "init", "-q")
    git(outer, "add", "-A")
    git(outer, "commit", "-qm", "outer")
    assert checkout.commit() is None


def test_the_hash_of_the_code_changes_with_any_file_of_it(checkout):
    before = checkout.code_hash()
    (checkout.root / "book" / "note.md").write_text("prose")
    assert checkout.code_hash() == before
    (checkout.root / "mcbook" / "slider.js").write_text("x")
    changed = checkout.code_hash()
    assert changed != before
    (checkout.root / "mcbook" / "slider.js").rename(checkout.root / "mcbook" / "other.js")
    assert checkout.code_hash() not in (before, changed)
