"""The whole lineage of a model file: the merges that made it, of whatever tools, down to the models that none made.

`sd_merge_recipe` is the last merge, `sd_merge_models` all models behind it by their SHA-256, each with the recipe that
made it or none. So the merges are a graph of hashes. A model with a recipe is a target here, one without a source that
is pinned to its digest. The texts are strangers': a circle, or more merges than people make, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Final, cast

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.file_names import stem_of
from mergebuild.exchange.json_texts import json_of, table_of, words_of
from mergebuild.exchange.merges.chain import MOST_MERGES
from mergebuild.exchange.merges.node import MergeNode, NodeMaker, UnsayableError
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["MergeLineage", "has_recipe", "lineage_of"]

_MAKERS: Final = {
    "webui": "webui",
    "sd-webui-supermerger": "supermerger_metadata",
    "sd-webui-model-mixer": "model_mixer",
    "merge-models-chattiori": "chattiori_metadata",
    "mergebuild": "ours",
}
"""By the `type` of a recipe, the module of its tool."""
_RECIPE_KEYS: Final = ("sd_merge_recipe", "merge_recipe")
_MODELS_KEYS: Final = ("sd_merge_models", "models")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def has_recipe(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a file say how it was merged."""
    return "sd_merge_recipe" in metadata or _is_first_form(metadata)


def lineage_of(file: RecipeFile) -> MergeLineage:
    """Return the merges behind a file.

    Raises:
        RecipeError: its recipe can't be read.
    """
    key = next(key for key in _RECIPE_KEYS if key in file.metadata)
    where = f"{file.path}: {key}"
    try:
        recipe = json_of(file.metadata[key])
        if isinstance(recipe, str):
            recipe = json_of(recipe)
        said = next((json_of(file.metadata[each]) for each in _MODELS_KEYS if each in file.metadata), {})
    except ValueError as error:
        raise _broken(where, f"the recipe of `{file.path.name}` can't be read: {error}") from None
    if not isinstance(recipe, dict):
        raise _broken(where, f"the recipe of `{file.path.name}` is no JSON object")
    return MergeLineage(where, recipe, _models(table_of(said)))


@dataclass
class MergeLineage:
    """The merges behind a file."""

    where: str
    recipe: Mapping[str, object]
    models: Mapping[str, Mapping[str, object]]
    """By hash, what is said of a model."""
    _names: dict[str, str] = field(default_factory=dict, init=False)
    """By hash, the source or target in the draft."""

    @property
    def knows_its_models(self) -> bool:
        """Whether something is said of each model that the last merge names."""
        maker = _maker_of(self.recipe)
        return maker is not None and all(self._hash_of(each) in self.models for each in maker.models_of(self.recipe))

    def write(self, draft: Draft, *, name: str, output: str) -> str:
        """Add all merges to a draft, and return the name of the last target.

        Raises:
            RecipeError: the last merge can't be said, or the models are made of each other.
        """
        for digest in self._ordered():
            self._names[digest] = self._step(digest, draft)
        maker = _maker_of(self.recipe)
        if maker is None:
            raise _broken(self.where, f"recipes of type {words_of(self.recipe.get('type'))[:60]!r} are not known")
        node = MergeNode(self.recipe, self.where, name, output, lambda each: self._input(each, draft))
        try:
            return maker.add(node, draft)
        except UnsayableError as error:
            raise _broken(self.where, str(error)) from None

    def _input(self, model: str, draft: Draft) -> str:
        """Return the source or target that is a model, by its hash or its name."""
        digest = self._hash_of(model)
        if digest in self._names:
            return self._names[digest]
        if digest and _HASH.fullmatch(digest):
            return draft.source(_source(digest, {}))
        return draft.source(ModelName(model))

    def _step(self, digest: str, draft: Draft) -> str:
        said = self.models[digest]
        recipe = _recipe_in(said)
        maker = _maker_of(recipe) if recipe else None
        model = _source(digest, said)
        if maker is None or not recipe:
            if recipe:
                draft.leave_out(
                    self.where, f"how `{model.text}` was made: by a tool of type {words_of(recipe.get('type'))[:60]!r}"
                )
            return draft.source(model)
        comment = f"sha256 of the file that was merged: {digest}"
        node = MergeNode(
            recipe,
            f"{self.where}: {digest[:10]}",
            model.text or digest[:10],
            None,
            lambda each: self._input(each, draft),
            (comment,),
        )
        try:
            return maker.add(node, draft)
        except UnsayableError as error:
            draft.leave_out(node.where, f"how `{model.text}` was made: {error}")
            return draft.source(model)

    def _ordered(self) -> list[str]:
        """Return the models that the last merge needs, each after those that it is made of.

        Raises:
            RecipeError: a model is made of itself, or there are too many.
        """
        found: list[str] = []
        open_, done = set[str](), set[str]()
        todo = [(digest, False) for digest in reversed(self._needs(self.recipe))]
        while todo:
            digest, closes = todo.pop()
            if closes:
                open_.discard(digest)
                done.add(digest)
                found.append(digest)
                continue
            if digest in open_:
                raise _broken(self.where, f"by its lineage model {digest[:10]} is made of itself")
            if digest in done:
                continue
            open_.add(digest)
            todo.append((digest, True))
            todo += [
                (each, False) for each in reversed(self._needs(_recipe_in(self.models[digest]))) if each not in done
            ]
            if len(open_) + len(done) > MOST_MERGES:
                raise _broken(self.where, f"its lineage has more than {MOST_MERGES} models")
        return found

    def _needs(self, recipe: Mapping[str, object]) -> list[str]:
        maker = _maker_of(recipe) if recipe else None
        known = (self._hash_of(each) for each in maker.models_of(recipe)) if maker else ()
        return [digest for digest in dict.fromkeys(known) if digest in self.models]

    def _hash_of(self, model: str) -> str:
        """Return the hash of a model that a recipe has by hash, or by name with the beginning of it in brackets."""
        lower = model.strip().lower()
        if lower in self.models or _HASH.fullmatch(lower):
            return lower
        found = re.search(r"\[([0-9a-f]{8,64})\]$", lower)
        if found:
            fits = [digest for digest in self.models if digest.startswith(found[1])]
        else:
            fits = self._by_stem.get(stem_of(model), [])
        return fits[0] if len(fits) == 1 else ""

    @cached_property
    def _by_stem(self) -> Mapping[str, list[str]]:
        """The models by their names, to compare."""
        stems: dict[str, list[str]] = {}
        for digest, said in self.models.items():
            stems.setdefault(stem_of(words_of(said.get("name"))), []).append(digest)
        return stems


def _is_first_form(metadata: Mapping[str, str]) -> bool:
    """Whether a file is of the first builds that wrote recipes, which had other keys."""
    return "merge_recipe" in metadata and "interp_method" in metadata["merge_recipe"]


def _models(said: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return what is said of models, by hash; builds of Forge have other things at the level of hashes."""
    return {
        digest.lower(): table_of(each)
        for digest, each in said.items()
        if _HASH.fullmatch(digest.lower()) and isinstance(each, dict)
    }


def _recipe_in(said: Mapping[str, object]) -> Mapping[str, object]:
    """Return the recipe that made a model; empty where none did."""
    return next((found for key in _RECIPE_KEYS if (found := table_of(said.get(key)))), {})


def _maker_of(recipe: Mapping[str, object]) -> NodeMaker | None:
    kind = words_of(recipe.get("type")) or ("webui" if "interp_method" in recipe else "")
    module = _MAKERS.get(kind)
    return cast(NodeMaker, import_module(f"mergebuild.exchange.merges.{module}")) if module else None


def _source(digest: str, said: Mapping[str, object]) -> ModelName:
    """Return a model that no recipe made."""
    name = words_of(said.get("name"))
    legacy = words_of(said.get("legacy_hash")) or words_of(said.get("hash"))
    old = legacy.lower() if re.fullmatch(r"[0-9a-fA-F]{8}", legacy) else None
    if _SHA256.fullmatch(digest):
        return ModelName(re.sub(r"\s*\[[0-9a-fA-F]{8,64}\]$", "", name), sha256=digest, autov1=old)
    if len(digest) == 10:
        return ModelName(name, autov2=digest, autov1=old)
    return ModelName(name, autov1=digest if len(digest) == 8 else old)


def _broken(where: str, message: str) -> RecipeError:
    mend = "a recipe in a model file is what the tool that wrote it left there"
    return RecipeError.one("bad-recipe", message, where=Place(where), help=mend)
