"""What recipes of mergekit mean, part by part; `exchange/readers/mergekit.py` reads files with them.

`reading` has what all parts share, `references` names models, `settings` turns parameters into numbers per tensor,
`methods` has the table of methods, `merges` makes one target of one document, with `stacks` and `tokens` for the words
of these names. `old_forms`, `experts` and `commands` are other files and command lines of the same project.
"""
