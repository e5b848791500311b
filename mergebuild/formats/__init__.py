"""File formats: what is in a file or folder, as named tensors, and how our own files are laid out. No torch.

Begin with `registry.py`, which has a row for each format, then `header.py` (what a safetensors file says of its
tensors), `model.py` (what readers of all formats return) and `layout.py` (where tensors go in our files). `pickles.py`,
`zips.py` and `unpickling.py` read PyTorch's checkpoints, `folders.py` reads folders of transformers, diffusers and
PEFT, `quantized.py` and `scales.py` handle 8-bit floats with scales.

May import keys, names, configurations, and what is below them. This file imports nothing: reading a recipe only needs
the suffixes of formats.
"""
