"""The merge methods: what they are (`catalog`, a table without torch) and how they are computed (`kernels`)."""
