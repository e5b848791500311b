"""What is on disk, as named tensors: safetensors headers read and written, without torch.

header = read_header(Path("model.safetensors"))
header.tensors["weight"].begin          # where its bytes are in the file

raw, header = encode_header([("weight", "float16", (320, 4, 3, 3))], {"format": "pt"})
"""

from __future__ import annotations

from mergebuild.formats.dtypes import DTYPES, DTYPES_BY_WORD, UNSUPPORTED, DType
from mergebuild.formats.header import Header, Piece, TensorInfo, read_header, read_header_fd
from mergebuild.formats.layout import (
    LAYOUT_VERSION,
    Arrangement,
    Packing,
    StoredName,
    TensorSpec,
    Text,
    encode_header,
    layout_of,
)
from mergebuild.formats.model import Model

__all__ = [
    "DTYPES",
    "DTYPES_BY_WORD",
    "LAYOUT_VERSION",
    "UNSUPPORTED",
    "Arrangement",
    "DType",
    "Header",
    "Model",
    "Packing",
    "Piece",
    "StoredName",
    "TensorInfo",
    "TensorSpec",
    "Text",
    "encode_header",
    "layout_of",
    "read_header",
    "read_header_fd",
]
