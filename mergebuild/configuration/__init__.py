"""What a `config.json` of transformers says of a model, and what it must say beside tensors that we write.

Begin with `agreement.py`, which compares a configuration with tensors; each of the other modules is one subject of it:
parts (`parts.py`), sizes, layers, ties, labels, tokenizers. `facts.py` compares the configurations of two models, and
`text.py` writes changes into the text of one.

Everything here works on parsed JSON, and on names and shapes of tensors; no file is opened. Configurations come from
untrusted files: a value of an unexpected type counts as absent. May import `digest` and what is below it.
"""

from __future__ import annotations

__all__: list[str] = []
