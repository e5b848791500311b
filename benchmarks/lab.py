"""What stands ready before the clock starts: models, the peers' environments, the page cache, a file system.

All of it lies in one work folder, and is made when first asked for and kept: a second run in the same folder starts
at once.
"""

from __future__ import annotations

import fcntl
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PEERS", "REPOSITORY", "Lab", "block_share", "write_tiny"]

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS = {"sd-mecha": "sd-mecha==1.1.8", "mergekit": "mergekit==0.1.5", "ninja": "ninja"}
_TORCH = "torch==2.13.0"
"""The peers' torch is ours, so that engines are compared and not builds of torch. It pulls in no CUDA."""
_PIECE = 1 << 24
_BTRFS = REPOSITORY / "tests" / "unit" / "data" / "btrfs-16mib.img.xz"
_BTRFS_RESIZE = 0x50009403
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "dtype": "bfloat16",
}


@dataclass
class Lab:
    """A work folder, the Python that has the program under test, and how much smaller than life models are."""

    work: Path
    python: str = sys.executable
    shrink: int = 1
    closing: ExitStack = field(default_factory=ExitStack)

    def models(self, layout: str, count: int) -> list[Path]:
        """Return so many checkpoints of `sd15`, `sdxl` or `llama`."""
        folder = self.work / f"models-{self.shrink}"
        names = ["base", *(f"tune{number}" for number in range(1, count))]
        paths = [folder / f"{layout}-{name}.safetensors" for name in names]
        if not all(path.exists() for path in paths):
            script = str(REPOSITORY / "examples" / "sd15" / "make_checkpoints.py")
            chosen = ["--layout", layout, "--count", str(count), "--shrink", str(self.shrink), "--out", str(folder)]
            _quietly([self.python, script, *chosen])
        return paths

    def directories(self, models: Iterable[Path]) -> list[Path]:
        """Return Llama checkpoints as directories with a `config.json`, the same bytes on disk."""
        made = []
        for model in models:
            folder = model.with_suffix("")
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(_LLAMA), encoding="utf-8")
            if not (folder / "model.safetensors").exists():
                os.link(model, folder / "model.safetensors")
            made.append(folder)
        return made

    def peer(self, name: str) -> Path:
        """Return the folder of programs of an environment that has this peer."""
        folder = self.work / "environments" / name
        done = folder / "installed"
        if not done.exists():
            constraints = self.work / "constraints.txt"
            constraints.write_text(_TORCH + "\n", encoding="ascii")
            _quietly([self.python, "-m", "venv", "--clear", str(folder)])
            _quietly([str(folder / "bin" / "pip"), "install", "-q", "-c", str(constraints), PEERS[name]])
            done.touch()
        return folder / "bin"

    def warm(self, paths: Iterable[Path]) -> None:
        """Read files, so that the page cache holds them."""
        buffer = bytearray(_PIECE)
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def cool(self, paths: Iterable[Path]) -> None:
        """Empty the page cache where that is allowed, else of these files; then load the program under test again."""
        os.sync()
        try:
            _DROP_CACHES.write_text("1", encoding="ascii")
        except OSError:
            for path in paths:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _quietly([self.python, "-c", "import mergebuild, torch"])
        _quietly([self.python, "-m", "mergebuild", "methods"])

    def btrfs(self) -> Path | None:
        """Return a folder on an empty Btrfs of 1 TB, a sparse file in the work folder; None where nobody may mount."""
        image, folder = self.work / "btrfs.img", self.work / "btrfs"
        image.write_bytes(lzma.decompress(_BTRFS.read_bytes()))
        os.truncate(image, 1 << 40)
        folder.mkdir(exist_ok=True)
        self.closing.callback(image.unlink)
        mounted = shutil.which("mount") and subprocess.run(
            ["mount", "-o", "loop", str(image), str(folder)], check=False, capture_output=True
        )
        if not mounted or mounted.returncode:
            return None
        self.closing.callback(_quietly, ["umount", str(folder)])
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _BTRFS_RESIZE, bytearray(struct.pack("q4088s", 0, b"max")))
        finally:
            os.close(handle)
        return folder


def block_share(model: Path, prefix: str) -> tuple[int, float]:
    """Return the bytes of a safetensors file's tensors under a name prefix, and their share of all."""
    with model.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    within = sum(end - begin for name, (begin, end) in spans.items() if name.startswith(prefix))
    return within, within / sum(end - begin for begin, end in spans.values())


def write_tiny(path: Path, seed: int) -> Path:
    """Write a model of two tensors of sixteen numbers."""
    header = {
        name: {"dtype": "F32", "shape": [16], "data_offsets": [64 * place, 64 * place + 64]}
        for place, name in enumerate(("one.weight", "two.weight"))
    }
    text = json.dumps(header).encode()
    values = struct.pack("<32f", *(((seed * 31 + place) % 17) / 16 for place in range(32)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def _quietly(command: Sequence[str]) -> None:
    """Run a command whose words nobody needs unless it fails.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}\n{done.stderr[-4000:]}")
