"""The build of the compiled kernels; all else about the package is in pyproject.toml.

The extension is optional: where there is no C compiler, or it fails, the package is installed without it, and torch
does the work. `mergebuild --version -v` says which it is. With `MERGEBUILD_KERNELS=required` in the environment, as for
wheels and in CI, the installation fails instead.
"""

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
NATIVE = Path("mergebuild/native")
GCC_AND_CLANG = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # a fused product and sum round once where separate ones round twice
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
LOOSE = {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-mdaz-ftz"}
"""Not even if CFLAGS says so: gcc then links code that flushes subnormal numbers, in all of the process."""
MSVC = ["/std:c11", "/O2", "/fp:precise"]  # fusing is switched off in kernels.h


def files(*patterns: str) -> list[str]:
    """Return the files of the kernels that match."""
    return sorted(path.relative_to(HERE).as_posix() for each in patterns for path in (HERE / NATIVE).glob(each))


def checksum() -> int:
    """Return what says of which sources kernels were compiled; `native/__init__.py` looks whether these lie there."""
    content = b"".join((HERE / each).read_bytes() for each in files("*.c", "*.h", "*.inc"))
    return zlib.crc32(content) >> 1


def beside_each_other(compile_files: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Have a compiler take each file by itself, on all cores: the instruction sets are files of equal length."""

    def compile_each(sources: list[str], **options: object) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(lambda source: compile_files([source], **options), sources)
            return [each for found in objects for each in found]

    return compile_each


class BuildKernels(build_ext):
    """Compile with the flags that the compiler at hand knows."""

    def build_extensions(self) -> None:
        """Choose the flags, once the compiler is known."""
        for name in ("compiler_so", "linker_so"):
            if command := getattr(self.compiler, name, None):
                self.compiler.set_executable(name, [each for each in command if each not in LOOSE])
        for extension in self.extensions:
            extension.extra_compile_args = MSVC if self.compiler.compiler_type == "msvc" else GCC_AND_CLANG
        if self.compiler.compiler_type == "unix":
            self.compiler.compile = beside_each_other(self.compiler.compile)
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "mergebuild.native._compiled",
            files("*.c"),
            depends=files("*.h", "*.inc"),
            define_macros=[("MERGEBUILD_SOURCES", str(checksum()))],
            py_limited_api=True,
            optional=os.environ.get("MERGEBUILD_KERNELS") != "required",
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
