"""The rows of the catalog: a module for each family of methods, with its rows in `ROWS`.

A row's texts (summary, formula, differences) are what users read: `docs/methods.md` is generated from them.
"""
