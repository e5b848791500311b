"""Recipes of other tools: read into a mergefile (`import`), and written from one (`export`).

A *reader* turns one kind of recipe file into a `Draft`: sources, targets, comments, and what could not be mapped. A
draft is written as the text of a mergefile; the recipe itself is read from that text like any other, so that a reader
needs to know the grammar of mergefiles only. A *writer* goes the other way, from the resolved recipe of a target to the
text that another tool reads. Neither ever runs anything that a recipe names.
"""
