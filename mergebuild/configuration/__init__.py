"""What a `config.json` of transformers says of a model: its parts and their architectures, sizes, layers and ties.

Everything here works on parsed JSON, and on names and shapes of tensors. It comes from strangers: whatever is not of
the kind that is expected counts as not said.
"""

from __future__ import annotations

__all__: list[str] = []
