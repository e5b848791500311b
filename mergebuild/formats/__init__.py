"""What is on disk, as named tensors: headers of every format read, and files of ours laid out, without torch.

Begin with `registry.py`, which has a row for each format, then `header.py` (what a safetensors file says of its
tensors) and `layout.py` (how we arrange them in one). May import names, errors and the system. Nothing is imported
here: reading a recipe asks for the suffixes of formats, and nothing else.
"""
