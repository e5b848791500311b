"""What names mean: sources, targets, families and their members.

A name is made canonical when it is read, so that a member has one name, however it was written. A name that means
several targets is allowed on the command line, and an error as an input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from mergebuild.errors import did_you_mean
from mergebuild.recipe.families import Family, Member, MemberError

__all__ = ["Namespace", "NoSuchNameError", "bad_name"]

_MOST_SUGGESTIONS = 40


class NoSuchNameError(ValueError):
    """A text that names nothing, or more than one thing."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def bad_name(name: str) -> str:
    """Return why a source or target can't have this name; empty if it can."""
    if not name.strip() or name != name.strip():
        return "it is empty or has blanks at its ends"
    odd = [sign for sign in name if sign in "@,=" or not sign.isprintable()]
    return f"`{odd[0]}` would make it look like a member of a family" if odd and odd[0] in "@,=" else (
        "it has a sign that can't be printed" if odd else ""
    )  # fmt: skip


class Namespace:
    """All names of a recipe. `broken` names are declared, but invalid, which is reported elsewhere."""

    def __init__(
        self,
        sources: Collection[str],
        targets: Collection[str],
        families: Mapping[str, Family],
        broken: Collection[str] = (),
    ) -> None:
        self._sources = frozenset(sources)
        self._targets = frozenset(targets)
        self._families = families
        self._broken = frozenset(broken)
        self._suggested = 0

    def one(self, text: str) -> str:
        """Return the canonical name of the one source, target or member that a text names.

        Raises:
            NoSuchNameError: it names nothing, or several members.
        """
        if text in self._sources or text in self._targets or text.partition("@")[0].strip() in self._broken:
            return text
        family, fixed = self._split(text, sources=True)
        first = next(family.members(fixed))[0]
        if len(fixed) < len(family.axes) and self._count(family, fixed) > 1:
            message = f"`{text}` means {self._count(family, fixed)} targets, and an input is one"
            raise NoSuchNameError("not-one-target", message, f"name a member, such as `{first}`")
        return first

    def expand(self, text: str) -> Iterable[str]:
        """Return the canonical names of all targets that a text names: a target, a family, a member, a slice.

        Raises:
            NoSuchNameError: it names no target.
        """
        if text in self._targets:
            return (text,)
        if text.partition("@")[0].strip() in self._broken:
            return ()
        family, fixed = self._split(text, sources=False)
        return (name for name, _ in family.members(fixed))

    def member(self, name: str) -> Member:
        """Return the member of a family that has this name.

        Raises:
            NoSuchNameError: it is no member.
        """
        family, fixed = self._split(name, sources=False)
        return family.member(fixed)

    def continued(self, start: str) -> str | None:
        """Return a name that begins like this and needs quotes in a formula; None if there is none."""
        known = (*self._sources, *self._targets, *self._families)
        return min((name for name in known if name.startswith(start) and not name.isidentifier()), default=None)

    def unknown(self, text: str, *, sources: bool) -> NoSuchNameError:
        """Return the error of an unknown name."""
        if text in self._sources:
            hint = 'a source is not built; name a target, or write one with `method = "copy"`'
            return NoSuchNameError("unknown-target", f"`{text}` is a source, expected a target", hint)
        known = [*(self._sources if sources else ()), *self._targets, *self._families]
        self._suggested += 1
        likely = sorted(known, key=lambda name: (name[:1] != text[:1], name))
        hint = did_you_mean(text, likely) if self._suggested <= _MOST_SUGGESTIONS else ""
        if sources:
            known_here = "`mergebuild list` shows all"
            return NoSuchNameError("unknown-reference", f"`{text}` is no source and no target", _both(hint, known_here))
        return NoSuchNameError("unknown-target", f"unknown target `{text}`", _both(hint, "`mergebuild list` shows all"))

    def _split(self, text: str, *, sources: bool) -> tuple[Family, dict[str, tuple[Fraction | str, str]]]:
        name, at, rest = text.partition("@")
        family = self._families.get(name.strip())
        if family is None:
            if at and name.strip() in self._targets:
                message = f"`{name.strip()}` is no family, so it has no member `{text}`"
                raise NoSuchNameError("unknown-member", message, "a family has `foreach`")
            raise self.unknown(text, sources=sources)
        if not at:
            return family, {}
        try:
            return family, family.read(rest)
        except MemberError as error:
            message = f"`{text}` names no member of `{family.name}`: {error}"
            raise NoSuchNameError("unknown-member", message, error.hint) from None

    @staticmethod
    def _count(family: Family, fixed: Mapping[str, object]) -> int:
        count = 1
        for axis in family.axes:
            count *= 1 if axis.name in fixed else len(axis.values)
        return count


def _both(hint: str, otherwise: str) -> str:
    return "  ".join(part for part in (hint, otherwise) if part)
