"""The rows of the catalog, by family."""
