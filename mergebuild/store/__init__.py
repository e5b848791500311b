"""Where artifacts live, what is known of them, and how they are published. See `files.py` for the protocol."""

from mergebuild.store.contents import FRAME, Contents, Entry
from mergebuild.store.files import Fresh, Held, Presence, Store, temporary_path
from mergebuild.store.state import ArtifactRow, Record, State

__all__ = [
    "FRAME",
    "ArtifactRow",
    "Contents",
    "Entry",
    "Fresh",
    "Held",
    "Presence",
    "Record",
    "State",
    "Store",
    "temporary_path",
]
