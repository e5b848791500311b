"""What a model file is: its tensors, dtypes, layout and components from the header, its hashes from one reading.

The hashes are those by which model sites and web UIs name files: the whole file's SHA-256 (its beginning is AutoV2),
64 KiB at 1 MiB (AutoV1, which collides for merges), and the tensors without the header (AutoV3, which metadata can't
change).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mergebuild.events import Emit, Hashing, silent
from mergebuild.findings import Inspection
from mergebuild.formats import TensorInfo, read_header
from mergebuild.layouts import detect
from mergebuild.layouts.layout import Layout
from mergebuild.recipe.model import LayoutText

__all__ = ["inspect"]

_CHUNK = 4 << 20
_AUTOV1 = slice(0x100000, 0x110000)
_EMA = "model_ema."


def inspect(
    path: Path,
    *,
    layouts: Mapping[str, LayoutText] | None = None,
    with_tensors: bool = False,
    shown: str | None = None,
    emit: Emit = silent,
) -> Inspection:
    """Return what a file is, reading it once from end to end.

    Args:
        path: a safetensors file.
        layouts: layouts that the user declares, asked before ours.
        with_tensors: whether to list every tensor.
        shown: the path as the answer shows it, `path` if None.
        emit: told of the reading before it begins.

    Raises:
        SourceError: it is missing, unreadable or not a sound safetensors file.
    """
    name = shown or str(path)
    header = read_header(path, shown=name)
    tensors = header.tensors.values()
    layout = detect({tensor.name: tensor.shape for tensor in tensors}, layouts or {})
    emit(Hashing(name, header.file_size))
    return Inspection(
        path=name,
        format="safetensors",
        layout=layout.name if layout else None,
        tensors=len(header.tensors),
        bytes=header.file_size,
        dtypes=_dtypes(tensors),
        components=_components(tensors, layout),
        metadata=dict(sorted(header.metadata.items())),
        hashes=_hashes(path, header.data_start),
        weights="full" if any(tensor.name.startswith(_EMA) for tensor in tensors) else "pruned",
        tensor_list=tuple((each.name, each.dtype, each.shape, each.nbytes) for each in tensors) if with_tensors else (),
    )


def _dtypes(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    return dict(Counter(tensor.dtype for tensor in tensors).most_common())


def _components(tensors: Iterable[TensorInfo], layout: Layout | None) -> dict[str, dict[str, object]]:
    """Return tensors, bytes and dtypes by component; what is of none is `other`."""
    found: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        component = "ema" if tensor.name.startswith(_EMA) else layout.component(tensor.name) if layout else None
        found.setdefault(component or "other", []).append(tensor)
    return {
        component: {"tensors": len(members), "bytes": sum(each.nbytes for each in members), "dtypes": _dtypes(members)}
        for component, members in sorted(found.items(), key=lambda item: (item[0] == "other", item[0]))
    }


def _hashes(path: Path, data_start: int) -> dict[str, str]:
    """Return all hashes of a file from one reading."""
    whole, data, window = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            whole.update(buffer[:count])
            data.update(buffer[max(0, data_start - offset) : count])
            window.update(buffer[max(0, _AUTOV1.start - offset) : max(0, min(count, _AUTOV1.stop - offset))])
            offset += count
    sha256 = whole.hexdigest()
    return {
        "sha256": sha256,
        "autov1": window.hexdigest()[:8],
        "autov2": sha256[:10],
        "autov3": data.hexdigest(),
    }
