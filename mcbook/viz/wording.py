"""Numbers and lists as text alternatives and captions say them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BARRIER",
    "count",
    "distance",
    "distances",
    "ends_named",
    "labelled",
    "listed",
    "number",
    "percent",
    "quantity",
]

#: the definitions that captions print
BARRIER = {
    "loss": "max over t of L(t) − ((1 − t) L(0) + t L(1))",
    "accuracy": "max over t of ((1 − t) a(0) + t a(1)) − a(t)",
}


def ends_named(ends: Sequence[str]) -> tuple[str, str]:
    """The names of the two networks at the ends of a path.

    Args:
        ends: the name at t = 0 and the name at t = 1.

    Returns:
        The two.

    Raises:
        ValueError: for anything but two different names.
    """
    if isinstance(ends, str) or len(ends) != 2 or ends[0] == ends[1] or not all(ends):
        raise ValueError(f"expected two different names for the ends of the path, found {ends!r}")
    return str(ends[0]), str(ends[1])


def number(value: float) -> str:
    """Two decimals, or two significant digits where that would say nothing.

    Args:
        value: any number.

    Returns:
        For example "1.27", "0.011", "0.00".
    """
    text = f"{value:.2f}" if abs(value) >= 0.095 else f"{value:.2g}"
    if abs(value) >= 1000:
        text = f"{value:.4g}"
    if abs(value) < 5e-4:
        text = "0.00"
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A share as a percentage with one decimal.

    Args:
        value: a share, as a rule in [0, 1].

    Returns:
        For example "97.2 %".
    """
    return f"{100 * value:.1f} %".replace("-0.0", "0.0").replace("-", "−")


def quantity(value: float, what: str) -> str:
    """A loss as a number, an accuracy as a percentage.

    Args:
        value: what was measured.
        what: "loss" or "accuracy".

    Returns:
        Its text.
    """
    return percent(value) if what == "accuracy" else number(value)


def distance(value: float, what: str) -> str:
    """A difference of two losses or of two accuracies.

    Args:
        value: the difference.
        what: "loss" or "accuracy".

    Returns:
        For example "1.17" or "57.1 points" (percentage points).
    """
    return percent(value).replace("%", "points") if what == "accuracy" else number(value)


def distances(low: float, high: float, what: str) -> str:
    """Two differences of losses or of accuracies.

    Args:
        low: the first.
        high: the second.
        what: "loss" or "accuracy".

    Returns:
        For example "0.98 to 1.53" or "44.9 to 74.5 points".
    """
    return f"{distance(low, what).removesuffix(' points')} to {distance(high, what)}"


def count(how_many: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun.

    Args:
        how_many: the count.
        noun: in the singular.
        plural: where it is not the noun with an s.

    Returns:
        For example "1 pair" or "5 pairs".
    """
    return f"{how_many} {noun if how_many == 1 else plural or noun + 's'}"


def listed(parts: Sequence[str]) -> str:
    """A list in words.

    Args:
        parts: its members.

    Returns:
        For example "a, b and c".
    """
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def labelled(label: str, text: str) -> str:
    """A sentence about the series with this label.

    Args:
        label: the label, or nothing where there is one series only.
        text: what is said.

    Returns:
        For example "naive: barrier 1.17." or "Barrier 1.17."
    """
    text = f"{label}: {text}" if label else text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
