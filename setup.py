"""The build of the compiled kernels; all else about the package is in pyproject.toml.

The extension is optional: where it can't be compiled, the package is installed without it, and torch does the work.
"""

from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
NATIVE = Path("mergebuild/native")
FLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # a fused product and sum round once where separate ones round twice
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]


def files(*patterns: str) -> list[str]:
    """Return the files of the kernels that match."""
    return sorted(str(path.relative_to(HERE)) for each in patterns for path in (HERE / NATIVE).glob(each))


setup(
    ext_modules=[
        Extension(
            "mergebuild.native._compiled",
            files("*.c"),
            depends=files("*.h", "*.inc"),
            extra_compile_args=FLAGS,
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
