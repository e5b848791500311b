"""Make checkpoints of the exact layout of Stable Diffusion 1.5, SDXL or a 1.1B Llama, with seeded random weights.

    python examples/sd15/make_checkpoints.py --layout sd15 --count 3 --out examples/sd15/models

They can't draw, but they merge: every tensor has the name, shape and dtype of the real thing (`layouts/*.json`),
weights scatter as trained ones do, fine-tunes are the base and a little noise, and all share one VAE to the bit.
The first is `LAYOUT-base.safetensors`, the others `LAYOUT-tune1.safetensors`, and so on. Randomness is cut out of one
pool of normal numbers at places that depend on seed, tensor and position: as fast as the disk, in 100 MB of memory.
Needs torch and nothing else; the format is written by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Shape", "layout_tensors", "main", "write_checkpoint"]

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32, "I64": torch.int64}
_CHUNK = 1 << 20
_POOL = 1 << 22
_SCALE = 0.02
_TUNING = 0.05
"""How far a fine-tune strays, as a share of the weights' own scatter."""
_SHARED = ("first_stage_model.",)
_TRAINING_ONLY = ("model_ema.", "alphas_", "betas", "log_one_minus", "posterior_", "sqrt_")


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor without its values: its dtype as the format names it, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements; 1 for a scalar."""
        return math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * _DTYPES[self.dtype].itemsize


def layout_tensors(layout: str, *, full: bool = False, shrink: int = 1) -> dict[str, Shape]:
    """Return the tensors of `sd15`, `sdxl` or `llama`, by name.

    `full` adds what only training needs (EMA copies, noise schedule). `shrink` divides every dimension of the
    floating-point tensors, for small files with all the names.
    """
    text = (Path(__file__).parent / "layouts" / f"{layout}.json").read_text(encoding="utf-8")
    return {
        name: Shape(dtype, tuple(dims) if dtype[0] == "I" else tuple(max(1, dim // shrink) for dim in dims))
        for name, (dtype, dims) in sorted(json.loads(text)["tensors"].items())
        if full or not name.startswith(_TRAINING_ONLY)
    }


def write_checkpoint(path: Path, tensors: Mapping[str, Shape], *, seed: int, tune: int) -> None:
    """Write a safetensors file. `tune` 0 is the base of this seed, every other number a fine-tune of it."""
    pool = torch.randn(_POOL + _CHUNK, generator=torch.Generator().manual_seed(seed)) * _SCALE
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(_header(tensors))
        for name, shape in tensors.items():
            for values in _values(name, shape, pool, tune):
                file.write(values)
    part.replace(path)


def _header(tensors: Mapping[str, Shape]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + shape.size
        entries[name] = {"dtype": shape.dtype, "shape": list(shape.dims), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _values(name: str, shape: Shape, pool: Tensor, tune: int) -> Iterator[memoryview]:
    """Give the tensor's bytes, piece by piece; a piece is good until the next one is asked for."""
    dtype = _DTYPES[shape.dtype]
    buffer = bytearray(min(shape.elements, _CHUNK) * dtype.itemsize)
    rounded = torch.frombuffer(buffer, dtype=dtype)
    for begin in range(0, shape.elements, _CHUNK):
        count = min(_CHUNK, shape.elements - begin)
        if dtype.is_floating_point:
            rounded[:count] = _chunk(name, begin, count, pool, tune)
        else:
            rounded[:count] = torch.arange(begin, begin + count)  # positions 0..76
        yield memoryview(buffer)[: count * dtype.itemsize]


def _chunk(name: str, begin: int, count: int, pool: Tensor, tune: int) -> Tensor:
    values = _cut(pool, f"{name} {begin}", count)
    if tune and not name.startswith(_SHARED):
        values = values + _TUNING * _cut(pool, f"{name} {begin} {tune}", count)
    return values + 1 if "norm" in name and name.endswith("weight") else values


def _cut(pool: Tensor, place: str, count: int) -> Tensor:
    start = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "little") % _POOL
    return pool[start : start + count]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the checkpoints that the command line asks for."""
    parser = argparse.ArgumentParser(description="make checkpoints of real layouts with seeded random weights")
    parser.add_argument("--layout", choices=["sd15", "sdxl", "llama"], default="sd15")
    parser.add_argument("--count", type=int, default=3, help="the base and so many fine-tunes less one (default 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models", help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another base")
    parser.add_argument("--full", action="store_true", help="with EMA copies and noise schedule, as training saves it")
    parser.add_argument("--shrink", type=int, default=1, help="divide every dimension by this, for small files")
    options = parser.parse_args(arguments)
    tensors = layout_tensors(options.layout, full=options.full, shrink=options.shrink)
    options.out.mkdir(parents=True, exist_ok=True)
    for tune in range(options.count):
        path = options.out / f"{options.layout}-{f'tune{tune}' if tune else 'base'}.safetensors"
        write_checkpoint(path, tensors, seed=options.seed, tune=tune)
        print(f"{path}  {len(tensors)} tensors  {path.stat().st_size / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
