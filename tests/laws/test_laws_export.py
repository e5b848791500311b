"""What export writes, import reads back: the same artifact, with nothing left unsaid, for all that export accepts.

Mergefiles are drawn at random, of tiny models that all formats can name, with far more than any format can say: what
is refused shows nothing here, and is counted, so that each format accepts its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from drawing import worlds
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from model_files import write_model
from model_folders import CONFIG, SIDECARS, sharded
from runner import place
from tiny_models import llama, sd15, sdxl
from worlds import World

from mergebuild.errors import ExportError, MergeBuildError
from mergebuild.exchange.exporting import FORMATS, export
from mergebuild.exchange.importing import import_recipes
from mergebuild.project.project import load

Draw = Callable[..., Any]

NUMBERS = ("0.3", "1", "0", "0.5", "0.70", "-0.25", "1.5", "0.123456789012345678901")
KEYS: Mapping[str, tuple[str, ...]] = {
    "sd15": ("default", "IN00", "IN04", "IN00-IN05", "M00", "OUT", "OUT11", "BASE", "VAE", "attn", '"*attn2*"',
             '"*time_embed*"', "unet", "text_encoder"),
    "sdxl": ("default", "IN00", "IN04", "M00", "OUT08", "BASE", "VAE", '"*time_embed*"', '"*label_emb*"', "unet"),
    "llama": ("default", "L00", "L01-L02", "L3", "L", "embed", "head", "attn", "mlp", "norm", '"*mlp*"', '"*.q_proj.*"',
              '"*norm*"', '"lm_head.weight"', '"re:[qk]_proj"'),
}  # fmt: skip
WHOLE: Mapping[str, tuple[str, ...]] = {
    "sd15": (
        "preset = 'GRAD_V'", "preset = 'FLAT_25'", "elemental = 'OUT03:attn2:0.5'", f"mbw = {[0.25, *[0.5] * 25]}",
        f"mbw = {[0.25, 0.25, *[0.5] * 24]}, VAE = 0.25", f"mbw = {[0, 0, *[0.1] * 24]}",
    ),
    "sdxl": (
        "preset = 'OUT07'", f"mbw = {[0.25] * 20}", f"mbw = {[0.25, *[0.5] * 19]}, VAE = 0.3",
        f"mbw = {[0.25, *[0.5] * 19]}, '*time_embed*' = 0.25, '*label_emb*' = 0.25",
    ),
    "llama": ("default = { gradient = [0, 0.5, 1] }", "default = { gradient = [0.2, 1] }, head = 0.2",
              '"*mlp*" = { gradient = [1, 0.3] }', "default = 0.4, L = { gradient = [1, 0, 1] }",
              "default = { gradient = [0.5, 0, 0.5] }"),
}  # fmt: skip
ONES: Mapping[str, tuple[list[str], ...]] = {"copy": ([],), "scale": (["alpha = 0.5"], ["alpha = { mlp = 0.5 }"])}
PAIRS = {"weighted_sum": "alpha", "slerp": "t", "geometric": "alpha", "nearswap": "t", "arcee_fusion": ""}
TRIPLES = {"add_difference": "alpha", "train_difference": "alpha", "add_opposite": "alpha",
           "add_strict_opposite": "alpha", "multiply_quotient": "alpha"}  # fmt: skip
LISTS = {
    "linear": ("weight",), "nuslerp": ("weight",), "multislerp": ("weight",), "karcher": (),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"), "dare_linear": ("weight", "density"), "dare_ties": ("weight", "density"),
    "breadcrumbs": ("weight", "density", "gamma"), "breadcrumbs_ties": ("weight", "density"),
    "della": ("weight", "density"), "della_linear": ("weight", "density"), "model_stock": (), "sce": (), "ram": (),
    "ramplus_tl": (),
}  # fmt: skip
WORDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("normalize = false",),
    "nuslerp": ("per = 'row'", "per = 'column'"), "multislerp": ("linear_fallback = true", "normalize = false"),
    "karcher": ("max_iter = 5", "tol = 0.001"), "task_arithmetic": ("normalize = true", "lambda = 0.5"),
    "ties": ("normalize = false", "rescale = 'l1'", "vote = 'count'", "lambda = 0.7"),
    "dare_linear": ("seed = 0\nrescale = 'l1'", "seed = 0", "seed = 1"),
    "dare_ties": ("seed = 0\nrescale = 'l1'", "seed = 0\nrescale = 'none'", "seed = 1"),
    "breadcrumbs": ("normalize = true",), "breadcrumbs_ties": ("rescale = 'l1'",),
    "della": ("seed = 0\ncompat = 'mergekit'",), "della_linear": ("seed = 0\ncompat = 'mergekit'", "seed = 0"),
    "model_stock": ("compat = 'mergekit'", "compat = 'mergekit'\nper = 'row'", "pairs = 'adjacent'"),
    "sce": ("compat = 'mergekit'", "compat = 'mergekit'\nselect_topk = 0.5"), "ram": ("epsilon = 0.001",),
    "ramplus_tl": ("r = 0.2",),
}  # fmt: skip
FAMILIES = {"mergekit": ("llama",) * 9 + ("sd15",), "mecha": ("sd15", "sdxl"), "mbw": ("sd15", "sdxl"),
            "merge-board": ("sd15", "sdxl")}  # fmt: skip
ONLY: Mapping[str, Sequence[str]] = {
    "mergekit": ("slerp", "nearswap", "arcee_fusion", *LISTS, *ONES, "add_lora"),
    "mbw": ("weighted_sum", "add_difference"),
    "merge-board": ("weighted_sum", "add_difference"),
    "mecha": ("weighted_sum", *TRIPLES, "slerp", "geometric", "linear"),
}
ANY = (*ONES, *PAIRS, *TRIPLES, *LISTS)
ALWAYS = ("dare_linear", "dare_ties", "della", "della_linear", "model_stock", "sce", "multislerp")
"""Methods that need a word: a seed, or one without which hardly any format has them."""


def _rarely(draw: Draw, one_in: int) -> bool:
    return bool(draw(st.integers(0, one_in - 1)) == one_in - 1)


def _number(draw: Draw, family: str) -> str:
    if not _rarely(draw, 3):
        return str(draw(st.sampled_from(NUMBERS)))
    if draw(st.booleans()):
        return "{ " + draw(st.sampled_from(WHOLE[family])) + " }"
    keys = draw(st.lists(st.sampled_from(KEYS[family]), min_size=1, max_size=3, unique=True))
    return "{ " + ", ".join(f"{key} = {draw(st.sampled_from(NUMBERS))}" for key in keys) + " }"


def _merge(draw: Draw, family: str, models: list[str], methods: Sequence[str]) -> list[str]:
    """Draw one of the methods with inputs and numbers, as lines of a target."""
    model = st.sampled_from(models[::-1])
    method = draw(st.sampled_from(methods))
    lines = [f"method = '{method}'"]
    if method in ONES:
        return [*lines, f"a = '{draw(model)}'", *draw(st.sampled_from(ONES[method]))]
    if method == "add_lora" and family == "llama":
        strength = draw(st.sampled_from("112"))
        return [*lines, f"base = '{draw(model)}'", "loras = ['lora']", f"strength = {strength}"]
    if method in {**PAIRS, **TRIPLES}:
        inputs = _several(draw, models, 2 if method in PAIRS else 3)
        lines += [f"{role} = '{each}'" for role, each in zip("abc", inputs, strict=False)]
        amount = {**PAIRS, **TRIPLES}[method]
        return [*lines, *([f"{amount} = {_number(draw, family)}"] if amount else []), *_words(draw, method)]
    return [*lines, *_listed(draw, family, models, method), *_words(draw, method)]


def _several(draw: Draw, models: list[str], count: int) -> list[str]:
    """Draw inputs, mostly each another one."""
    unique = len(models) >= count and not _rarely(draw, 8)
    found: list[str] = draw(st.lists(st.sampled_from(models[::-1]), min_size=count, max_size=count, unique=unique))
    return found


def _listed(draw: Draw, family: str, models: list[str], method: str) -> list[str]:
    method = method if method in LISTS else "linear"
    count = 2 if method == "nuslerp" else draw(st.sampled_from((2, 2, 3)))
    has_base = method not in ("linear", "karcher") and (method not in ("nuslerp", "multislerp") or draw(st.booleans()))
    base, *found = _several(draw, models, count + 1) if has_base else ["", *_several(draw, models, count)]
    lines = [f"models = {found}", *([f"base = '{base}'"] if has_base else [])]
    for name in LISTS[method]:
        several = ", ".join(_number(draw, family) for _ in found)
        lines.append(f"{name} = {_number(draw, family) if draw(st.booleans()) else f'[{several}]'}")
    return lines


SLICES: Mapping[str, tuple[str, ...]] = {
    "copy": ("",), "scale": ("alpha = 0.5", 'alpha = { default = 1, "*.o_proj.*" = 0 }', "alpha = { L01 = 0.5 }"),
    "slerp": ("t = 0.3", 't = { default = 0.5, "*mlp*" = 1 }'), "ties": ("weight = 0.5", "weight = 1, density = 0.5"),
    "linear": ("weight = [0.5, 0.25]",),
}  # fmt: skip


def _stack(draw: Draw, models: list[str]) -> list[str]:
    """Draw a stack of two or three slices, mostly by one method."""
    first = draw(st.sampled_from(sorted(SLICES)))
    found = []
    for _ in range(draw(st.sampled_from((2, 3)))):
        method = draw(st.sampled_from(sorted(SLICES))) if _rarely(draw, 8) else first
        one, other = _several(draw, models, 2)
        inputs = {"slerp": f"a = '{one}', b = '{other}'", "ties": f"base = '{one}', models = ['{other}']",
                  "linear": f"models = ['{one}', '{other}']"}.get(method, f"a = '{one}'")  # fmt: skip
        layers = draw(st.sampled_from(("L00-L01", "L02", "L01-L03", "none")))
        words = draw(st.sampled_from(SLICES[method]))
        found.append(f"{{ method = '{method}', {inputs}, layers = '{layers}'{', ' * bool(words)}{words} }}")
    return [f"method = '{first}'", f"slices = [{', '.join(found)}]"]


def _words(draw: Draw, method: str) -> list[str]:
    words = WORDS.get(method, ()) if method != "slerp" else ("magnitude = 'raw'", "magnitude = 'lerp'")
    wanted = method in ALWAYS or draw(st.booleans())
    return [draw(st.sampled_from(words))] if words and wanted else []


@st.composite
def mergefiles(draw: Draw, format: str) -> str:
    """Draw a mergefile whose last target is `last`, mostly of what a format is for."""
    family = draw(st.sampled_from(FAMILIES[format]))
    ends = {"llama": "/"}.get(family, ".safetensors")
    models = ["a", "b", "c"]
    lines = ["[sources]", *(f"{name} = 'models/{family}-{name}{ends}'" for name in models)]
    lines += ["lora = 'models/lora/'"] if family == "llama" else []
    steps = draw(st.sampled_from((0, 0, 1, 2) if format != "mbw" else (0, 0, 0, 1)))
    methods = ANY if _rarely(draw, 8) else ONLY[format]
    for number in range(steps + 1):
        name = f"s{number}" if number < steps else "last"
        lines += [f"[targets.{name}]"]
        is_stack = format == "mergekit" and family == "llama" and _rarely(draw, 4)
        lines += _stack(draw, models) if is_stack else _merge(draw, family, models, methods)
        if name == "last" or _rarely(draw, 12):
            lines += _output(draw, name, family)
        if _rarely(draw, 15):
            lines.append(draw(st.sampled_from(("merge = ['attn']", "drop = ['norm']", "ema = 'keep'", "cache = false",
                                               "missing = 'error'", "nonfinite = 'allow'"))))  # fmt: skip
        models.append(name)
    return "\n".join(lines) + "\n"


def _output(draw: Draw, name: str, family: str) -> list[str]:
    if _rarely(draw, 12):
        return []
    suffix = draw(
        st.sampled_from(("/", ".safetensors") if family == "llama" else (".safetensors", ".safetensors", ".ckpt"))
    )
    dtype = draw(st.sampled_from(("float16", "float16", "bfloat16", "float32", "source", "")))
    return [f"output = 'out/{name}{suffix}'", *([f"dtype = '{dtype}'"] if dtype else [])]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of three families, and a LoRA."""
    found = tmp_path_factory.mktemp("export")
    for number, name in enumerate("abc", 1):
        write_model(found / f"models/sd15-{name}.safetensors", sd15(number))
        write_model(found / f"models/sdxl-{name}.safetensors", sdxl(number))
        config = {**CONFIG, "num_hidden_layers": 4, "vocab_size": 64}
        sharded(found / f"models/llama-{name}", llama(number), beside={**SIDECARS, "config.json": config})
    adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    weights = llama(9)
    inside, layer = "base_model.model.model.layers.0.self_attn.q_proj", "model.layers.0.self_attn."
    down, up = weights[f"{layer}q_proj.weight"][:2], weights[f"{layer}k_proj.weight"][:, :2]
    tensors = {f"{inside}.lora_A.weight": down.contiguous(), f"{inside}.lora_B.weight": up.contiguous()}
    sharded(found / "models/lora", tensors, count=1, beside={"adapter_config.json": adapter})
    return found


def artifact(mergefile: Path, name: str) -> str:
    """Return the digest of what a target will be."""
    project = load(mergefile)
    plan = project.ask(lambda session: session.plan((name,), hash_all=True, look_closely=True))
    found = next(each for each in plan.results() if each.target == name)
    assert found.artifact is not None, found.error
    return found.artifact


def holds(root: Path, name: str, format: str) -> bool:
    """Return whether export accepts a target; assert that import then makes the same artifact of what it wrote."""
    project = load(root / "mergefile.toml")
    try:
        made = export(project, name, format)
    except ExportError as error:
        refused = error.problems
    else:
        refused = ()
    if refused:
        assert all(each.where is not None for each in refused)
        return False
    recipe = root / "exported"
    recipe.write_text(made.text)
    back = import_recipes([recipe], root)
    assert not back.unmapped, f"{made.text}\n{back.unmapped}"
    (root / "back.toml").write_text(back.text)
    (again,) = load(root / "back.toml").recipe.resolve(())
    said = f"\n{(root / 'mergefile.toml').read_text()}\n{made.text}\n{back.text}"
    try:
        assert artifact(root / "back.toml", again) == artifact(root / "mergefile.toml", name), said
    except MergeBuildError as error:
        raise AssertionError(f"{error}{said}") from error
    return True


def can_be_made(root: Path, name: str) -> bool:
    """Return whether a build would make a target, as far as headers and digests tell."""
    try:
        artifact(root / "mergefile.toml", name)
    except (MergeBuildError, AssertionError):
        return False
    return True


@pytest.mark.parametrize("format", FORMATS)
def test_import_of_what_export_wrote_is_the_same_artifact(root: Path, format: str) -> None:
    """Import reads back all that export says, as the same tensors with the same digests."""
    accepted = []

    @examples(80)
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        text = data.draw(mergefiles(format))
        (root / "mergefile.toml").write_text(text)
        if can_be_made(root, "last"):
            accepted.append(holds(root, "last", format))

    law()
    assert sum(accepted) * 8 > len(accepted), "too little was exported for the law to say much"


@examples(40)
@given(world=worlds(), format=st.sampled_from(sorted(FORMATS)))
def test_any_target_of_any_project_is_refused_or_read_back(world: World, format: str) -> None:
    """Export fails at no target, whatever it is made of."""
    with place() as places:
        there = places.new(world)
        for name in load(there.root / "mergefile.toml").target_names():
            if can_be_made(there.root, name):
                holds(there.root, name, format)
