"""Kernels of users' own methods: runs the program's text once, checks what it defines, and makes it safe to call.

The text is the one that was hashed, even if the file has changed since. The program may have bugs, so some cheap
precautions are taken: it gets copies of chunks (the engine's may be pages of a mapped file), its prints go to stderr,
and an exception or a wrong result becomes a `ProgramError` with file and line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor

from mergebuild.digest import checksum
from mergebuild.errors import Place
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, Statistic
from mergebuild.methods.making import Program
from mergebuild.methods.method import Method, ProgramError, UndefinedError

__all__ = ["kernel_in"]


def kernel_in(method: Method, program: Program) -> Kernel:
    """Return the kernel of a user's own method, made safe to call: it raises only `UndefinedError`s.

    Raises:
        ProgramError: the program fails, or defines no such kernel.
    """
    kernels: object = getattr(_module(program.file, program.text), "KERNELS", None)
    kernel: object = kernels.get(method.name) if isinstance(kernels, Mapping) else None
    if not isinstance(kernels, Mapping):
        wrong = "it defines no `KERNELS`, a dict of kernels by the names of the methods"
    elif not isinstance(kernel, Kernel):
        found = "nothing" if kernel is None else f"a {type(kernel).__name__}"
        wrong = f'its `KERNELS["{method.name}"]` is {found}, expected a `mergebuild.kernels.Kernel`'
    elif not (wrong := _mistake(method, kernel.grain, kernel.statistic)):
        return _Guarded(program, kernel).kernel
    raise ProgramError(wrong, Place(program.file))


def _mistake(method: Method, grain: object, statistic: object) -> str:
    """Return what is wrong with a kernel as the engine sees it, found without calling the kernel; empty if nothing."""
    if not isinstance(grain, Grain):
        return f"the grain of `{method.name}` is no `Grain`"
    if statistic is None:
        return ""
    if not isinstance(statistic, Statistic):
        return f"the statistic of `{method.name}` is no `Statistic`"
    known = (*(each.name for each in method.parameters), *(f"has_{role}" for role in method.optional))
    unknown = [name for name in statistic.arguments if name not in known]
    return f"the statistic of `{method.name}` depends on `{unknown[0]}`, which is no parameter" if unknown else ""


@cache
def _module(file: str, text: str) -> ModuleType:
    """Return the module that a program's text defines. Methods of one file share it."""
    module = ModuleType(f"mergebuild_program_{checksum(f'{file}:{text}'.encode()).hex()}")
    vars(module)["print"] = partial(print, file=sys.stderr)  # stdout is for results
    sys.modules[module.__name__] = module  # dataclasses look up names of annotations there
    with _blamed(Program(file, text, "")):
        exec(compile(text, file, "exec", dont_inherit=True), vars(module))  # noqa: S102 -- what the user asked for
    return module


class _Guarded:
    """A program's kernel, made safe for the engine."""

    def __init__(self, program: Program, own: Kernel) -> None:
        self._program = program
        self._own = own
        self.kernel = Kernel(
            self._apply,
            self._statistic(own.statistic) if own.statistic is not None else None,
            own.grain,
            self._working_set if own.grain is Grain.TENSOR else None,
        )

    def _apply(self, call: Call, chunks: Sequence[Tensor], start: int, state: Any) -> Tensor:
        """Return the program's chunk.

        Raises:
            ProgramError: it is not float32, or has another size or device than the inputs.
        """
        count = len(chunks[0])
        with _blamed(self._program):
            made: object = self._own.apply(call, _copies(chunks), start, state)
        if not isinstance(made, Tensor):
            wrong = f"a {type(made).__name__}"
        elif made.dtype != torch.float32 or made.numel() != count or made.device != chunks[0].device:
            wrong = f"{str(made.dtype).removeprefix('torch.')} {list(made.shape)} on {made.device}"
        else:
            return made.detach()
        message = f"`apply` returned {wrong}, expected {count} values of float32 on {chunks[0].device}"
        raise ProgramError(message, _place(self._program, _line_of(self._own.apply)))

    def _statistic(self, own: Statistic) -> Statistic:
        """Return a statistic that can see only the parameters it names: results are kept under these."""
        return Statistic(
            own.name,
            self._guarded(own.begin, own.arguments),
            self._guarded(
                lambda call, account, chunks, start: own.look(call, account, _copies(chunks), start), own.arguments
            ),
            self._guarded(own.end, own.arguments),
            self._guarded(own.turn, own.arguments),
            own.arguments,
            own.version,
        )

    def _working_set(self, call: Call, inputs: int) -> int:
        """Return the bytes that the program says it needs.

        By default, room for the inputs, their copies and the result.
        """
        if self._own.working_set is None:
            return 4 * call.count * (2 * inputs + 1)
        with _blamed(self._program):
            return int(self._own.working_set(call, inputs))

    def _guarded(self, function: Callable[..., Any], arguments: Sequence[str]) -> Callable[..., Any]:
        def guarded(call: Call, *given: Any) -> Any:
            seen = replace(call, arguments={name: call.arguments[name] for name in arguments})
            with _blamed(self._program):
                return function(seen, *given)

        return guarded


def _copies(chunks: Sequence[Tensor]) -> list[Tensor]:
    return [chunk.clone() for chunk in chunks]


@contextmanager
def _blamed(program: Program) -> Iterator[None]:
    """Turn any exception of a program into a `ProgramError`, except its own `UndefinedError`s."""
    try:
        yield
    except UndefinedError:
        raise
    except SyntaxError as error:
        line = error.lineno or 0 if error.filename == program.file else _last_line(program, error.__traceback__)
        raise ProgramError(f"{type(error).__name__}: {error.msg}", _place(program, line)) from error
    except (Exception, SystemExit) as error:
        said = str(error).partition("\n")[0]
        message = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise ProgramError(message, _place(program, _last_line(program, error.__traceback__))) from error


def _last_line(program: Program, trace: TracebackType | None) -> int:
    """Return the innermost line of the program in a traceback; 0 if there is none."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == program.file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _line_of(function: object) -> int:
    """Return the line on which a function begins; 0 if that is not known."""
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code is not None else 0


def _place(program: Program, line: int) -> Place:
    lines = program.text.splitlines()
    if not 0 < line <= len(lines):
        return Place(program.file)
    text = lines[line - 1]
    begin = len(text) - len(text.lstrip())
    return Place(program.file, line, begin + 1, max(len(text.strip()), 1), text)
