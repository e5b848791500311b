"""`mergebuild build`: make targets up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from mergebuild.cli.at_once import nothing_to_do, show
from mergebuild.cli.locate import open_project, targets_from_here
from mergebuild.cli.options import (
    OutputName,
    dry_run_option,
    lock_timeout_option,
    reads_recipe,
    subcommand,
    targets_argument,
)
from mergebuild.cli.settings import Settings
from mergebuild.errors import MergeBuildError, UsageError
from mergebuild.results.build import BuildResult

__all__ = ["command"]

_DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "source")
_DEVICES = ("auto", "cpu", "cuda")

if TYPE_CHECKING:

    class _BuildFlags(TypedDict):
        dry_run: bool
        keep_going: bool
        jobs: int | None
        device: str
        force: bool
        locked: bool
        durable: bool
        out: str | None
        dtype: str | None
        lock_timeout: float | None
        profile: bool


def _check(targets: tuple[str, ...], options: _BuildFlags) -> None:
    """Raise UsageError for a device that doesn't exist, and for options that make no sense together."""
    _check_device(options["device"])
    if options["dry_run"] and options["profile"]:
        what = "`-n` builds nothing that could have a profile"
        raise UsageError.one("dry-run-with-profile", what, help="MERGEBUILD_TRACE=FILE shows where a plan's time goes")
    if options["out"] is not None:
        _check_out(targets, options)
    elif options["dtype"] is not None:
        raise UsageError.one("dtype-without-out", "`--dtype` goes with `-o`", help="or set `dtype` in the mergefile")


def _check_device(device: str) -> None:
    kind, colon, number = device.partition(":")
    if kind not in _DEVICES or (colon and not (kind == "cuda" and number.isascii() and number.isdecimal())):
        message = f"there is no device `{device}`"
        raise UsageError.one("no-such-device", message, help="expected `auto`, `cpu`, `cuda` or `cuda:0`")


def _check_out(targets: tuple[str, ...], options: _BuildFlags) -> None:
    """Raise UsageError if `-o` does not go with what is asked for."""
    if len(targets) != 1:
        message = f"`-o` writes one target, and {len(targets) or 'none'} are named"
        raise UsageError.one("out-of-one-target", message, help="name one: `mergebuild build TARGET -o PATH`")
    if options["dry_run"]:
        raise UsageError.one("dry-run-with-out", "`-n` shows what the mergefile asks for, and `-o` is not in it")


@subcommand("build")
@targets_argument
@dry_run_option
@click.option("-k", "--keep-going", is_flag=True, help="Build what can be built when a target fails.")
@click.option("-j", "--jobs", metavar="N", type=click.IntRange(min=1), help="Use this many threads.")
@click.option("--device", metavar="DEVICE", default="auto", help="Compute on auto, cpu, cuda or cuda:N.")
@click.option("--force", is_flag=True, help="Overwrite outputs changed by hand; they are kept aside first.")
@click.option("--locked", is_flag=True, help="Refuse sources and results other than mergefile.lock's.")
@click.option("--durable", is_flag=True, help="Wait until the disk has it.")
@click.option("-o", "--out", metavar="PATH", type=OutputName(), help="Write one target there, and change nothing else.")
@click.option(
    "--dtype", metavar="DTYPE", type=click.Choice(_DTYPES), help=f"The dtype of what -o writes: {', '.join(_DTYPES)}."
)
@click.option("--profile", is_flag=True, help="Show where the time went: seconds by phase, and of threads.")
@lock_timeout_option
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...], **options: Unpack[_BuildFlags]) -> int:
    """Make targets up to date.

    A target is a name, a member of a family (mix@alpha=0.3), a slice of one, or an output's path. Without any: what
    [project] default names, else every target that has an output. What should be known of a target and stops
    nothing, such as tensors that an input lacks, is a note on stderr before the work, and one of its notices in JSON.
    """
    _check(targets, options)
    if options["dry_run"]:
        from mergebuild.cli.plan import show_plan

        return show_plan(settings, targets, options["device"], force=options["force"], locked=options["locked"])
    try:
        result = _profiled(settings, targets, options) if options["profile"] else _done(settings, targets, options)
    except MergeBuildError as error:
        if error.result is None:
            raise
        result = error.result  # refused before any work: the result still has a row for each target
    show(settings, result)
    return result.exit_code


def _profiled(settings: Settings, targets: tuple[str, ...], options: _BuildFlags) -> BuildResult:
    """Build with a profile, of which reading the mergefile is a part."""
    from mergebuild.project.profiled import profiled

    return profiled(lambda: _done(settings, targets, options))


def _done(settings: Settings, targets: tuple[str, ...], options: _BuildFlags) -> BuildResult:
    return _at_once(settings, targets, options) or _build(settings, targets, options)


def _at_once(settings: Settings, targets: tuple[str, ...], options: _BuildFlags) -> BuildResult | None:
    """Return the result of a build that has nothing to do, if the stamp shows that without parsing; else None."""
    if options["force"] or options["locked"] or options["out"] is not None or options["device"] not in ("auto", "cpu"):
        return None
    return nothing_to_do(settings, targets)


def _build(settings: Settings, targets: tuple[str, ...], options: _BuildFlags) -> BuildResult:
    project = open_project(settings)
    with settings.console.listening() as emit:
        return project.build(
            targets_from_here(settings, targets),
            keep_going=options["keep_going"],
            threads=options["jobs"],
            device=options["device"],
            force=options["force"],
            locked=options["locked"],
            durable=options["durable"],
            out=options["out"],
            dtype=options["dtype"],
            lock_timeout=options["lock_timeout"],
            emit=emit,
        )
