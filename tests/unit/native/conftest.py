"""Each instruction set that this processor has, one after another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mergebuild import native


@pytest.fixture(params=native.variants() or ["none"], scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have kernels run with an instruction set; fail where there are none."""
    if request.param == "none":
        pytest.fail("the package was installed without compiled kernels: a C compiler is needed")
    before = native.variant
    native.choose(request.param)
    yield request.param
    if before:
        native.choose(before)
