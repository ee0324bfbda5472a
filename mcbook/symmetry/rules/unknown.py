"""Operations no rule knows: probed with numbers, else every unit they touch is pinned."""

from __future__ import annotations

from ..context import Call, Trace
from ..labels import Label
from ..probing import probe

__all__ = ["frozen", "unknown"]


def unknown(trace: Trace, call: Call) -> list[Label]:
    """Ask the operation itself, by numbers; freeze where that gives no answer."""
    name = str(call.func)
    labels = probe(trace, call)
    if labels is None:
        frozen(trace, call, name)
        return [Label()] * len(call.outputs)
    trace.unknown.setdefault(name, "probed")
    return labels


def frozen(trace: Trace, call: Call, name: str) -> Label:
    """Pin every unit of every argument."""
    trace.unknown[name] = "frozen"
    trace.units.because(f"unknown operation {name}", trace.module)
    trace.pin(*call.inputs)
    return Label()
