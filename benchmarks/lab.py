"""Everything that is prepared before the clock starts: models, the peers' environments, the page cache, a file system.

All of it is in one work folder. It is made when first needed, and kept, so a second run in the same folder starts at
once. A *peer* is a program that mergebuild is compared with.
"""

from __future__ import annotations

import fcntl
import json
import lzma
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mergebuild.formats.header import read_header
from mergebuild.formats.layout import encode_header
from mergebuild.lora.names import module_names

__all__ = ["PEERS", "REPOSITORY", "Lab", "block_share", "write_tiny"]

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS = {"sd-mecha": "sd-mecha==1.1.8", "mergekit": "mergekit==0.1.5", "ninja": "ninja"}
_TORCH = "torch==2.13.0"
"""The peers have the same torch as mergebuild, so that programs are compared, not versions of torch. It has no CUDA."""
_PIECE = 1 << 24
_BTRFS = REPOSITORY / "tests" / "support" / "data" / "btrfs-16mib.img.xz"
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
_PIPELINE: Mapping[str, tuple[str, str, str, str]] = {
    "text_encoder": ("transformers", "CLIPTextModel", "model", "text_model.final_layer_norm.bias"),
    "unet": ("diffusers", "UNet2DConditionModel", "diffusion_pytorch_model", "conv_in.bias"),
    "vae": ("diffusers", "AutoencoderKL", "diffusion_pytorch_model", "encoder.conv_in.bias"),
}
"""By component of a pipeline: the library, the class, the name of the weights' file, and one of its tensors."""
_TRAINED = ("model.diffusion_model.", "cond_stage_model.")
_KOHYA = ("lora_unet_", "lora_te_")
_RANK = 32
_SMALL = b"\xff\x9f"
"""A mask for the bits of a float16 (little endian), after which its magnitude is below 1/64."""


@dataclass
class Lab:
    """A work folder, the Python that has the program under test, and the divisor of the models' dimensions."""

    work: Path
    python: str = sys.executable
    shrink: int = 1
    closing: ExitStack = field(default_factory=ExitStack)

    def models(self, layout: str, count: int) -> list[Path]:
        """Return the paths of `count` checkpoints of `sd15`, `sdxl` or `llama`."""
        folder = self.work / f"models-{self.shrink}"
        names = ["base", *(f"tune{number}" for number in range(1, count))]
        paths = [folder / f"{layout}-{name}.safetensors" for name in names]
        if not all(path.exists() for path in paths):
            script = str(REPOSITORY / "examples" / "sd15" / "make_checkpoints.py")
            chosen = ["--layout", layout, "--count", str(count), "--shrink", str(self.shrink), "--out", str(folder)]
            _quietly([self.python, script, *chosen])
        return paths

    def directories(self, models: Iterable[Path]) -> list[Path]:
        """Return Llama checkpoints as folders with a `config.json`; the weights are hard links."""
        made = []
        for model in models:
            folder = model.with_suffix("")
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(_LLAMA), encoding="utf-8")
            if not (folder / "model.safetensors").exists():
                os.link(model, folder / "model.safetensors")
            made.append(folder)
        return made

    def checkpoint(self, model: Path) -> Path:
        """Return the path of a model as a `.ckpt`."""
        return self._built(model.with_suffix(".ckpt"), {"a": model}, 'formula = "a"')

    def pipeline(self, model: Path) -> Path:
        """Return a checkpoint of Stable Diffusion as a folder in the format of diffusers."""
        donor = model.parent / "donor"
        if not donor.exists():
            _write_donor(donor)
        target = 'formula = "a"\nconfig = "donor"'
        return self._built(model.with_name(f"{model.stem}-diffusers"), {"a": model, "donor": donor}, target)

    def shards(self, model: Path) -> Path:
        """Return a Llama checkpoint as a folder of about five shards and their index."""
        (whole,) = self.directories([model])
        size = math.ceil(model.stat().st_size / 5)
        target = f'formula = "a"\nmax_shard_size = "{size} B"'
        return self._built(model.with_name(f"{model.stem}-shards"), {"a": whole}, target)

    def lora(self, model: Path) -> Path:
        """Return a LoRA of rank 32 for every linear layer and convolution of a model's UNet and text encoder."""
        path = model.with_name(f"{model.stem}-lora.safetensors")
        if not path.exists():
            _write_lora(path, model)
        return path

    def _built(self, made: Path, sources: Mapping[str, Path], target: str) -> Path:
        """Return a file or folder that mergebuild makes, if it doesn't exist, by a target with these lines."""
        if not made.exists():
            project = made.with_name(f"{made.name}.project")
            shutil.rmtree(project, ignore_errors=True)
            project.mkdir()
            named = "".join(f"{name} = {json.dumps(str(path))}\n" for name, path in sources.items())
            output = made.name if made.suffix else f"{made.name}/"
            text = f'[sources]\n{named}\n[targets.made]\n{target}\noutput = "{output}"\n'
            (project / "mergefile.toml").write_text(text, encoding="utf-8")
            _quietly([self.python, "-m", "mergebuild", "-C", str(project), "build"])
            (project / made.name).rename(made)
            shutil.rmtree(project)
        return made

    def compile(self) -> None:
        """Compile the modules of the program under test to bytecode, as an installation does.

        Without that, with PYTHONDONTWRITEBYTECODE, each run would compile modules that changed since. A Python that
        can't run is told of by the first case.
        """
        subprocess.run([self.python, "-m", "compileall", "-q", str(REPOSITORY / "mergebuild")], check=False)

    def peer(self, name: str) -> Path:
        """Return the `bin` folder of an environment in which a peer is installed."""
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
        """Read files, or all files of folders, so that they are in the page cache."""
        buffer = bytearray(_PIECE)
        for path in _files(paths):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def cool(self, paths: Iterable[Path]) -> None:
        """Empty the page cache; without permission, only of these files. Then load the program under test again."""
        os.sync()
        try:
            _DROP_CACHES.write_text("1", encoding="ascii")
        except OSError:
            for path in _files(paths):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _quietly([self.python, "-c", "import mergebuild, torch"])
        _quietly([self.python, "-m", "mergebuild", "methods"])

    def btrfs(self) -> Path | None:
        """Mount an empty Btrfs of 1 TB, a sparse file in the work folder; return None if mounting is not permitted."""
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
    """Return the bytes of those tensors of a safetensors file whose names begin with `prefix`, and their share."""
    with model.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    within = sum(end - begin for name, (begin, end) in spans.items() if name.startswith(prefix))
    return within, within / sum(end - begin for begin, end in spans.values())


def write_tiny(path: Path, seed: int, names: Sequence[str] = ("one.weight", "two.weight")) -> Path:
    """Write a model whose tensors have sixteen numbers each, and return its path."""
    header = {
        name: {"dtype": "F32", "shape": [16], "data_offsets": [64 * place, 64 * place + 64]}
        for place, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    count = 16 * len(names)
    values = struct.pack(f"<{count}f", *(((seed * 31 + place) % 17) / 16 for place in range(count)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (each for each in sorted(path.rglob("*")) if each.is_file()) if path.is_dir() else (path,)


def _write_donor(folder: Path) -> None:
    """Write a pipeline of Stable Diffusion 1.5 with only its small files, and one tensor per component."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for component, (_, kind, name, tensor) in _PIPELINE.items():
        raw, header = encode_header([(tensor, "float16", (1,))], {"format": "pt"})
        (part / component).mkdir(parents=True)
        (part / component / "config.json").write_text(json.dumps({"_class_name": kind}), encoding="utf-8")
        (part / component / f"{name}.safetensors").write_bytes(raw.ljust(header.file_size, b"\0"))
    classes = {component: [library, kind] for component, (library, kind, *_) in _PIPELINE.items()}
    index = {"_class_name": "StableDiffusionPipeline", **classes}
    (part / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    part.rename(folder)


def _write_lora(path: Path, model: Path) -> None:
    """Write a LoRA as kohya's trainers do for all modules: float16, small random values, alpha half the rank."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for name, (rows, *columns) in _trained(model).items():
        tensors += [
            (f"{name}.alpha", "float16", ()),
            (f"{name}.lora_down.weight", "float16", (_RANK, *columns)),
            (f"{name}.lora_up.weight", "float16", (rows, _RANK, *(1 for _ in columns[1:]))),
        ]
    raw, header = encode_header(tensors, {"ss_network_dim": str(_RANK), "ss_network_module": "networks.lora"})
    chance = random.Random(_RANK)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(raw)
        for tensor in sorted(header.tensors.values(), key=lambda info: info.begin):
            count = tensor.end - tensor.begin
            bits = int.from_bytes(chance.randbytes(count), "little") & int.from_bytes(_SMALL * (count // 2), "little")
            file.write(bits.to_bytes(count, "little") if tensor.shape else struct.pack("<e", _RANK / 2))
    part.replace(path)


def _trained(model: Path) -> dict[str, tuple[int, ...]]:
    """Return kohya's names of the linear layers and convolutions, and the shapes of their weights."""
    shapes = {info.name: info.shape for info in read_header(model).tensors.values()}
    found: dict[str, str] = {}  # by tensor, the first of its names, which is that of diffusers
    for name, parts in module_names(shapes, ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")).modules.items():
        if name.startswith(_KOHYA) and "weight" in parts and parts["weight"][0].tensor.endswith(".weight"):
            found.setdefault(parts["weight"][0].tensor, name)
    return {
        name: shapes[tensor]
        for tensor, name in found.items()
        if tensor.startswith(_TRAINED) and len(shapes[tensor]) > 1 and "embedding.weight" not in tensor
    }


def _quietly(command: Sequence[str]) -> None:
    """Run a command without showing its output.

    Raises:
        SystemExit: It failed; the message has its output on stderr.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}\n{done.stderr[-4000:]}")
