"""One module for each kind of recipe that `export` writes."""
