"""Compiled kernels make the bytes that torch makes, say the same of values that are not finite, and need no torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from both_ways import both_ways
from lab import Lab
from mergefiles import target_table
from method_trials import TRIALS, call_for, count_for
from real_passes import PROJECTS
from spelled_models import NEEDED, canonical_tensors, spelled, theirs

from mergebuild import native
from mergebuild.build import options
from mergebuild.engine import compiled
from mergebuild.engine.outputs import DIRECT_SHARE, Outputs
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import Piece
from mergebuild.methods.call import Call
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.compiled.catalog import FAMILIES, compiled_method
from mergebuild.system import platform

OUTPUTS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
"""Dtypes that targets may have."""


@pytest.fixture(autouse=True)
def _compiled_kernels() -> None:
    assert native.variants(), "the package was installed without compiled kernels: a C compiler is needed"


@pytest.mark.parametrize("kind", PROJECTS)
def test_every_kind_of_pass_makes_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = both_ways(tmp_path, monkeypatch, PROJECTS[kind])
    assert made


def _of_all_dtypes(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Inputs of every dtype, combined, kept for each other, and rounded to every dtype."""
    generator = torch.Generator().manual_seed(3)
    for number, name in enumerate(("x", "y", "z")):
        tensors = {}
        for dtype in native.DTYPES:
            values = torch.randn(3, 67, generator=generator) * (number + 1)
            tensors[f"w.{dtype}"] = values.to(torch.float64).add(1e-9).to(getattr(torch, dtype))
        lab.model(name, odd=number == 1, **tensors)
    lab.write(
        '[targets.half]\nformula = "x/2 + y/2"\n'
        + "".join(
            f'[targets.{name}_{dtype}]\n{lines}\ndtype = "{dtype}"\noutput = "{name}-{dtype}.safetensors"\n'
            for dtype in OUTPUTS
            for name, lines in (
                ("c", 'method = "copy"\na = "x"'),
                ("m", 'formula = "0.3*x + 0.7*y"'),
                ("d", 'formula = "x + 0.7*(y - z)"'),
                ("r", f'formula = "m_{dtype} - 2*half"'),
                ("g", f'method = "max"\na = "half"\nb = "m_{dtype}"'),
            )
        )
    )


@pytest.mark.parametrize("variant", native.variants())
@pytest.mark.parametrize("chunk", [5, 64, 1 << 19])
def test_every_dtype_comes_out_the_same(
    variant: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    made, _ = both_ways(tmp_path, monkeypatch, _of_all_dtypes, variant)
    assert len(made) == 5 * len(OUTPUTS)


def _not_finite(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    bits = torch.tensor([0x7E01, -0x0200, 0x7C00, -0x0400, 0x7BFF, -0x0401, 0x3C00] * 9, dtype=torch.int16)
    lab.model("x", w=bits.view(torch.float16), v=[1.0, 2.0])
    lab.model("y", w=torch.full((63,), -60000.0, dtype=torch.float16), v=[3e38, -3e38])
    text = ""
    for dtype in OUTPUTS:
        for word in ("allow", "error"):
            text += f'[targets.{word}-{dtype}]\nformula = "2*x - y"\ndtype = "{dtype}"\nnonfinite = "{word}"\n'
            text += f'output = "{word}-{dtype}.safetensors"\n'
    lab.write(text)


def test_values_not_finite_are_counted_and_written_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any NaN is written as the one NaN of its dtype."""
    made, told = both_ways(tmp_path, monkeypatch, _not_finite)
    assert {name.partition("-")[0] for name in made} == {"allow"}
    assert {each[0] for name, each in told.items() if name.startswith("error")} == {"failed"}


def _not_known(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Three models, each with tensors in which it alone has a value that is not finite, at either end."""
    generator = torch.Generator().manual_seed(9)
    for number, name in enumerate(("x", "y", "z")):
        tensors = {f"w{each}{end}": torch.randn(40, 30, generator=generator) for each in range(4) for end in (0, -1)}
        for end, bad in ((0, float("nan")), (-1, -float("inf"))):
            tensors[f"w{number}{end}"].view(-1)[end] = bad
        tensors["beyond"] = torch.full((3,), 1.0 + number)
        lab.model(name, **tensors)
    lab.write(
        "".join(
            f'[targets.{method}]\nmethod = "{method}"\n{lines}\nnonfinite = "allow"\noutput = "{method}.safetensors"\n'
            for method, lines in (
                ("slerp", 'a = "x"\nb = "y"\nt = 0.3'),
                ("karcher", 'models = ["x", "y", "z"]'),
                ("geometric_median", 'models = ["x", "y", "z"]'),
                ("model_stock", 'base = "x"\nmodels = ["y", "z"]'),
                ("add_perpendicular", 'a = "x"\nb = "y"\nc = "z"'),
                ("multislerp", 'models = ["z"]\nweight = 1'),
            )
        )
    )


def test_of_a_tensor_that_is_not_finite_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether that is looked for first, or shows in what is found out."""
    made, _ = both_ways(tmp_path, monkeypatch, _not_known)
    assert len(made) == 6


def _signs_of_nans(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """NaNs of both signs, in files and kept for a step, where the other input makes the magnitude 0, or all of it."""
    nans = torch.tensor([-0x400000, 0x7FC00000] * 2, dtype=torch.int32).view(torch.float32)
    eighths = torch.tensor([0xFF, 0x7F] * 2, dtype=torch.uint8).view(torch.float8_e4m3fn)
    lab.model("x", w=nans, e=eighths)
    lab.model("y", w=torch.tensor([0.0, 0.0, 2.0, 2.0]), e=torch.tensor([0.0, 0.0, 2.0, 2.0]).to(torch.float8_e4m3fn))
    lab.model("z", w=-torch.zeros(4), e=(-torch.zeros(4)).to(torch.float8_e4m3fn))
    lab.write(
        '[targets.v]\nformula = "0.3*x + 0.4*y"\n'
        + "".join(
            f'[targets.{name}]\n{lines}\ndtype = "float32"\nnonfinite = "allow"\noutput = "{name}.safetensors"\n'
            for name, lines in (
                ("g", 'method = "geometric"\na = "x"\nb = "y"\nalpha = 0.3'),
                ("k", 'method = "geometric"\na = "v"\nb = "y"\nalpha = 0.3'),
                ("m", 'method = "multiply_difference"\na = "x"\nb = "y"\nc = "z"\nalpha = 0.3\nbeta = 0.6'),
                ("n", 'method = "multiply_difference"\na = "y"\nb = "x"\nc = "z"\nalpha = 0\nbeta = 0.6'),
                ("o", 'method = "multiply_difference"\na = "v"\nb = "y"\nc = "z"\nalpha = 1\nbeta = 0'),
            )
        )
    )


def test_the_sign_of_a_nan_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(tmp_path, monkeypatch, _signs_of_nans)
    lab = Lab(tmp_path / "compiled")
    for name in "gkmno":
        for values in lab.read(f"{name}.safetensors").values():
            assert values.view(torch.int32)[::2].tolist() == values.view(torch.int32)[1::2].tolist(), name


def _blamed(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """Inputs that are not finite, of many tensors: digests order them in both ways."""
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    for number, name in enumerate(("x", "y")):
        made = torch.randn(8, 30, generator=torch.Generator().manual_seed(number))
        made[:, number] = float("inf")
        lab.model(name, **{f"w{index}": each.clone() for index, each in enumerate(made)})
    lab.write('[targets.t]\nformula = "0.3*x + 0.4*y"\noutput = "t.safetensors"\n')


def test_inputs_are_blamed_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = both_ways(tmp_path, monkeypatch, _blamed)
    assert "1 in `x`, 1 in `y`" in str(told["t"][3])


def _known_and_unknown(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """A model that is known, and one that is not, with a tensor in common; the first block is written slowly."""
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    patch.setattr(platform, "memory_bytes", lambda: DIRECT_SHARE)
    values = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    for name, each in zip(("x", "y", "z"), (0, 0, 1), strict=True):
        lab.model(name, w=values[each])
    targets = "".join(
        f'[targets.{name}]\nformula = "0.3*x + 0.4*{other}"\noutput = "{name}.safetensors"\n'
        for name, other in (("one", "z"), ("two", "y"))
    )
    lab.write(targets)
    lab.build("one")
    real, is_first = Outputs._write, [True]

    def write(outputs: Outputs, filled: object) -> None:
        if is_first.pop() if is_first else False:
            time.sleep(0.1)
        real(outputs, filled)

    patch.setattr(Outputs, "_write", write)


def test_what_was_made_for_nothing_is_never_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first sight a tensor is made while it is hashed; if it comes to another, that one is written, and stays."""
    both_ways(tmp_path, monkeypatch, _known_and_unknown)
    lab = Lab(tmp_path / "compiled")
    assert torch.equal(lab.read("two.safetensors")["w"], lab.read("y.safetensors")["w"] * torch.tensor(0.7))


def _scaled(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """8-bit floats with scales of a tensor, of rows and of blocks, and a plain input; some made as they are hashed."""
    generator = torch.Generator().manual_seed(5)
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    for name in ("x", "y"):
        tensors: dict[str, torch.Tensor] = {"shared.weight": torch.arange(24.0).view(4, 6).to(torch.float8_e4m3fn)}
        tensors["shared.weight_scale"] = torch.tensor(0.25)
        for module, scale in (
            ("one", torch.rand(1, generator=generator)),
            ("rows", torch.rand(256, 1, generator=generator).to(torch.bfloat16)),
            ("blocks", torch.rand(2, 3, generator=generator)),
        ):
            tensors[f"{module}.weight"] = torch.randn(256, 384, generator=generator).to(torch.float8_e4m3fn)
            tensors[f"{module}.weight_scale"] = scale * 0.1
        lab.model(name, **tensors)
    plain = {f"{module}.weight": torch.randn(256, 384, generator=generator) for module in ("one", "rows", "blocks")}
    lab.model("z", **{"shared.weight": torch.ones(4, 6)}, **plain)
    lines = (
        ("c", 'method = "copy"\na = "x"\ndtype = "float16"'),
        ("e", 'method = "copy"\na = "x"\ndtype = "float8_e4m3fn"'),
        ("m", 'formula = "0.3*x + 0.7*y"\ndtype = "bfloat16"'),
        ("o", 'formula = "z + 0.5*(x - y)"'),
        ("s", 'method = "slerp"\na = "x"\nb = "z"\nt = 0.3'),
        ("t", 'method = "ties"\nbase = "z"\nmodels = ["x", "y"]\nweight = 0.5\ndensity = 0.3'),
        ("r", 'method = "extract"\na = "x"\nb = "m"\nalpha = 0.4\nbeta = 0.3'),
        ("g", 'method = "cosine_gate"\na = "x"\nb = "y"\nalpha = 0.1'),
    )
    lab.write("".join(f'[targets.{name}]\n{text}\noutput = "{name}.safetensors"\n' for name, text in lines))


@pytest.mark.parametrize("variant", native.variants())
@pytest.mark.parametrize("chunk", [1000, 1 << 19])
def test_scaled_floats_of_8_bits_come_out_the_same(
    variant: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As products, rounded once, whatever is made of them."""
    monkeypatch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    made, told = both_ways(tmp_path, monkeypatch, _scaled, variant)
    assert len(made) == 8
    assert {each[3] for each in told.values()} == {"None"}


@pytest.mark.processes
def test_a_build_of_scaled_floats_imports_neither_torch_nor_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    _scaled(lab, monkeypatch)
    program = (
        "import sys, mergebuild\n"
        "result = mergebuild.load(sys.argv[1]).build()\n"
        "print({str(each.verdict) for each in result.targets}, sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(lab / "mergefile.toml")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'built'} []\n"


def _transposed(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """A text encoder in a spelling that has a matrix the other way round, merged with one in canonical names."""
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    each = next(one for one in spelled() if any(row.how == "transposed" for row in one.rows) and one.family in NEEDED)
    prefix = next(iter(each.part.prefixes), each.part.prefix)
    own = {name: shape for row in each.rows for name, shape in theirs(each.part, row, 3, 2, prefix).items()}
    generator = torch.Generator().manual_seed(7)
    for source, shapes in (("x", own), ("y", own), ("z", canonical_tensors(each))):
        there = {**NEEDED[each.family], **shapes}
        lab.model(source, **{name: torch.randn(shape, generator=generator).half() for name, shape in there.items()})
    lines = (
        ("m", 'formula = "0.3*x + 0.7*y"'),
        ("n", 'formula = "0.3*x + 0.7*z"\ndtype = "bfloat16"'),
        ("o", 'formula = "0.5*m + 0.5*x"\ndtype = "float32"'),
        ("s", 'method = "slerp"\na = "x"\nb = "z"\nt = 0.3'),
        ("d", 'method = "della"\nbase = "x"\nmodels = ["z"]\nweight = 0.5\ndensity = 0.6\nseed = 1'),
    )
    lab.write("".join(f'[targets.{name}]\n{text}\noutput = "{name}.safetensors"\n' for name, text in lines))


@pytest.mark.parametrize("chunk", [5, 1 << 19])
def test_what_is_written_transposed_comes_out_the_same(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file whose spelling has a matrix the other way round than its parameter."""
    written: list[object] = []

    def gathered(pieces: Sequence[Piece], *arguments: Any) -> bytearray:
        written.append(pieces)
        return gather(pieces, *arguments)

    monkeypatch.setattr(compiled, "gather", gathered)
    monkeypatch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    made, told = both_ways(tmp_path, monkeypatch, _transposed)
    assert len(made) == 5
    assert {each[3] for each in told.values()} == {"None"}
    assert written


@pytest.mark.processes
def test_a_build_of_combinations_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.model("x", w=torch.randn(300).half(), i=torch.tensor([7]))
    lab.model("y", w=torch.randn(300).half(), i=torch.tensor([7]))
    lab.write('[targets.t]\nformula = "0.3*x + 0.7*y"\noutput = "t.safetensors"\n')
    program = (
        "import sys, mergebuild\n"
        "result = mergebuild.load(sys.argv[1]).build()\n"
        "print(result.targets[0].tensors_computed, sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(lab / "mergefile.toml")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 []\n"


def _takes(name: str, call: Call, count: int) -> bool:
    method = compiled_method(name)
    return method is not None and method.takes(call, count)


def _every_method(lab: Lab, _patch: object = None, *, only_taken: bool = False) -> None:
    """Each method that has a compiled form, with the arguments that it is tried with; one of its inputs is virtual."""
    generator = torch.Generator().manual_seed(11)
    base = {"w": torch.randn(16, 24, generator=generator), "v": torch.randn(7, generator=generator)}
    for name in ("x", "y", "z"):
        lab.model(
            name,
            **{key: (each + 0.1 * torch.randn(each.shape, generator=generator)).half() for key, each in base.items()},
        )
    text = target_table("mix", formula="0.6*y + 0.4*z", output=None)
    for name in FAMILIES:
        row, trial = METHODS[name], TRIALS[name]
        for number, chosen in enumerate(trial.settings if name != "adjust" else ()):  # which knows a layout's tensors
            calls = [call_for(name, tuple(each.shape), chosen) for each in base.values()]
            if only_taken and not all(_takes(name, call, count_for(name, chosen)) for call in calls):
                continue
            numbers = {key: each for key, each in chosen.items() if key != "has_base"}
            roles = [each for each in row.inputs if each not in row.optional or chosen.get("has_base", True)]
            inputs: dict[str, object] = dict(
                zip((each for each in roles if each != "models"), ("x", "mix", "z"), strict=False)
            )
            if "models" in roles:
                inputs["models"] = ["y", "mix", "z"][: trial.models]
            text += target_table(f"{name}-{number}", method=name, **inputs, **numbers)
    lab.write(text)


@pytest.mark.parametrize("chunk", [100, 1 << 19])
def test_every_compiled_method_makes_the_same_in_a_build(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    made, told = both_ways(tmp_path, monkeypatch, _every_method)
    assert len(made) == sum(len(TRIALS[name].settings) for name in FAMILIES if name != "adjust")
    assert {str(each[3]) for each in told.values()} == {"None"}


@pytest.mark.processes
def test_a_build_of_compiled_methods_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    _every_method(lab, only_taken=True)
    program = (
        "import sys, mergebuild\n"
        "from mergebuild.project import building\n"
        "building._LARGE = -1\n"  # while sources so large are hashed, what may be needed is loaded
        "result = mergebuild.load(sys.argv[1]).build()\n"
        "print({str(each.verdict) for each in result.targets}, sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(lab / "mergefile.toml")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'built'} []\n"


def _at_first_sight(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """Tensors that are shared, begin alike, or are the same but for their ends; and some that are not finite."""
    generator = torch.Generator().manual_seed(9)
    for number, name in enumerate(("x", "y", "z")):
        values = torch.randn(5000, generator=generator)
        head = torch.ones(5000)
        head[-1] = number
        lab.model(
            name,
            own=values.half(),
            alike=head.half(),
            shared=torch.arange(4000.0),
            twice=torch.full((10,), float(number // 2)),
            bad=torch.tensor([1.0, float("nan") if number == 1 else 2.0]),
            i=torch.tensor([number]),
        )
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    lines = (
        ("a", 'formula = "0.3*x + 0.7*y"'),
        ("b", 'formula = "x/2 + y/2"'),
        ("c", 'formula = "x + 0.7*(y - z)"'),
        ("d", 'formula = "x + y - z"'),
        ("e", 'formula = "0.25*a + 0.75*z"'),
        ("f", 'method = "copy"\na = "x"\ndtype = "bfloat16"'),
    )
    lab.write(
        "".join(
            f'[targets.{name}]\n{text}\nnonfinite = "{word}"\noutput = "{name}.safetensors"\n'
            for name, text in lines
            for word in ("error" if name == "c" else "allow",)
        )
    )


@pytest.mark.parametrize("chunk", [7, 1 << 19])
def test_what_is_made_while_it_is_hashed_is_the_same(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    made, told = both_ways(tmp_path, monkeypatch, _at_first_sight)
    assert sorted(made) == ["a.safetensors", "b.safetensors", "d.safetensors", "e.safetensors", "f.safetensors"]
    assert "bad: 1 values are NaN or Inf (1 in `y`)" in str(told["c"][3])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("formula", ["x/2 + y/2", "x + y - z"])
def test_what_the_order_of_digests_decides_is_made_in_that_order(
    formula: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: of eight draws, some are in another order than the recipe's."""

    def fill(lab: Lab, patch: pytest.MonkeyPatch) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in "xyz":
            lab.model(name, w=torch.randn(5000, generator=generator))
        patch.setattr("mergebuild.plan.describe.SMALL", -1)
        lab.write(f'[targets.t]\nformula = "{formula}"\noutput = "t.safetensors"\n')

    both_ways(tmp_path, monkeypatch, fill)
