"""The permutation symmetry of a network, derived from one run of its forward pass.

The network runs once, as it is, on one example.  A dispatch mode beneath it sees every elementary
operation and keeps the label of every tensor (`labels.py`), by one rule an operation (`rules/`);
no rule knows an architecture.  `solving.py` turns what was noted into spaces.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import IncompatibleError
from ..evaluation import evaluating
from .assembling import solve
from .context import Call, Recorder, Trace
from .examples import (
    TraceError,
    as_call,
    check_module,
    explained,
    make_example,
    tensors_in,
)
from .rules import WHOLE, rule_for
from .spec import PermutationSpec
from .verification import verified

__all__ = ["follow", "trace_symmetry"]

# fast paths are switched off and on again for the whole process
_ONE_AT_A_TIME = threading.RLock()


class _Dispatch(TorchDispatchMode):
    """Sees every elementary operation, computes it, and has it recorded."""

    def __init__(self, trace: Recorder):
        super().__init__()
        self.trace, self.paused = trace, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if func._schema.is_mutable and name.endswith("_") and not name.endswith("__"):
            old = None
            if isinstance(args[0], Tensor) and self.trace.is_constant(args[0]):
                old = args[0].detach().clone()
            call = Call(func, args, kwargs, func(*args, **kwargs))
            self.trace.record_in_place(rule_for(func, name[:-1]), name[:-1], call, old)
        else:
            call = Call(func, args, kwargs, func(*args, **kwargs))
            self.trace.record(rule_for(func, name), name, call)
        return call.out


class _Functions(TorchFunctionMode):
    """Keeps matrix products whole: below, axes that have units would be flattened into one."""

    def __init__(self, dispatch: _Dispatch):
        super().__init__()
        self.dispatch = dispatch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in WHOLE or self.dispatch.paused:
            return func(*args, **kwargs)
        name, rule = WHOLE[func]
        self.dispatch.paused = True
        try:
            out = func(*args, **kwargs)
        finally:
            self.dispatch.paused = False
        call = Call(func, args, kwargs, out)
        if rule.fits(call):
            self.dispatch.trace.record(rule, name, call)
            return out
        return func(*args, **kwargs)


@contextlib.contextmanager
def _plain_kernels(libraries: bool = False) -> Iterator[None]:
    """No fused kernels that would do the work of many operations unseen.

    Args:
        libraries: those of cuDNN and oneDNN are left on: they are quick, and fuse little.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.nullcontext() if libraries else _no_libraries():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _no_libraries() -> Iterator[None]:
    """Without the kernels of cuDNN and oneDNN."""
    # (mkldnn.flags, the context manager, warns of cards that are not there)
    onednn = torch.backends.mkldnn.set_flags(False)[0]
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.set_flags(onednn)


@contextlib.contextmanager
def _following(model: nn.Module, trace: Recorder) -> Iterator[None]:
    """Let the trace know which module is running."""
    paths: list[str] = []

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            paths.append(name)
            trace.module = name

        return hook

    def leave(*_: Any) -> None:
        paths.pop()
        trace.module = paths[-1] if paths else ""

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        # not called after a failure: the path of the module that failed then stays
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def follow(model: nn.Module, trace: Recorder, example: Any, libraries: bool = False) -> Any:
    """Run a network once, in eval mode, and have every elementary operation recorded.

    Its buffers and flags, and the random state, are afterwards as before.

    Args:
        model: the network.
        trace: what records; it is also told which module is running.
        example: the input, as `trace_symmetry` takes it.
        libraries: whether the kernels of cuDNN and oneDNN may be used.

    Returns:
        What the network returned.
    """
    args, kwargs = as_call(example)
    dispatch = _Dispatch(trace)
    random = torch.get_rng_state()
    buffers = [(x, x.detach().clone()) for x in model.buffers()]
    contexts = (evaluating(model), _plain_kernels(libraries), _following(model, trace))
    try:
        with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            stack.enter_context(_Functions(dispatch))
            stack.enter_context(dispatch)
            return model(*args, **kwargs)
    finally:
        torch.set_rng_state(random)
        with torch.no_grad():
            for x, before in buffers:
                if not torch.equal(x, before):
                    x.copy_(before)  # the forward pass had counted, or averaged


def trace_symmetry(model: nn.Module, example: Any = None, verify: bool = True) -> PermutationSpec:
    """Derive which units of a network may be permuted without changing its function.

    The network runs once on one example, in eval mode.  Every position on every axis of every
    parameter gets a *unit*; every elementary operation says which units are one (a bias and the
    row it is added to, the two sides of a residual addition), which lie in blocks (heads, groups,
    the pixels of a flattened channel) and which cannot move (the outputs, whatever meets the
    input).  Units that the network treats alike form a *space*.  The result is a group: any
    permutation within the spaces (and within the blocks, where there are some) leaves the function
    unchanged.  That is then checked in float64 on random weights, and what fails is frozen.

    Sources: the group of hidden units, Hecht-Nielsen (1990); its use, Ainsworth et al. (2023).
    The derivation is this package's own.

    Args:
        model: any module whose forward pass runs on one example.  Its weights, buffers, modes and
            hooks are as before (what else a forward pass stores in it is not looked after).
        example: one input (a tensor with a batch axis of length 1), or a tuple of positional or a
            dictionary of keyword arguments.  Networks made, trained, permuted or loaded by mcbook
            carry their shape, and need none.
        verify: check the result with numbers (`verification.verify`) and freeze what fails.  It
            takes longer than the trace: some thirty forward passes of a float64 copy for a ResNet.

    Returns:
        The spaces and where they act; `str()` of it explains it.

    Raises:
        TraceError: when the forward pass fails, or tensors are not ordinary ones; says where.
        ValueError: when an example is needed and missing.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> mc.trace_symmetry(mc.build_model("mlp", data, width=(32, 16))).spaces
        {'linear1': 32, 'linear2': 16}
    """
    check_module(model)
    example = make_example(model, example)
    trace = Trace(model)
    for x in tree_leaves(as_call(example)):
        if isinstance(x, Tensor):
            trace.put(x, trace.label(x))
    try:
        out = follow(model, trace, example)
    except Exception as error:
        last = trace.operations[-1] if trace.operations else ""
        raise explained(error, trace.module, last, example) from error
    outputs = tensors_in(out)
    if not outputs:
        raise TraceError(
            f"expected tensors in what the network returns, found a {type(out).__name__}; let it "
            f"return a tensor, a tuple or a dictionary"
        )
    trace.units.because("output", "")
    trace.pin(*outputs)
    trace.units.because("not read on this example", "")
    for _, units in trace.unread():
        trace.units.pin(units)
    spec = solve(model, trace)
    if not verify:
        return spec
    try:
        return verified(spec, model, example)
    except IncompatibleError as error:
        return replace(spec, notes=[*spec.notes, f"not verified: {error}"])
