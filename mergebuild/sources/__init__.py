"""What an input is: its tensors, its content's digest, and what else is known of its file.

Begin with `sources.py`; `opening.py` reads a file or folder of any format. May import formats, names, and the store's
memory of files.
"""
