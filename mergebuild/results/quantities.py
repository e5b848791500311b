"""Bytes, seconds and counts as text for people: decimal units, few digits."""

from __future__ import annotations

__all__ = ["count_text", "size_text", "time_text"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def size_text(size_bytes: int) -> str:
    """Return a number of bytes as text: `999 B`, `2.1 GB`, `421 MB`."""
    if abs(size_bytes) < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _UNITS:
        value /= 1000
        # a value that rounds up to 1000 is written in the next unit
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"
    raise AssertionError


def time_text(seconds: float) -> str:
    """Return a duration as text: `0.04 s`, `1.9 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_text(count: int, noun: str) -> str:
    """Return a count with its noun in singular or plural: `1 target`, `14 targets`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
