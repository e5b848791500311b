"""Command lines of merging scripts, as targets of a draft: a module a collection of scripts. Nothing is ever run."""
