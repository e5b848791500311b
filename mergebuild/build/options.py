"""The options of the builder."""

from __future__ import annotations

from dataclasses import dataclass

from mergebuild.engine.run import DEFAULT_CHUNK

__all__ = ["BuilderOptions"]


@dataclass(frozen=True, slots=True)
class BuilderOptions:
    """How to build."""

    keep_going: bool = False
    threads: int | None = None
    force: bool = False
    link: str = "auto"
    durable: bool = False
    chunk: int = DEFAULT_CHUNK
    device: str = "auto"
