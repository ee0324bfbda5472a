from __future__ import annotations

import pytest

import mcbook as mc


def test_an_unknown_name_offers_the_close_ones_and_lists_all() -> None:
    error = mc.UnknownNameError("model", "resnet2", ["mlp", "resnet20", "lenet5"])
    assert "unknown model 'resnet2'" in str(error)
    assert "did you mean 'resnet20'" in str(error)
    assert "there are: lenet5, mlp, resnet20" in str(error)


def test_an_unknown_name_with_nothing_close_offers_nothing() -> None:
    error = mc.UnknownNameError("model", "zzz", ["mlp"])
    assert "did you mean" not in str(error)
    assert "there are: mlp" in str(error)


def test_an_unknown_name_among_none() -> None:
    assert str(mc.UnknownNameError("record", "a", [])) == "unknown record 'a'; there are: none"


def test_a_name_that_is_no_string_is_shown_as_it_is() -> None:
    assert "unknown split None" in str(mc.UnknownNameError("split", None, ["test"]))


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (mc.UnknownNameError, LookupError),
        (mc.IncompatibleError, ValueError),
        (mc.DamagedFileError, ValueError),
        (mc.MissingDataError, FileNotFoundError),
    ],
)
def test_each_error_is_of_the_built_in_kind_one_would_catch(
    error: type[Exception], base: type[Exception]
) -> None:
    assert issubclass(error, base)
