"""Reads what stands where an input is named: a name, names joined by `+`, or a table with LoRAs or a dtype."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mergebuild.recipe.inline import Rounded, WithLoras
from mergebuild.recipe.namespace import Namespace, NoSuchNameError
from mergebuild.recipe.nodes import Node, Reader, among, misspelt
from mergebuild.recipe.vocabulary import DTYPE_HINTS, DTYPES

__all__ = ["INLINE_KEYS", "InputValues"]

INLINE_KEYS: Mapping[str, tuple[str, ...]] = {"model": ("loras", "dtype"), "lora": ("dtype",)}
"""By the key that names an input in a table: the keys that say what is done with it first."""
_NAME = "write one name in quotes; `mergebuild list` shows all"
_TO_ROUND = tuple(dtype for dtype in DTYPES if dtype != "source")


class InputValues:
    """Reads inputs with the names of one recipe; mistakes are reported to the reader's problems."""

    def __init__(self, reader: Reader, namespace: Namespace) -> None:
        self._reader = reader
        self._namespace = namespace

    def ref(self, node: Node, what: str, one: str = "model") -> str | None:
        """Return the canonical name of an input; None if the value names none, which is reported.

        `one`: the key of a table that names the input; empty: only a name may stand here.
        """
        if isinstance(node.value, dict) and one:
            return self._of_table(node, node.value, what, one)
        text = self._reader.text(node, what, expected="the name of a source or target", hint=_NAME)
        if text is None:
            return None
        try:
            return self._namespace.reference(text, node.at) if one else self._namespace.one(text)
        except NoSuchNameError as error:
            at = node.at.inside(text, *error.span) if error.span else node.at
            self._reader.problems.add(error.code, f"{what}: {error}", at, help=error.hint)
            return None

    def _of_table(self, node: Node, table: dict[str, Node], what: str, one: str) -> str | None:
        allowed = (one, *INLINE_KEYS[one])
        self._reader.known_keys(table, what, allowed)
        if one not in table:
            if not misspelt(one, table, allowed):
                example = f'such as `{{ {one} = "name", dtype = "bfloat16" }}`'
                self._reader.problems.add("missing-key", f"{what} has no `{one}`", node.at, help=example)
            return None
        ref = self.ref(table[one], f"`{one}` of {what}", one)
        return self.changed(ref, node, what, INLINE_KEYS[one])

    def changed(self, ref: str | None, node: Node, what: str, keys: Collection[str]) -> str | None:
        """Return an input with what its table does with it first, by those of the table's keys that say so.

        None if the input is None, or a key is wrong, which is reported.
        """
        table = {key: value for key, value in node.value.items() if key in keys} if isinstance(node.value, dict) else {}
        loras = self._loras(table["loras"], what) if "loras" in table else ()
        dtype = self._dtype(table["dtype"], what) if "dtype" in table else ""
        if ref is None or loras is None or dtype is None:
            return None
        if loras:
            ref = self._namespace.inline.add(WithLoras(ref, loras), node.at)
        return self._namespace.inline.add(Rounded(ref, dtype), node.at) if dtype else ref

    def _loras(self, node: Node, what: str) -> tuple[str, ...] | None:
        """Return the LoRAs that a table lists, a single one by itself; None if one is wrong."""
        listed = f"`loras` of {what}"
        if isinstance(node.value, str):
            items = [node]
        else:
            items = self._reader.items(node, listed, "a list of LoRAs", 'such as `loras = ["style"]`') or []
            if node.value == []:
                self._reader.problems.add("bad-value", f"{listed} is empty", node.at, help='such as `["style"]`')
        found = [self.ref(item, f"an item of {listed}", "lora") for item in items]
        names = tuple(ref for ref in found if ref is not None)
        return names if names and len(names) == len(found) else None

    def _dtype(self, node: Node, what: str) -> str | None:
        named = f"`dtype` of {what}"
        if node.value == "source":
            hint = f"leave it out, or write one of {among(_TO_ROUND)}"
            self._reader.problems.add("bad-value", f"{named} is `source`, which rounds nothing", node.at, help=hint)
            return None
        return self._reader.choice(node, named, _TO_ROUND, DTYPE_HINTS)
