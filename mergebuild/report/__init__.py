"""The only code that prints: answers on stdout, progress and messages on stderr, as text or as one JSON document."""

from mergebuild.report.console import Console

__all__ = ["Console"]
