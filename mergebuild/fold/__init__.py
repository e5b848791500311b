"""What a target is, exactly: which tensors it has, and each as an expression over tensors of its inputs.

Begin with `forms.py`, which says what such an expression is, then `folder.py`, which makes them from headers alone.
May import sources, layouts, LoRAs, methods and the recipe.
"""
