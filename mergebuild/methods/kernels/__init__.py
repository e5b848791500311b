"""The arithmetic of the methods, on chunks of tensors. torch lives here and in `engine`, nowhere else."""
