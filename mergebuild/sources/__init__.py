"""The sources of a recipe: their tensors, their digests, and what else is known of their files.

Begin with `sources.py`: `Sources` finds, opens and hashes them; `source_file.py` has the value that it returns.

- `locating.py` finds a path, `settling.py` waits until a file no longer changes, `opening.py` reads a model of any
  format.
- `checksums.py` hashes tensors; `hashes.py` and `file_hashes.py` hash whole files, for pins and locks; `failures.py`
  has the errors.
- `channels.py` puts tensors with other numbers of input channels together; `traits.py` and `provenance.py` are for
  `inspect`.

May import formats, naming, LoRAs, the recipe's `Source`, and the store's memory of files; not layouts, nor anything
above them.
"""
