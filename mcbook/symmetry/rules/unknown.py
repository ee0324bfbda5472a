"""Operations no rule knows: probed with numbers, else every unit they touch is pinned."""

from __future__ import annotations

from ..context import READ_OUT, Call, Rule, Trace
from ..labels import Label
from ..probing import probe

__all__ = ["RULES", "frozen", "unknown"]


def unknown(trace: Trace, call: Call) -> list[Label]:
    """Ask the operation itself, by numbers; freeze where that gives no answer."""
    nothing = [Label()] * len(call.outputs)
    if not any(map(trace.label, call.inputs)):
        return nothing
    name = str(call.func)
    labels = probe(trace, call)
    if labels is None:
        frozen(trace, call, name)
        return nothing
    trace.note(f"no rule knows {name}: what it does to permuted arguments was found by trying")
    return labels


def read_out(trace: Trace, call: Call) -> list[Label]:
    """A number leaves the tensors, for Python to decide by."""
    trace.pin(*call.inputs)
    trace.note(READ_OUT)
    return [Label()] * len(call.outputs)


def frozen(trace: Trace, call: Call, name: str) -> Label:
    """Pin every unit of every argument."""
    trace.note(f"no rule knows {name}: all units it touches are frozen")
    trace.units.because(f"unknown operation {name}", trace.module)
    trace.pin(*call.inputs)
    return Label()


RULES: dict[str, Rule] = {"_local_scalar_dense": read_out}
