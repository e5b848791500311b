"""Graphs of ComfyUI: the nodes of either form (`graph`, `workflow`), what flows between them, and the targets of it.

`values` follows the nodes from loaders to a save node: models, text encoders and VAEs as expressions. `assembly` puts
the parts that are saved together into targets, and `blocks` turns the numbers of block nodes into keys.
"""
