"""A diffusion model of 8x8 grey images, small enough to train in minutes and to keep in a repository.

A denoising UNet as Stable Diffusion has one, with the same tensor names, and nothing of its size: two resolutions
(8x8 and 4x4), 24 and 32 channels, self-attention at 4x4. It is told the noise level and the digit wanted (by a label
encoder, where Stable Diffusion has its text encoder) and predicts the *velocity* `v = sqrt(a) noise - sqrt(1-a) image`
(Salimans & Ho 2022, arXiv:2202.00512). Sampling is deterministic (DDIM, Song et al. 2020, arXiv:2010.02502) with
classifier-free guidance. Images are float32 in -1 (paper) to 1 (ink).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CLASSES", "STEPS", "DigitModel", "load_model", "sample", "save_model"]

CLASSES = 10
NO_CLASS = CLASSES
"""The label that stands for "any digit", for guidance."""
STEPS = 200
_SAMPLING_STEPS = 20
_WIDE, _DEEP, _EMBED, _CODE, _GROUPS, _HEADS = 24, 32, 64, 32, 8, 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


class _ResBlock(nn.Module):
    """Two convolutions around the embedding of time and label, beside a skip connection."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(inward), nn.SiLU(), nn.Conv2d(inward, outward, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(_EMBED, outward))
        self.out_layers = nn.Sequential(
            _norm(outward), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(outward, outward, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class _SelfAttention(nn.Module):
    """Every place of the 4x4 grid looks at every other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        batch, places, channels = x.shape
        query, key, value = (
            layer(x).view(batch, places, _HEADS, channels // _HEADS).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        weights = (query @ key.transpose(2, 3) / math.sqrt(channels // _HEADS)).softmax(dim=3)
        return self.to_out((weights @ value).transpose(1, 2).reshape(batch, places, channels))


class _TransformerBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = _SelfAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn1(self.norm1(x))


class _SpatialTransformer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([_TransformerBlock(channels)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.proj_in(self.norm(x))
        places = hidden.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            places = block(places)
        return x + self.proj_out(places.transpose(1, 2).reshape(x.shape))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Block(nn.Sequential):
    """Layers in a row, of which the residual ones want the embedding too."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, _ResBlock) else layer(x)
        return x


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(_CODE, _EMBED), nn.SiLU(), nn.Linear(_EMBED, _EMBED))
        self.input_blocks = nn.ModuleList(
            [
                _Block(nn.Conv2d(1, _WIDE, 3, padding=1)),
                _Block(_ResBlock(_WIDE, _WIDE)),
                _Block(_Downsample(_WIDE)),
                _Block(_ResBlock(_WIDE, _DEEP), _SpatialTransformer(_DEEP)),
            ]
        )
        self.middle_block = _Block(_ResBlock(_DEEP, _DEEP), _SpatialTransformer(_DEEP), _ResBlock(_DEEP, _DEEP))
        self.output_blocks = nn.ModuleList(
            [
                _Block(_ResBlock(_DEEP + _DEEP, _DEEP), _SpatialTransformer(_DEEP)),
                _Block(_ResBlock(_DEEP + _WIDE, _DEEP), _Upsample(_DEEP)),
                _Block(_ResBlock(_DEEP + _WIDE, _WIDE)),
                _Block(_ResBlock(_WIDE + _WIDE, _WIDE)),
            ]
        )
        self.out = nn.Sequential(_norm(_WIDE), nn.SiLU(), nn.Conv2d(_WIDE, 1, 3, padding=1))

    def forward(self, x: Tensor, steps: Tensor, label: Tensor) -> Tensor:
        embedding = self.time_embed(_wave_code(steps)) + label
        skipped = []
        for block in self.input_blocks:
            x = block(x, embedding)
            skipped.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skipped.pop()], dim=1), embedding)
        return self.out(x)


class _LabelEncoder(nn.Module):
    """From a digit's label to the embedding that every residual block adds."""

    def __init__(self) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(CLASSES + 1, _CODE)
        self.mlp = nn.Sequential(nn.Linear(_CODE, _EMBED), nn.SiLU(), nn.Linear(_EMBED, _EMBED))

    def forward(self, labels: Tensor) -> Tensor:
        return self.mlp(self.label_embedding(labels))


class DigitModel(nn.Module):
    """The whole checkpoint: UNet, label encoder, and the noise schedule as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = _UNet()
        self.conditioner = _LabelEncoder()
        signal = _cosine_schedule()
        self.register_buffer("alphas_cumprod", signal.float())
        self.register_buffer("betas", (1 - signal / torch.cat([signal.new_ones(1), signal[:-1]])).float())
        self.register_buffer("sampling_steps", torch.linspace(STEPS - 1, 0, _SAMPLING_STEPS).round().long())

    def forward(self, noisy: Tensor, steps: Tensor, labels: Tensor) -> Tensor:
        """Return the velocity: float32 [batch, 1, 8, 8], as `noisy`. `steps`, `labels`: int64 [batch]."""
        return self.model.diffusion_model(noisy, steps, self.conditioner(labels))


def _wave_code(steps: Tensor) -> Tensor:
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(_CODE // 2) / (_CODE // 2))
    angles = steps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _cosine_schedule() -> Tensor:
    """How much of the image's variance is left after each step (Nichol & Dhariwal 2021), float64 [STEPS]."""
    times = (torch.arange(STEPS, dtype=torch.float64) + 1) / STEPS
    return torch.cos((times + 0.008) / 1.008 * math.pi / 2).square().clamp(min=1e-4)


@torch.no_grad()
def sample(model: DigitModel, labels: Tensor, *, seed: int, guidance: float = 2.0) -> Tensor:
    """Return one image for each label: float32 [batch, 8, 8] in -1..1. The same seed starts from the same noise."""
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    anything = torch.full_like(labels, NO_CLASS)
    steps = model.sampling_steps.tolist()
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        at = torch.full_like(labels, step)
        wanted, free = model(x, at, labels), model(x, at, anything)
        velocity = free + guidance * (wanted - free)
        signal = model.alphas_cumprod[step]
        image = (signal.sqrt() * x - (1 - signal).sqrt() * velocity).clamp(-1, 1)
        if following is None:
            break
        noise = (x - signal.sqrt() * image) / (1 - signal).sqrt()
        left = model.alphas_cumprod[following]
        x = left.sqrt() * image + (1 - left).sqrt() * noise
    return image[:, 0]


def save_model(model: DigitModel, path: Path) -> None:
    """Write a checkpoint: weights in float16, the schedule as it is."""
    buffers = dict(model.named_buffers())
    tensors = {name: tensor if name in buffers else tensor.half() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(tensors, metadata={"format": "pt"}))  # `save_file` makes files that only their owner reads


def load_model(path: Path) -> DigitModel:
    """Read a checkpoint, of any floating-point dtype, to compute in float32.

    Raises:
        RuntimeError: the file's tensors are not those of this model.
    """
    tensors = load_file(path)
    model = DigitModel()
    model.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                           for name, tensor in tensors.items()})  # fmt: skip
    return model.eval()
