"""Draw digits with any of the checkpoints, measure them, and lay them out on a sheet.

    python examples/digits/sample.py examples/digits/models/*.safetensors out/*.safetensors
    python examples/digits/sample.py out/bold_slant.safetensors --sheet sheet.png
    python examples/digits/sample.py out/bold_slant.safetensors --text

Prints one row a checkpoint: *read*, the share of its digits that a classifier trained on real ones reads as what they
should be, and the three measures of style (`styles.py`). All checkpoints start from the same noise. Needs what
`train.py` needs.
"""

from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from styles import MEASURES, STYLES, Reader, digits
from torch import Tensor
from unet import CLASSES, load_model, sample

__all__ = ["main", "sheet", "write_png"]

_INKS = " .:-=+*#%@"


def sheet(images: Tensor, columns: int, *, zoom: int = 5) -> Tensor:
    """Lay images [count, 8, 8] in -1..1 out in rows, ink black on white: uint8 [height, width]."""
    grey = ((1 - images.clamp(-1, 1)) * 127.5).round().to(torch.uint8)
    tiles = torch.nn.functional.pad(grey, (1, 1, 1, 1), value=255)
    rows = [torch.cat(list(row), dim=1) for row in tiles.split(columns)]
    return torch.cat(rows).repeat_interleave(zoom, dim=0).repeat_interleave(zoom, dim=1)


def write_png(path: Path, grey: Tensor) -> None:
    """Write uint8 [height, width] as a grey PNG."""
    height, width = grey.shape
    lines = b"".join(b"\0" + bytes(line) for line in grey.tolist())  # 0: this line is not filtered

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    )


def _as_text(images: Tensor) -> str:
    """Draw images side by side in characters."""
    shades = ((images.clamp(-1, 1) + 1) / 2 * (len(_INKS) - 1)).round().long()
    return "\n".join("  ".join("".join(_INKS[shade] for shade in row) for row in line)
                     for line in shades.transpose(0, 1).tolist())  # fmt: skip


def _row(name: str, images: Tensor, labels: Tensor, reader: Reader) -> str:
    measures = "".join(f"{measure(images):8.2f}" for measure in MEASURES.values())
    return f"{name:28}{reader.accuracy(images, labels):7.0%}{measures}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample every checkpoint named on the command line and print its row."""
    parser = argparse.ArgumentParser(description="draw digits with checkpoints and measure them")
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--each", type=int, default=40, help="images of each digit (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="measure the real digits too, in every style")
    parser.add_argument("--sheet", type=Path, help="write a PNG: a row of ten digits for each checkpoint")
    parser.add_argument("--text", action="store_true", help="draw ten digits of each checkpoint in characters")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    reader = Reader()
    print(f"{'checkpoint':28}{'read':>7}" + "".join(f"{name:>8}" for name in MEASURES))
    if options.real:
        images, labels = digits()
        print(_row("real", images, labels, reader))
        for name, style in STYLES.items():
            print(_row(f"real, {name}", style(images), labels, reader))
    labels = torch.arange(CLASSES).repeat(options.each)
    drawn = []
    for path in options.checkpoints:
        images = sample(load_model(path), labels, seed=options.seed)
        print(_row(path.stem, images, labels, reader), flush=True)
        if options.text:
            print(_as_text(images[:CLASSES]))
        drawn.append(images[:CLASSES])
    if options.sheet and drawn:
        write_png(options.sheet, sheet(torch.cat(drawn), CLASSES))


if __name__ == "__main__":
    main()
