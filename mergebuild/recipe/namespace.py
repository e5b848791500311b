"""What names mean: sources, targets, families and their members.

A name is made canonical when it is read, so that a member has one name, however it was written. A name that means
several targets is allowed on the command line, and an error as an input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from mergebuild.errors import did_you_mean
from mergebuild.recipe.families import Family, Member, MemberError
from mergebuild.recipe.inline import InlineTargets, WithLoras
from mergebuild.recipe.places import At

__all__ = ["Namespace", "NoSuchNameError", "bad_name"]

_MOST_SUGGESTIONS = 40
_MOST_JOINED = 100
"""The most names that are joined by `+`."""


class NoSuchNameError(ValueError):
    """A text that names nothing, or more than one thing."""

    def __init__(self, code: str, message: str, hint: str, span: tuple[int, int] | None = None) -> None:
        """`span`: where in the text the name is that is meant, if it is not all of it."""
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.span = span


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
        self.inline = InlineTargets(self._sources | self._targets | self._families.keys() | self._broken)
        """The inputs that are made where they are named."""

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

    def reference(self, text: str, at: At) -> str:
        """Return the canonical name of the input that a text means: of `one`, or of one with LoRAs (`chat+style`).

        A name that exists wins whole, and so does the longest one before a `+`. `at`: where the text is written.

        Raises:
            NoSuchNameError: it means nothing, or a name in it means several members.
        """
        if "+" not in text or self._named(text) is not None:
            return self.one(text)
        names = self._joined(text)
        return self.inline.add(WithLoras(names[0], tuple(names[1:])), at)

    def _joined(self, text: str) -> list[str]:
        """Return the canonical names that a text joins by `+`, each as long as possible; raise `NoSuchNameError`."""
        pieces = text.split("+")
        if len(pieces) > _MOST_JOINED:
            hint = "list them: `add_lora` takes any number of `loras`"
            raise NoSuchNameError("unknown-reference", f"it joins more than {_MOST_JOINED} names by `+`", hint)
        found: list[str] = []
        first, start = 0, 0
        while first < len(pieces):
            ends = range(len(pieces), first, -1)
            known = ((end, self._named("+".join(pieces[first:end]).strip())) for end in ends)
            end, name = next(((end, name) for end, name in known if name is not None), (first, ""))
            if end == first:
                raise self._unknown_part(pieces[first], start)
            found.append(name)
            start += len("+".join(pieces[first:end])) + 1
            first = end
        return found

    def _unknown_part(self, piece: str, start: int) -> NoSuchNameError:
        """Return the error of a part of joined names. `start`: its offset in the text."""
        word = piece.strip()
        begin = start + piece.find(word)
        if not word:
            hint = "a model stands before a `+`, and a LoRA after it: `chat+style`"
            plus = (start - 1, start) if start else (0, 1)
            return NoSuchNameError("unknown-reference", "a name is missing beside a `+`", hint, plus)
        try:
            self.one(word)
        except NoSuchNameError as error:
            return NoSuchNameError(error.code, str(error), error.hint, (begin, begin + len(word)))
        raise AssertionError(word)  # it was looked for before

    def _named(self, text: str) -> str | None:
        """Return the canonical name that `one` returns; None where that raises."""
        if text in self._sources or text in self._targets:
            return text
        if text.partition("@")[0].strip() not in self._families.keys() | self._broken:
            return None  # without the search for similar names
        try:
            return self.one(text)
        except NoSuchNameError:
            return None

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
