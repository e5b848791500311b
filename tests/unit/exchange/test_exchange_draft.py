from __future__ import annotations

import pytest

from mergebuild.exchange.draft import Draft, ModelName


def test_a_source_is_named_by_its_file_and_each_model_is_one_source() -> None:
    draft = Draft()
    assert draft.source(ModelName("xl/photoA.safetensors")) == "photoA"
    assert draft.source(ModelName("xl/photoA.safetensors")) == "photoA"
    assert draft.source(ModelName("sd/photoA.ckpt")) == "photoA-2"
    assert [each.path for each in draft.sources.values()] == ["xl/photoA.safetensors", "sd/photoA.ckpt"]


@pytest.mark.parametrize(
    ("digits", "pins", "autov1"),
    [("abcdef0123", {"autov2": "abcdef0123"}, None), ("0a1b2c3d", {}, "0a1b2c3d")],
)
def test_a_hash_in_brackets_is_a_pin_unless_it_is_an_autov1(
    digits: str, pins: dict[str, str], autov1: str | None
) -> None:
    draft = Draft()
    name = draft.source(ModelName(f"photoA.safetensors [{digits}]"))
    again = draft.source(ModelName(f"photoA.safetensors [{digits}]"))
    source = draft.sources[name]
    assert (name, again, source.path, source.pins) == ("photoA", "photoA", "photoA.safetensors", pins)
    assert source.model.autov1 == autov1


def test_a_repository_is_a_folder_and_keeps_the_dots_of_its_name() -> None:
    draft = Draft()
    url = "https://models.example/org/Llama-3.1-8B"
    assert draft.source(ModelName("org/Llama-3.1-8B", url=url, is_folder=True)) == "Llama-3.1-8B"
    assert draft.sources["Llama-3.1-8B"].path == "Llama-3.1-8B/"


def test_a_model_without_a_name_has_a_path_to_fill_in() -> None:
    draft = Draft()
    name = draft.source(ModelName("", autov2="abcdef0123"))
    assert (name, draft.sources[name].path) == ("abcdef0123", "abcdef0123.safetensors")


@pytest.mark.parametrize("wished", ["a=b", "x@y", "p, q", "${m}", "\x00", "", "  ", "line\nbreak"])
def test_any_text_becomes_a_name_of_a_mergefile(wished: str) -> None:
    draft = Draft()
    name = draft.target(wished, {})
    assert name.isprintable()
    assert name.strip() == name
    assert not set(name) & set("@,=$")


@pytest.mark.parametrize(
    ("wished", "path"),
    [
        ("mix.safetensors", "mix.safetensors"),
        ("../../etc/mix.safetensors", "etc/mix.safetensors"),
        ("/root/mix/", "root/mix/"),
        ("C:\\models\\mix.ckpt", "C-/models/mix.ckpt"),
        (".git/config/", "git/config/"),
        ("mix.safetensors/", "mix/"),
        ("..", "model"),
        ("~/x.ckpt", "-/x.ckpt"),
        ("~root/x.ckpt", "-root/x.ckpt"),
        ("~/", "-/"),
    ],
)
def test_an_output_is_below_the_mergefiles_folder(wished: str, path: str) -> None:
    assert Draft().free_output(wished) == path


def test_outputs_differ_also_where_letter_case_does_not_count() -> None:
    draft = Draft()
    for wished in ("Mix.safetensors", "mix.safetensors", "mix/"):
        draft.target("t", {"output": draft.free_output(wished)})
    assert [each.keys["output"] for each in draft.targets.values()] == ["Mix.safetensors", "mix-2.safetensors", "mix/"]


def test_what_could_not_be_mapped_is_a_comment_in_its_place() -> None:
    draft = Draft()
    name = draft.target("mix", {})
    draft.leave_out("r.yml:3", "a thing", target=name)
    draft.leave_out("r.yml", "another")
    draft.say("r.yml:4", "a fact", target=name)
    assert draft.targets[name].comments == ["not imported: a thing", "a fact"]
    assert draft.comments == ["not imported: another"]
    assert (len(draft.unmapped), len(draft.notices)) == (2, 1)
