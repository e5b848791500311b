"""The table of cases: what is measured, and the bounds that results must keep.

A case has arms and figures. A figure is computed from the runs of one round, so that a ratio compares runs that
followed each other closely; its median over the rounds is compared with its bound. Bounds are the project's promises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.arms import (
    SOURCES,
    Arm,
    Project,
    answer_numbers,
    bare_python,
    copies,
    dd,
    import_torch,
    mergekit,
    remove,
    sd_mecha,
)
from benchmarks.lab import Lab, block_share, write_tiny
from benchmarks.process import Sample

__all__ = ["CASES", "Case", "Figure", "NotRunError", "Round"]


class NotRunError(Exception):
    """An arm did not run in a round."""


class Round(dict[str, Sample]):
    """The measurements of one round, by arm."""

    def __missing__(self, arm: str) -> Sample:
        raise NotRunError(arm)


OURS = "mergebuild"
MIB = 1 << 20
_IN04 = "model.diffusion_model.input_blocks.4."
_THREADS = sorted({1, 2, os.cpu_count() or 1})


@dataclass(frozen=True, slots=True)
class Figure:
    """A number computed from a round, and its bounds: at most, at least, or none."""

    label: str
    of: Callable[[Round], float]
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether a value keeps the bounds."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table. `arms` prepares what arms need, in the lab and a folder, and returns them."""

    name: str
    title: str
    arms: Callable[[Lab, Path], Sequence[Arm]]
    figures: tuple[Figure, ...]


def seconds(over: str, under: str, **bound: float) -> Figure:
    """Return the figure that is the ratio of two arms' times."""
    return Figure(f"{over} / {under}", lambda each: each[over].seconds / each[under].seconds, **bound)


def limit(label: str, measure: str, at_most: float, arm: str = OURS) -> Figure:
    """Return the figure that is one measure of an arm, with a bound."""
    return Figure(label, lambda each: getattr(each[arm], measure), at_most=at_most)


def extra(label: str, name: str, **bound: float) -> Figure:
    """Return the figure that is an extra number of our arm."""
    return Figure(label, lambda each: each[OURS].extra[name], **bound)


ANONYMOUS = limit("anonymous memory, bytes", "anonymous", 450 * MIB)
SHARE_OF_MEMORY = Figure(
    "anonymous memory, mergebuild / mergekit", lambda each: each[OURS].anonymous / each["mergekit"].anonymous, 0.1
)
COMPARED: Mapping[str, Mapping[str, float]] = {
    "slerp": {"t": 0.3},
    "ties": {"weight": 0.5, "density": 0.2},
    "dare_ties": {"weight": 0.5, "density": 0.2},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.1},
    "model_stock": {},
}
"""Methods that mergekit has too, with arguments."""
_TIMES_CP = {"slerp": 4, "ties": 8, "dare_ties": 6, "della": 25, "model_stock": 5}
"""By method, how many times as long as a copy of one input a merge may take."""
KNOWN = "mergebuild, again"
BEST, DEFAULT = "sd-mecha, best", "sd-mecha, default"


def target(name: str, method: str, *, folder: str | None = "", suffix: str = ".safetensors", **keys: object) -> str:
    """Return a target's table as TOML.

    Its output is in `folder`; None makes the target virtual. The suffix `/` makes the output a folder.
    """
    lines = [f'method = "{method}"', *(f"{key} = {value!r}" for key, value in keys.items())]  # these reprs are TOML
    lines += [f'output = "{folder}{name}{suffix}"'] if folder is not None else []
    return f"[targets.{name}]\n" + "\n".join(lines) + "\n"


BLEND = target("blend", "weighted_sum", a="a", b="b", alpha=0.3)
DIFFERENCE = target("difference", "add_difference", a="a", b="b", c="c", alpha=0.8)
CHAIN = (
    target("more", "add_difference", folder=None, a="a", b="b", c="c", alpha=0.6)
    + target("half", "weighted_sum", folder=None, a="more", b="b", alpha=0.5)
    + target("chain", "weighted_sum", a="half", b="a", alpha=0.3)
)
BAKED = target("baked", "add_lora", base="a", loras=["b"], strength=0.8)
BLOCKS = target("blocks", "weighted_sum", a="a", b="b") + (
    f"[targets.blocks.alpha]\nmbw = {[round(0.2 + 0.02 * number, 2) for number in range(26)]}\n"
)


def weighted_sum(layout: str, *settings: str) -> Callable[[Lab, Path], list[Arm]]:
    """Return the case's arms: a weighted sum of two models, also of known sources, a copy, and sd-mecha."""

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        models = lab.models(layout, 2)
        ours = Project(lab, folder / "ours", models, BLEND).fresh(OURS, ["blend.safetensors"])
        peers = [sd_mecha(lab, folder, each, "weighted_sum", models) for each in settings]
        return [ours, _blend_of_known(lab, folder / "known", models), copies(lab, folder, models[0]), *peers]

    return arms


def _blend_of_known(lab: Lab, folder: Path, models: Sequence[Path]) -> Arm:
    """Return the arm of a weighted sum with another number each time, of sources that were hashed before."""
    project = Project(lab, folder, models, BLEND)
    again = project.again(
        KNOWN, "build", lambda number: target("blend", "weighted_sum", a="a", b="b", alpha=0.31 + number / 100)
    )

    def prepare(number: int) -> None:
        remove([folder / "blend.safetensors"])  # otherwise the former file would be moved into the history first
        again.prepare(number)

    return replace(again, prepare=prepare)


def add_difference(lab: Lab, folder: Path) -> list[Arm]:
    models = lab.models("sd15", 3)
    return [
        Project(lab, folder / "ours", models, DIFFERENCE).fresh(OURS, ["difference.safetensors"]),
        _blend(lab, folder),
        copies(lab, folder, models[0]),
        sd_mecha(lab, folder, "best", "add_difference", models),
    ]


def chain(lab: Lab, folder: Path) -> list[Arm]:
    models = lab.models("sd15", 3)
    return [
        Project(lab, folder / "ours", models, CHAIN).fresh(OURS, ["chain.safetensors"]),
        Project(lab, folder / "leaves", models, DIFFERENCE).fresh("add_difference", ["difference.safetensors"]),
        copies(lab, folder, models[0]),
        sd_mecha(lab, folder, "best", "chain", models),
    ]


def blocks(lab: Lab, folder: Path) -> list[Arm]:
    models = lab.models("sd15", 2)
    ours = Project(lab, folder / "ours", models, BLOCKS).fresh(OURS, ["blocks.safetensors"])
    return [ours, _blend(lab, folder), copies(lab, folder, models[0])]


def ckpt(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of a merge with a `.ckpt` as one input."""
    first, second = lab.models("sd15", 2)
    ours = Project(lab, folder / "ours", [first, lab.checkpoint(second)], BLEND)
    return [ours.fresh(OURS, ["blend.safetensors"]), _blend(lab, folder)]


def lora(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of a model into which a LoRA for all its layers is baked."""
    model = lab.models("sd15", 2)[0]
    ours = Project(lab, folder / "ours", [model, lab.lora(model)], BAKED)
    return [ours.fresh(OURS, ["baked.safetensors"]), _blend(lab, folder)]


def folders(layout: str, made: Callable[[Lab, Path], Path], **keys: object) -> Callable[[Lab, Path], list[Arm]]:
    """Return the arms of a merge of two folders into a third; `made` makes a folder from a model."""
    text = target("blend", "weighted_sum", suffix="/", a="a", b="b", alpha=0.3, **keys)

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        inputs = [made(lab, model) for model in lab.models(layout, 2)]
        ours = Project(lab, folder / "ours", inputs, text).fresh(OURS, ["blend"])
        return [ours, _blend(lab, folder, layout=layout)]

    return arms


def _blend(lab: Lab, folder: Path, *arguments: str, name: str = "weighted_sum", layout: str = "sd15") -> Arm:
    project = Project(lab, folder / name.replace(" ", ""), lab.models(layout, 2), BLEND)
    return project.fresh(name, ["blend.safetensors"], *arguments)


def sweep(count: int) -> Callable[[Lab, Path], list[Arm]]:
    """Return the arms of a family with `count` members that share their inputs."""
    alphas = [number / 100 for number in range(10, 10 + count)]
    text = (
        f'[targets.mix]\nforeach.alpha = {alphas}\nmethod = "weighted_sum"\na = "a"\nb = "b"\n'
        'alpha = "${alpha}"\noutput = "mix-${alpha}.safetensors"\n'
    )

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        models = lab.models("sd15", 2)
        size = sum(model.stat().st_size for model in models)
        ours = Project(lab, folder, models, text).fresh(OURS, [f"mix-{alpha:g}.safetensors" for alpha in alphas])
        return [
            _with_extra(ours, lambda numbers: {"read_share": numbers["own_bytes_read"] / size}),
            copies(lab, folder, models[0], count),
            sd_mecha(lab, folder, "best", "weighted_sum", models, alphas),
        ]

    return arms


def sweep_figures(count: int) -> tuple[Figure, ...]:
    return (
        seconds(OURS, f"cp x {count}", at_most=1.2),
        seconds(BEST, OURS, at_least=15),
        extra("source bytes read / inputs", "read_share", at_most=1.001),
        ANONYMOUS,
    )


def cold(lab: Lab, folder: Path) -> list[Arm]:
    models = lab.models("sd15", 2)
    ours = Project(lab, folder, models, BLEND).fresh(OURS, ["blend.safetensors"], cold=True)
    return [ours, dd(lab, folder, models)]


def tweak(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of builds after one block's weight has changed, on the file system of the folder."""
    models = lab.models("sd15", 2)
    size, share = block_share(models[0], _IN04)
    keys = {"history": "100GB"}  # former files stay, so that the free space lost is what the tweak took
    project = Project(lab, folder, models, _tweaked(0), keys)
    ours = project.again(OURS, "build", _tweaked)
    free = 0

    def prepare(number: int) -> None:
        nonlocal free
        ours.prepare(number + 1)
        os.sync()
        free = _free(folder)

    def finish(said: str) -> dict[str, float]:
        os.sync()
        return {**ours.finish(said), "space_share": (free - _free(folder)) / size, "block_share": share}

    return [replace(ours, prepare=prepare, finish=finish), copies(lab, folder, models[0])]


def _tweaked(number: int) -> str:
    alpha = f"[targets.blend.alpha]\ndefault = 0.3\nIN04 = {0.4 + number / 1000:.3f}\n"
    return target("blend", "weighted_sum", a="a", b="b") + alpha


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


def tweak_on_btrfs(lab: Lab, _: Path) -> list[Arm]:
    mounted = lab.btrfs()
    return tweak(lab, mounted) if mounted else []


def _with_extra(arm: Arm, more: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Arm:
    def finish(said: str) -> dict[str, float]:
        numbers = arm.finish(said)
        return {**numbers, **more(numbers)}

    return replace(arm, finish=finish)


# Many targets over tiny models: chains of ten, each target made of the one before it and of another source


def _graph(count: int, weight: float = 0.3) -> Iterator[tuple[str, str, str, float]]:
    """Yield name, inputs and weight of every target; `weight` is that of the first one."""
    for number in range(count):
        first = number % 10 == 0
        source = SOURCES[number * 7 % 10]
        before = SOURCES[number // 10 % 10] if first else f"t{number - 1}"
        yield f"t{number}", before, source if source != before else "j", weight if number == 0 else 0.3


def many_text(count: int, weight: float = 0.3) -> str:
    return "\n".join(
        target(name, "weighted_sum", folder="out/", a=a, b=b, alpha=alpha)
        for name, a, b, alpha in _graph(count, weight)
    )


def _many(lab: Lab, folder: Path, count: int) -> Project:
    models = [write_tiny(folder / "models" / f"{name}.safetensors", seed) for seed, name in enumerate(SOURCES)]
    return Project(lab, folder, models, many_text(count))


def ninja(lab: Lab, folder: Path, project: Project, count: int) -> Arm:
    """Return the arm of ninja with nothing to do, over the same graph: each output made of the same two files."""
    sources = dict(zip(SOURCES, project.models, strict=True))
    (folder / "ninja").mkdir(exist_ok=True)
    lines = ["rule make", "  command = : > $out"]
    lines += [f"build {name}: make {sources.get(a, a)} {sources[b]}" for name, a, b, _ in _graph(count)]
    (folder / "ninja" / "build.ninja").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [str(lab.peer("ninja") / "ninja"), "-C", str(folder / "ninja"), "--quiet"]
    Arm("ninja", command).run(0, folder / "ninja.log")
    return Arm("ninja", command)


def nothing_to_do(count: int) -> Callable[[Lab, Path], list[Arm]]:
    """Return the arms of a build of `count` targets in which nothing changed."""

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        project = _many(lab, folder, count)
        return [project.again(OURS, "build"), bare_python(lab), ninja(lab, folder, project, count)]

    return arms


def second_build(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of the build right after the first one, in which nothing changed."""
    models = lab.models("sd15", 2)
    project = Project(lab, folder, models, BLEND)

    def prepare(_: int) -> None:
        remove([folder / ".mergebuild", folder / "blend.safetensors"])
        project.write()
        project.build()

    return [Arm(OURS, project.command("build"), prepare, answer_numbers), bare_python(lab)]


def plan_after_change(lab: Lab, folder: Path) -> list[Arm]:
    project = _many(lab, folder, 10_000)
    return [project.again(OURS, "plan", lambda number: many_text(10_000, 0.4 + number / 1000)), bare_python(lab)]


def first_plan(counts: Sequence[int]) -> Callable[[Lab, Path], list[Arm]]:
    """Return the arms of plans of a family that was never built, one per size; the largest is our arm."""

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        models = [write_tiny(folder / f"{name}.safetensors", seed) for seed, name in enumerate("ab")]
        found = []
        for count in counts:
            text = (
                f"[targets.mix]\nforeach.x = {{ from = 0.00001, to = {count / 100_000:.5f}, step = 0.00001 }}\n"
                'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = "${x}"\noutput = "mix-${x}.safetensors"\n'
            )
            project = Project(lab, folder / str(count), models, text)
            found.append(project.first(OURS if count == max(counts) else f"{count:,} members", "plan"))
        return found

    return arms


def globs(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of two plans: of a target with a glob for each of 6,000 tensors, and of one with one number."""
    names = [f"model.layers.{number // 8}.p{number % 8}.weight" for number in range(6000)]
    models = [write_tiny(folder / f"{name}.safetensors", seed, names) for seed, name in enumerate("ab")]
    head = target("blend", "weighted_sum", a="a", b="b")
    keys = "".join(f'"{name.removesuffix("weight")}*" = 0.{at % 9 + 1}\n' for at, name in enumerate(names))
    return [
        Project(lab, folder / "globs", models, f"{head}[targets.blend.alpha]\n{keys}").first(OURS, "plan"),
        Project(lab, folder / "one", models, f"{head}alpha = 0.3\n").first("one number", "plan"),
    ]


def llama(lab: Lab, folder: Path) -> list[Arm]:
    models = lab.models("llama", 2)
    text = target("blend", "linear", models=["a", "b"], weight=[0.7, 0.3])
    ours = Project(lab, folder, models, text).fresh(OURS, ["blend.safetensors"])
    peer = mergekit(lab, folder, models, "linear", {}, weights=[0.7, 0.3], on_llama=True)
    return [ours, copies(lab, folder, models[0]), import_torch(lab), peer]


def method_text(method: str, numbers: Mapping[str, float]) -> str:
    """Return a target of a method, with a base and two models, or of slerp of two; random methods get a seed."""
    keys: dict[str, object] = {"a": "a", "b": "b"} if method == "slerp" else {"base": "a", "models": ["b", "c"]}
    keys |= numbers
    keys |= {"seed": 7} if method in ("dare_ties", "della") else {}
    return target("merged", method, folder="", **keys)


def merged(layout: str, method: str, numbers: Mapping[str, float]) -> Callable[[Lab, Path], list[Arm]]:
    """Return the arms of a method that both mergebuild and mergekit have."""

    def arms(lab: Lab, folder: Path) -> list[Arm]:
        models = lab.models(layout, 2 if method == "slerp" else 3)
        ours = Project(lab, folder, models, method_text(method, numbers)).fresh(OURS, ["merged.safetensors"])
        peer = mergekit(lab, folder, models, method, numbers, on_llama=layout == "llama")
        return [ours, copies(lab, folder, models[0]), peer]

    return arms


def methods() -> Iterator[Case]:
    """Yield the cases of methods that need statistics or random numbers."""
    for layout, shown in (("sd15", "SD1.5"), ("llama", "Llama 1.1B")):
        for method, numbers in COMPARED.items():
            figures = (
                seconds(OURS, "cp", at_most=_TIMES_CP[method]),
                seconds("mergekit", OURS, at_least=8),
                SHARE_OF_MEMORY,
                ANONYMOUS,
            )
            yield Case(f"{layout}_{method}", f"{shown} {method}", merged(layout, method, numbers), figures)


def slerp_sweep(lab: Lab, folder: Path) -> list[Arm]:
    """Return the arms of a family of slerps, built first and with other numbers, and of one of weighted sums."""
    models = lab.models("sd15", 2)

    def family(method: str, number: str, shift: int) -> str:
        values = [round(0.1 * each + 0.001 * shift, 3) for each in range(1, 6)]
        keys = f'method = "{method}"\na = "a"\nb = "b"\n{number} = "${{t}}"\n'
        outputs = f'output = "mix-{shift}-${{t}}.safetensors"\n'  # new paths, so that nothing goes into the history
        return f"[targets.mix]\nforeach.t = {values}\n{keys}{outputs}"

    known = Project(lab, folder / "known", models, family("slerp", "t", 0))
    again = known.again(KNOWN, "build", lambda number: family("slerp", "t", number + 1))

    def prepare(number: int) -> None:
        remove(sorted(known.folder.glob("mix-*")))
        again.prepare(number)

    outputs = [f"mix-0-{each / 10:g}.safetensors" for each in range(1, 6)]
    return [
        replace(again, prepare=prepare),
        Project(lab, folder / "ours", models, family("slerp", "t", 0)).fresh(OURS, outputs),
        Project(lab, folder / "sums", models, family("weighted_sum", "alpha", 0)).fresh("weighted_sum", outputs),
    ]


def threads(lab: Lab, folder: Path) -> list[Arm]:
    return [_blend(lab, folder, "-j", str(count), name=f"{OURS} -j {count}") for count in _THREADS]


def _faster(few: int, many: int, at_least: float) -> Figure:
    def of(each: Round) -> float:
        slow, fast = (each[f"{OURS} -j {count}"].extra["merge_seconds"] for count in (few, many))
        return slow / fast

    return Figure(f"the merge on {few} threads / on {many}", of, at_least=at_least)


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "sd15_weighted_sum",
            "SD1.5 weighted sum, warm",
            weighted_sum("sd15", "best", "default"),
            (
                seconds(OURS, "cp", at_most=1.6),
                seconds(KNOWN, "cp", at_most=1.3),
                seconds(BEST, OURS, at_least=15),
                seconds(DEFAULT, OURS, at_least=25),
                ANONYMOUS,
            ),
        ),
        Case(
            "sdxl_weighted_sum",
            "SDXL weighted sum, warm",
            weighted_sum("sdxl", "best"),
            (
                seconds(OURS, "cp", at_most=1.1),
                seconds(KNOWN, "cp"),
                seconds(BEST, OURS),
                limit("anonymous memory, bytes", "anonymous", 300e6),
                limit("resident memory, bytes", "resident", 1.5e9),
            ),
        ),
        Case(
            "sd15_add_difference",
            "SD1.5 add_difference",
            add_difference,
            (seconds(OURS, "cp", at_most=2), seconds(OURS, "weighted_sum"), seconds(BEST, OURS), ANONYMOUS),
        ),
        Case(
            "sd15_chain",
            "SD1.5 chain of 3, two of them virtual",
            chain,
            (seconds(OURS, "cp", at_most=2), seconds(OURS, "add_difference"), seconds(BEST, OURS), ANONYMOUS),
        ),
        Case(
            "sd15_blocks",
            "SD1.5 weighted sum with 26 block weights",
            blocks,
            (seconds(OURS, "cp", at_most=2), seconds(OURS, "weighted_sum"), ANONYMOUS),
        ),
        Case(
            "sd15_ckpt",
            "SD1.5 weighted sum with a .ckpt",
            ckpt,
            (seconds(OURS, "weighted_sum", at_most=1.15), ANONYMOUS),
        ),
        Case(
            "sd15_lora",
            "SD1.5 with a LoRA of rank 32 over all of it",
            lora,
            (seconds(OURS, "weighted_sum", at_most=1.2), ANONYMOUS),
        ),
        Case(
            "sd15_diffusers",
            "SD1.5 weighted sum of folders of diffusers, into one",
            folders("sd15", Lab.pipeline),
            (seconds(OURS, "weighted_sum"), ANONYMOUS),
        ),
        Case(
            "llama_shards",
            "Llama 1.1B weighted sum of folders with shards, into one",
            folders("llama", Lab.shards, max_shard_size="500MB"),
            (seconds(OURS, "weighted_sum"), ANONYMOUS),
        ),
        Case("sweep_5", "SD1.5 sweep of 5", sweep(5), sweep_figures(5)),
        Case("sweep_20", "SD1.5 sweep of 20", sweep(20), sweep_figures(20)),
        Case(
            "sd15_cold",
            "SD1.5 weighted sum of sources never seen, cold cache",
            cold,
            (
                seconds(OURS, "dd", at_most=1.15),
                Figure("bytes fetched / dd's", lambda each: each[OURS].read / max(1, each["dd"].read), at_most=1.02),
                ANONYMOUS,
            ),
        ),
        Case(
            "tweak_in04",
            "one block of SD1.5 changed, where files can't share blocks",
            tweak,
            (
                seconds(OURS, "cp", at_most=1.3),
                ANONYMOUS,
            ),
        ),
        Case(
            "tweak_in04_btrfs",
            "one block of SD1.5 changed, on Btrfs (root only)",
            tweak_on_btrfs,
            (
                Figure(
                    f"{OURS} / (0.15 s + the block's share of cp)",
                    lambda each: each[OURS].seconds / (0.15 + each[OURS].extra["block_share"] * each["cp"].seconds),
                    at_most=1,
                ),
                extra("new space / the block's bytes", "space_share", at_most=1.05, at_least=0.95),
            ),
        ),
        Case(
            "null_50",
            "nothing to do, 50 targets",
            nothing_to_do(50),
            (limit("seconds", "seconds", 0.05), seconds(OURS, "python -c pass")),
        ),
        Case(
            "second_build",
            "second build after a first, nothing to do",
            second_build,
            (limit("seconds", "seconds", 0.1), seconds(OURS, "python -c pass")),
        ),
        Case(
            "null_10000",
            "nothing to do, 10,000 targets",
            nothing_to_do(10_000),
            (limit("seconds", "seconds", 0.5), seconds(OURS, "ninja", at_most=8)),
        ),
        Case(
            "plan_10000",
            "plan after one weight of 10,000 targets changed",
            plan_after_change,
            (limit("seconds", "seconds", 1),),
        ),
        Case(
            "plan_family",
            "first plan of a family of 20,000 members",
            first_plan((5000, 20_000)),
            (seconds(OURS, "5,000 members", at_most=4.5),),
        ),
        Case(
            "plan_globs",
            "first plan of 6,000 globs over 6,000 tensors",
            globs,
            (limit("seconds", "seconds", 3), seconds(OURS, "one number")),
        ),
        Case(
            "llama_linear",
            "Llama 1.1B linear",
            llama,
            (seconds("mergekit", OURS, at_least=4), seconds(OURS, "cp"), ANONYMOUS),
        ),
        *methods(),
        Case(
            "slerp_sweep_5",
            "SD1.5 slerp, sweep of 5",
            slerp_sweep,
            (seconds(KNOWN, "weighted_sum", at_most=1.2), seconds(OURS, "weighted_sum"), ANONYMOUS),
        ),
        Case(
            "threads",
            "SD1.5 weighted sum on 1, 2 and all threads",
            threads,
            (
                *([_faster(1, 2, 1)] if 2 in _THREADS else []),
                *([_faster(2, _THREADS[-1], 4)] if _THREADS[-1] >= 16 else []),
            ),
        ),
    )
}
