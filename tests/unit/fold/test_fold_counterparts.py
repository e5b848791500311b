"""What takes no part in a merge is named, and a merge of which most takes no part is refused."""

from __future__ import annotations

import pytest
import torch
from lab import Lab
from tiny_models import full_checkpoint, llama
from torch import Tensor

from mergebuild.errors import MismatchError, Problem
from mergebuild.fold.counterparts import Accounting, Side, Spec, percent
from mergebuild.layouts import built_in

MIX = """
[targets.mix]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.5
output = "mix.safetensors"
"""
VAE, TEXT, UNET = "first_stage_model.", "cond_stage_model.", "model.diffusion_model."


IN, SECOND = f"{UNET}input_blocks.", "conditioner.embedders.1."


def mixed(lab: Lab, a: dict[str, Tensor], b: dict[str, Tensor], more: str = "", text: str = MIX) -> tuple[str, ...]:
    """Build the mix; return what is said of it."""
    lab.model("a", **a)
    lab.model("b", **b)
    lab.write(text + more)
    (found,) = lab.build().targets
    return found.notices


def refusal(lab: Lab, a: dict[str, Tensor], b: dict[str, Tensor], more: str = "", text: str = MIX) -> Problem:
    with pytest.raises(MismatchError) as caught:
        mixed(lab, a, b, more, text)
    assert caught.value.exit_code == 9
    return caught.value.problems[0]


def without(tensors: dict[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if not name.startswith(beginnings)}


def only(tensors: dict[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if name.startswith(beginnings)}


# Half merges that are accepted, each with its share of the bytes


def specs(**sizes: int) -> dict[str, Spec]:
    return {name.replace("__", "."): Spec("float16", (size,), is_float=True) for name, size in sizes.items()}


def test_components_blocks_and_single_tensors_are_named_with_their_share() -> None:
    layout = built_in("sdxl")
    assert layout is not None
    names = {f"{VAE}q": 50, "conditioner.embedders.0.x": 100, f"{SECOND}x": 100, f"{SECOND}y": 50}
    names |= {f"{IN}1.a": 100, f"{IN}2.a": 100, f"{IN}3.a": 100, f"{IN}3.b": 400}
    mine = {name: Spec("float16", (size,), is_float=True) for name, size in names.items()}
    lacking = [name for name in names if name not in ("conditioner.embedders.0.x", f"{IN}3.b")]
    account = Accounting(
        Side("a", layout, mine, 2000, 1000, tuple(lacking)), Side("b", layout, {}, 1000, 1000), is_copied=True
    )
    begin = "that `b` lacks stay the first input's: "
    assert [each.replace(begin.replace("stay", "stays"), begin) for each in account.sentences] == [
        f"1 tensor {begin}all of `vae`, 100 B (5.0 % of `a`), `first_stage_model.q`",
        f"2 tensors {begin}all of `{SECOND}`, 300 B (15 % of `a`), `{SECOND}x`, `{SECOND}y`",
        f"2 tensors {begin}blocks IN01-IN02, 400 B (20 % of `a`), `{IN}1.a`, `{IN}2.a`",
        f"1 tensor {begin}some of block IN03, 200 B (10 % of `a`), `{IN}3.a`",
    ]


def test_as_many_lacking_as_left_over_may_be_two_names_for_one() -> None:
    """Those of one shape are named."""
    mine, theirs = specs(old=3, x=4), specs(y=4, new=3)
    account = Accounting(Side("a", None, mine, 14, 0, ("old", "x")), Side("b", None, theirs, 14, 0, ("y", "new")))
    assert account.sentences[-1].endswith("`old` and its `new` may be two names for one")
    assert not Accounting(Side("a", None, mine, 14, 0, ("old",)), Side("b", None, {}, 14, 0)).sentences[1:]


def test_shares_are_told_in_few_digits() -> None:
    assert [percent(part, 10_000) for part in (0, 1, 30, 999, 1000, 9999)] == [
        "0 %", "under 0.1 %", "0.3 %", "10.0 %", "10 %", "100 %"
    ]  # fmt: skip


ACCEPTED = [
    # what `b` has of a whole checkpoint of Stable Diffusion 1.5, and more of the target: what is said
    ("a VAE alone", (VAE,), "", ("all of `unet`", "all of `text_encoder`")),
    ("a VAE alone, and only VAEs asked for", (VAE,), 'merge = ["vae"]\n', ()),
    ("a UNet alone", (UNET,), "", ("all of `vae`", "all of `text_encoder`")),
    ("no text encoder", (UNET, VAE), "", ("all of `text_encoder`",)),
    ("no text encoder, and it has the number 0", (UNET, VAE), "alpha = { default = 0.5, text_encoder = 0 }\n", ()),
    ("no text encoder, and a rule copies it", (UNET, VAE), "RULE", ()),
    ("no text encoder, and it comes from elsewhere", (UNET, VAE), 'components.text_encoder = "a"\n', ()),
    ("no text encoder, and it is dropped", (UNET, VAE), 'drop = ["text_encoder"]\n', ()),
    ("no text encoder, and no number reaches it", (UNET, VAE), "alpha = { unet = 0.5, vae = 0.25 }\n", ()),
]


@pytest.mark.parametrize(("has", "more", "told"), [each[1:] for each in ACCEPTED], ids=[each[0] for each in ACCEPTED])
def test_half_merges_that_are_accepted_are_named_unless_the_recipe_says_so(
    lab: Lab, has: tuple[str, ...], more: str, told: tuple[str, ...]
) -> None:
    """What the other input has takes part wholly; the rest is named, with its share of the first one's bytes."""
    whole, other = full_checkpoint("sd15", 1, torch.float32), only(full_checkpoint("sd15", 2, torch.float32), *has)
    text = MIX.replace("alpha = 0.5\n", "") if "alpha" in more else MIX
    if more == "RULE":
        more = '[[targets.mix.rules]]\ntensors = ["text_encoder"]\nmethod = "copy"\n'
    found = mixed(lab, whole, other, more, text)
    assert len(found) == len(told)
    for sentence, part in zip(sorted(found), sorted(told), strict=True):
        share = sum(
            each.nbytes for name, each in whole.items() if name.startswith(BEGINS[part]) and each.is_floating_point()
        )
        total = sum(each.nbytes for each in whole.values() if each.is_floating_point())
        assert part in sentence
        assert f"({percent(share, total)} of `a`)" in sentence
    made = lab.read("mix.safetensors")
    for name in only(whole, *has):
        if "default" not in more and "merge" not in more and whole[name].is_floating_point():
            assert not torch.equal(made[name], whole[name]) or torch.equal(whole[name], other[name]), name


BEGINS = {"all of `unet`": UNET, "all of `text_encoder`": TEXT, "all of `vae`": VAE}


def test_what_only_another_input_has_is_named(lab: Lab) -> None:
    """A component of it, with its share of that input; not what `merge`, `drop` or a number of 0 leaves out."""
    whole, other = full_checkpoint("sd15", 1, torch.float32), full_checkpoint("sd15", 2, torch.float32)
    (told,) = mixed(lab, without(whole, TEXT), other)
    assert "that only `b` has are left out: all of `text_encoder`" in told
    assert f"`{TEXT}" in told
    assert mixed(lab, without(whole, TEXT), other, 'merge = ["unet"]\n') == ()
    reached = "alpha = { unet = 0.5, vae = 0.25 }\n"
    assert mixed(lab, without(whole, TEXT), other, reached, MIX.replace("alpha = 0.5\n", "")) == ()


REFUSED = [
    ("most of a UNet under another name", lambda name: name.replace("blocks", "bricks")),
    ("a prefix that nobody knows", lambda name: f"net.inner.{name}"),
]


@pytest.mark.parametrize(("what", "rename"), REFUSED, ids=[each[0] for each in REFUSED])
def test_most_of_the_smaller_inputs_bytes_must_take_part(lab: Lab, what: str, rename: object) -> None:
    """Names do not count: a few large tensors are most of a model."""
    assert callable(rename)
    one, two = llama(1), {rename(name.replace("layers", "blocks")): each for name, each in llama(2).items()}
    problem = refusal(lab, one, two)
    assert problem.code == "too-little-in-common", what
    assert problem.rows
    if what.startswith("a prefix"):
        assert "`net.inner." in (problem.help or "")


def test_a_merge_that_takes_nothing_of_an_input_is_refused(lab: Lab) -> None:
    """All that it has is something else than what is asked for."""
    whole = full_checkpoint("sd15", 1, torch.float32)
    problem = refusal(lab, whole, only(full_checkpoint("sd15", 2, torch.float32), VAE), 'merge = ["unet"]\n')
    assert problem.code == "too-little-in-common"
    assert problem.message == "none of what `mix` asks of `b` has a counterpart in `a`"
    refusal(lab, whole, only(full_checkpoint("sd15", 2, torch.float32), VAE), 'missing = "error"\n')


def test_bytes_count_and_not_names(lab: Lab) -> None:
    """Of three tensors one is left; it is most of the model, or the least of it."""
    small = {"x": torch.ones(2), "y": torch.ones(2)}
    assert (
        len(mixed(lab, {"w": torch.ones(100), **small}, {"w": torch.ones(100), "p": torch.ones(2), "q": torch.ones(2)}))
        == 3
    )
    problem = refusal(lab, {"w": torch.ones(100), **small}, {"v": torch.ones(100), **small})
    assert problem.message == "only 3.8 % of what `mix` asks of `a` has a counterpart in `b`"


def test_layers_that_only_one_of_them_has_are_named(lab: Lab) -> None:
    """The same architecture of other depth, in either order."""
    deep, flat = llama(1), llama(2)
    flat = {name: each for name, each in flat.items() if ".layers.2." not in name}
    (lacking,) = mixed(lab, deep, flat)
    assert "that `b` lacks stay the first input's: all of `model.layers.2.`" in lacking
    (left,) = mixed(lab, flat, deep)
    assert "that only `b` has are left out: all of `model.layers.2.`" in left


def test_constants_are_the_first_inputs_and_no_reason_to_fail(lab: Lab) -> None:
    """Buffers of the noise schedule, of whatever shapes; with `scale` too."""
    one, two = {"w": torch.ones(4), "betas": torch.ones(10)}, {"w": torch.zeros(4), "betas": torch.zeros(1000)}
    assert mixed(lab, one, two) == ()
    assert torch.equal(lab.read("mix.safetensors")["betas"], one["betas"])
    assert mixed(lab, one, {"w": torch.ones(4)}, 'missing = "error"\n') == ()
    assert mixed(lab, {"w": torch.ones(4)}, two, 'missing = "error"\n') == ()
    assert (
        mixed(lab, one, two, text='[targets.mix]\nmethod = "scale"\na = "a"\nalpha = 3\noutput = "mix.safetensors"\n')
        == ()
    )
    assert lab.values("mix.safetensors", "betas") == [1.0] * 10
    assert lab.values("mix.safetensors") == [3.0] * 4
