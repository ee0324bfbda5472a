from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import mcbook as mc
from mcbook import saving
from mcbook.saving import read_tensors, write_tensors

ARCHITECTURES: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(
        st.just("mlp"),
        st.fixed_dictionaries(
            {
                "width": st.lists(st.integers(1, 5), max_size=3).map(tuple),
                "act": st.sampled_from(["relu", "gelu", "silu", "tanh"]),
                "norm": st.sampled_from([None, "batch", "layer"]),
                "bias": st.booleans(),
                "standardize": st.booleans(),
            }
        ),
    ),
    st.tuples(
        st.just("convnet"),
        st.fixed_dictionaries(
            {
                "width": st.integers(1, 3),
                "depth": st.integers(1, 3),
                "norm": st.sampled_from([None, "batch", "group", "layer", "instance"]),
            }
        ),
    ),
    st.tuples(
        st.just("resnet20"),
        st.fixed_dictionaries(
            {"width": st.just(1), "shortcut": st.sampled_from(["identity_pad", "projection"])}
        ),
    ),
)


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert list(x) == list(y)
    for name in x:
        assert x[name].dtype == y[name].dtype, name
        assert torch.equal(x[name], y[name]), name


@given(ARCHITECTURES, st.integers(0, 100))
def test_a_model_saved_and_loaded_is_the_same(
    tiny: mc.Data,
    tmp_path_factory: pytest.TempPathFactory,
    which: tuple[str, dict[str, Any]],
    seed: int,
) -> None:
    name, options = which
    model = mc.build_model(name, tiny, seed=seed, **options)
    file = tmp_path_factory.mktemp("saving") / "model.safetensors"
    assert mc.save_model(model, file) == file
    loaded = mc.load_model(file)
    assert_equal(loaded, model)
    assert not loaded.training
    assert loaded.example_shape == (1, 8, 8)
    assert loaded.architecture == model.architecture
    with torch.no_grad():
        assert torch.equal(loaded(tiny.test.x), model.eval()(tiny.test.x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_keeps_its_precision(tiny: mc.Data, tmp_path: Path, dtype: torch.dtype) -> None:
    model = mc.build_model("mlp", tiny, width=3, norm="batch").to(dtype)
    mc.save_model(model, tmp_path / "m")
    assert_equal(mc.load_model(tmp_path / "m"), model)


def test_a_trained_model_keeps_its_history(tiny: mc.Data, tmp_path: Path) -> None:
    for epochs in (2, 0):
        model = mc.train(mc.build_model("mlp", tiny, width=3), tiny, epochs)
        mc.save_model(model, tmp_path / "m")
        loaded = mc.load_model(tmp_path / "m")
        # a table without rows has no types to keep
        pd.testing.assert_frame_equal(loaded.history, model.history, check_dtype=epochs > 0)


@given(st.integers(0, 2048))
def test_every_file_written_is_read_again_however_long_its_header(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    file = tmp_path_factory.mktemp("header") / "f"
    write_tensors(file, "model", {"w": torch.arange(3.0)}, {"note": "x" * length})
    tensors, header = read_tensors(file, "model")
    assert tensors["w"].tolist() == [0, 1, 2]
    assert len(header["note"]) == length


def test_a_header_of_any_length_modulo_256_is_read(tmp_path: Path) -> None:
    lengths = set()
    for length in range(260):
        write_tensors(tmp_path / "f", "model", {"w": torch.zeros(1)}, {"note": "x" * length})
        lengths.add((tmp_path / "f").read_bytes()[0])
        read_tensors(tmp_path / "f", "model")
    assert 0x80 in lengths  # the byte a pickle starts with


def test_numbers_that_are_not_finite_survive_in_the_header(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", "model", {}, {"loss": [math.nan, math.inf]})
    _, header = read_tensors(tmp_path / "f", "model")
    assert math.isnan(header["loss"][0])
    assert header["loss"][1] == math.inf


def test_tensors_that_share_memory_or_are_views_are_written(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    views = {"whole": whole, "row": whole[1], "turned": whole.T}
    write_tensors(tmp_path / "f", "model", views, {})
    tensors, _ = read_tensors(tmp_path / "f", "model")
    for name, view in views.items():
        assert torch.equal(tensors[name], view)


def own_module(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))


def test_a_module_of_ones_own_is_loaded_into_a_copy(
    tmp_path: Path, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model, other = own_module(), own_module(1)
    mc.save_model(model, tmp_path / "m")
    with pytest.raises(mc.IncompatibleError, match="model="):
        mc.load_model(tmp_path / "m")
    unchanged = untouched(other)
    loaded = mc.load_model(tmp_path / "m", model=other)
    unchanged()
    assert_equal(loaded, model)
    assert loaded is not other


def test_weights_that_do_not_fit_name_the_tensor(tiny: mc.Data, tmp_path: Path) -> None:
    mc.save_model(own_module(), tmp_path / "m")
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
    with pytest.raises(mc.IncompatibleError, match=r"1\.weight is \[5, 64\] in A and \[4, 64\]"):
        mc.load_model(tmp_path / "m", model=wider)


@pytest.mark.parametrize("write", ["pickle", "torch", "torch, the old way", "text protocol"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, write: str) -> None:
    file, weights = tmp_path / "model.pt", own_module().state_dict()
    if write == "pickle":
        file.write_bytes(pickle.dumps({"w": [1.0]}))
    elif write == "text protocol":
        file.write_bytes(pickle.dumps({"w": [1.0] * 50}, protocol=0))
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(mc.DamagedFileError, match=r"model\.pt: expected a safetensors file") as e:
        mc.load_model(file)
    if write != "text protocol":
        assert "pickle" in str(e.value)
        assert "save_model" in str(e.value)


def test_a_model_cut_off_anywhere_is_damaged(tiny: mc.Data, tmp_path: Path) -> None:
    file = mc.save_model(mc.build_model("mlp", tiny, width=3), tmp_path / "m")
    whole = file.read_bytes()
    for length in [*range(0, 1000, 31), *range(1000, len(whole), 211), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(mc.DamagedFileError, match="damaged or cut-off"):
            mc.load_model(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(mc.DamagedFileError, match="damaged or cut-off"):
        mc.load_model(file)


def test_a_model_with_any_byte_of_its_header_changed_is_refused_or_the_same(
    tiny: mc.Data, tmp_path: Path
) -> None:
    model = mc.build_model("mlp", tiny, width=3)
    file = mc.save_model(model, tmp_path / "m")
    whole = file.read_bytes()
    for i in range(8 + int.from_bytes(whole[:8], "little")):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 0x04]) + whole[i + 1 :])
        try:
            loaded = mc.load_model(file)
        except (mc.DamagedFileError, mc.IncompatibleError) as error:
            assert str(file) in str(error)  # noqa: PT017  (both outcomes are allowed)
        else:
            assert_equal(loaded, model)


@pytest.mark.parametrize(
    "header", ["not JSON", "[]", "{}", '{"kind": "model"}', '{"kind": 3}', '"model"']
)
def test_a_header_that_says_nothing_is_damage(tmp_path: Path, header: str) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "m", metadata={"mcbook": header})
    with pytest.raises(mc.DamagedFileError, match=str(tmp_path / "m")):
        mc.load_model(tmp_path / "m")


def test_files_of_others_and_of_other_kinds_are_told_apart(tiny: mc.Data, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(mc.DamagedFileError, match="written by mcbook"):
        mc.load_model(tmp_path / "foreign")
    a, b = (mc.build_model("mlp", tiny, width=3, seed=s) for s in (0, 1))
    mc.LinearPath(a, b).save(tmp_path / "path")
    with pytest.raises(mc.DamagedFileError, match="expected a saved model, found a saved path"):
        mc.load_model(tmp_path / "path")


def test_a_file_that_is_not_there_is_missing_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mc.load_model(tmp_path / "nowhere")


def test_the_header_is_plain_json_and_nothing_of_this_machine(
    tiny: mc.Data, tmp_path: Path
) -> None:
    first = mc.save_model(mc.build_model("mlp", tiny, width=3), tmp_path / "a").read_bytes()
    again = mc.save_model(mc.build_model("mlp", tiny, width=3), tmp_path / "b").read_bytes()
    assert first == again
    length = int.from_bytes(first[:8], "little")
    header = json.loads(json.loads(first[8 : 8 + length])["__metadata__"]["mcbook"])
    assert header["kind"] == "model"
    assert header["architecture"]["name"] == "mlp"


def test_saving_changes_no_model(
    tiny: mc.Data, tmp_path: Path, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model = mc.build_model("convnet", tiny, width=2)
    unchanged = untouched(model)
    mc.save_model(model, tmp_path / "m")
    unchanged()
    assert set(saving.describe(model)) == {"architecture", "example_shape", "history"}
