from __future__ import annotations

import pytest
from parts_of_models import PREFIXES, clip, sd3, t5, under, vae, whole

from mergebuild.naming.canonical import canonical
from mergebuild.naming.parts import PlacedPart, components, parts_called, place, prefixes_of_new
from mergebuild.naming.renamed import Shapes
from mergebuild.naming.rules import families

CLIP_L, CLIP_G, T5 = (PREFIXES[name] for name in ("clip_l", "clip_g", "t5"))
OPEN_G = "conditioner.embedders.1.model."


def _named(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {name: made.shape for name, made in canonical(shapes).made.items()}


def _placed(own: Shapes, of: str, component: str, there: Shapes) -> PlacedPart:
    wanted = parts_called(of, component, components(of)[component])
    return place(_named(own), of, wanted, _named(there))


def test_a_part_is_called_by_the_rules_in_use_and_as_pipelines_call_it() -> None:
    assert list(components("flux")) == ["text_encoder", "transformer", "clip_l", "t5xxl", "t5", "vae", "text_encoder_2"]
    assert list(components("sd3"))[:6] == ["text_encoder", "transformer", "clip_l", "clip_g", "t5xxl", "t5"]
    assert {"clip_l", "clip_g", "text_encoder_2"} <= components("sdxl").keys()
    assert not components("")
    assert not components("llama")


def test_every_name_of_a_family_is_in_one_of_its_parts() -> None:
    of = components("flux")
    names = list(_named(whole("flux")))
    for name in names:
        found = [word for word in ("transformer", "clip_l", "t5xxl", "vae") if of[word].search(name)]
        assert len(found) == 1, name
    assert sum(bool(of["text_encoder"].search(name)) for name in names) == len(clip()) + len(t5())


def test_all_encoders_of_a_family_are_its_text_encoder() -> None:
    for each in families():
        found = components(each.name)
        encoders = [part for part in each.parts if part.pipeline.startswith("text_encoder")]
        if found and encoders:
            assert tuple(encoders) == parts_called(each.name, "text_encoder", found["text_encoder"])


@pytest.mark.parametrize("component", ["clip_l", "text_encoder"])
@pytest.mark.parametrize("lacks", [False, True])
def test_an_encoder_alone_gets_the_names_that_it_has_in_a_model(component: str, lacks: bool) -> None:
    there = whole("flux", without="clip_l" if lacks else "")
    found = _placed(clip(), "flux", component, there)
    assert {name: made.shape for name, made in found.made.items()} == under(CLIP_L, clip())
    assert not found.left
    assert not found.doubtful


def test_of_two_encoders_that_a_model_has_the_shapes_tell_which_is_meant() -> None:
    for shapes, prefix in ((clip(6, 2), CLIP_L), (clip(8, 3), CLIP_G)):
        found = _placed(shapes, "sd3", "text_encoder", whole("sd3"))
        assert found.made.keys() == under(prefix, shapes).keys()


def test_of_two_encoders_that_a_model_lacks_the_width_tells_which_is_meant() -> None:
    there = under("model.diffusion_model.", sd3())
    for width, prefix in ((768, CLIP_L), (1280, CLIP_G)):
        found = _placed(clip(width, 1), "sd3", "text_encoder", there)
        assert found.made.keys() == under(prefix, clip(width, 1)).keys()


def test_of_two_encoders_of_one_shape_a_projection_tells_where_one_alone_has_it() -> None:
    there = {"model.diffusion_model.label_emb.0.0.weight": (8, 8)}
    assert all(name.startswith(OPEN_G) for name in _placed(clip(projected=True), "sdxl", "text_encoder", there).made)
    found = _placed(clip(), "sdxl", "text_encoder", there).made
    assert found.keys() == under("conditioner.embedders.0.transformer.", clip()).keys()


def test_where_nothing_tells_what_is_meant_that_is_told() -> None:
    found = _placed(clip(), "sd3", "text_encoder", under("model.diffusion_model.", sd3()))
    assert found == PlacedPart({}, (), ("clip_l", "clip_g"))


def test_what_a_file_holds_beside_the_encoder_is_left_out_in_silence_or_told() -> None:
    beside: dict[str, tuple[int, ...]] = {
        "vision_model.post_layernorm.weight": (6,),
        "visual_projection.weight": (6, 6),
        "logit_scale": (),
        "text_projection.weight": (6, 6),
        "text_model.embeddings.position_ids": (1, 7),
    }
    found = _placed(clip() | beside, "flux", "clip_l", whole("flux"))
    assert found.made.keys() == under(CLIP_L, clip()).keys()
    assert not found.left
    assert _placed(clip() | {"odd.weight": (3,)}, "flux", "clip_l", whole("flux")).left == ("odd.weight",)


def test_a_projection_comes_along_to_a_model_that_lacks_the_encoder() -> None:
    found = _placed(clip(projected=True) | {"logit_scale": ()}, "flux", "clip_l", whole("flux", without="clip_l"))
    assert found.made.keys() == under(CLIP_L, clip(projected=True)).keys()


def test_parts_are_taken_out_of_whole_models_of_other_families() -> None:
    sd1 = under("cond_stage_model.transformer.", clip()) | {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)}
    assert _placed(sd1, "flux", "clip_l", whole("flux")).made.keys() == under(CLIP_L, clip()).keys()
    found = _placed(whole("sd3"), "flux", "text_encoder", whole("flux"))
    assert found.made.keys() == under(CLIP_L, clip(projected=True)).keys() | under(T5, t5()).keys()
    found = _placed(whole("sd3"), "flux", "vae", whole("flux"))
    assert found.made.keys() == under("first_stage_model.", vae()).keys()
    assert found.is_same


def test_an_encoder_of_openclip_in_a_model_is_one_of_transformers_in_another() -> None:
    xl = {
        name: made.shape for name, made in canonical(under(OPEN_G, clip(8, 3, projected=True)), of="sdxl").made.items()
    }
    assert f"{OPEN_G}transformer.resblocks.0.attn.in_proj_weight" in xl
    found = _placed(xl, "sd3", "clip_g", whole("sd3"))
    assert {name: made.shape for name, made in found.made.items()} == under(CLIP_G, clip(8, 3, projected=True))


def test_a_file_that_is_no_such_part_gives_nothing() -> None:
    assert not _placed(clip(), "flux", "t5", whole("flux")).made
    assert not _placed(t5(), "flux", "clip_l", whole("flux")).made
    assert not _placed(t5(), "sdxl", "text_encoder", {"model.diffusion_model.label_emb.0.0.weight": (8, 8)}).made
    assert not _placed(vae(), "flux", "text_encoder", whole("flux")).made


def test_a_part_of_names_that_no_rule_knows_is_told_by_those_that_the_model_has() -> None:
    inner: dict[str, tuple[int, ...]] = {"encoder.conv1.weight": (2, 2), "decoder.head.0.gamma": (2,)}
    there = {"blocks.0.cross_attn.norm_q.weight": (4,)} | under("vae.", inner)
    found = _placed(inner, "wan", "vae", there)
    assert found.made.keys() == under("first_stage_model.", inner).keys()
    assert _placed(inner | {"odd": (1,)}, "wan", "vae", there).left == ("odd",)


@pytest.mark.parametrize(
    ("of", "own", "new", "written"),
    [
        ("flux", "double_blocks.0.img_attn.qkv.weight", "first_stage_model.x", {"first_stage_model.": "vae."}),
        ("sd3", "joint_blocks.0.x_block.attn.qkv.weight", "first_stage_model.x", {}),
        ("flux", "first_stage_model.y", "first_stage_model.x", {}),
        ("flux", "double_blocks.0.img_attn.qkv.weight", f"{CLIP_L}x", {}),
    ],
)
def test_a_part_that_a_file_gets_is_written_as_its_clients_read_it(
    of: str, own: str, new: str, written: dict[str, str]
) -> None:
    assert prefixes_of_new(of, [new], {own: own}) == written


def test_a_part_that_a_file_gets_begins_as_others_of_its_kind_do() -> None:
    ours = "conditioner.embedders.1.model.ln_final.weight"
    stored = {ours: "text_encoders.clip_g.transformer.text_model.final_layer_norm.weight"}
    new = "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"
    prefix = "conditioner.embedders.0.transformer."
    assert prefixes_of_new("sdxl", [new], stored) == {prefix: "text_encoders.clip_l.transformer."}
