"""What a target is, exactly: its tensors, and how each is made from tensors of its inputs; from headers alone.

Begin with `forms.py`, which has the values (`Form`, `Slot`, `Blueprint`), then `folder.py`, which makes a target's
blueprint:

- `views.py` makes a `View` of each input: its tensors under the target's names.
- `frames.py` makes a `Frame`: all that targets made alike have in common, whatever their numbers; `numbers.py` adds
  these.
- `division.py` is for targets with rules and components, `lora_*.py` for LoRAs that are added, kept or made.
- `compatible.py` and `counterparts.py` check that inputs fit together.

May import sources, layouts, LoRAs, methods and the recipe. No tensor is read.
"""
