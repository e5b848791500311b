"""Where artifacts live, what is known of them, and how they are published. See `files.py` for the protocol."""

from mergebuild.store.contents import FRAME, Contents, Entry
from mergebuild.store.database import DatabaseDamagedError, put_aside
from mergebuild.store.files import Fresh, Held, Presence, Store
from mergebuild.store.locking import locked
from mergebuild.store.stages import Stage, is_same_file
from mergebuild.store.state import STATE, ArtifactRow, Record, State

__all__ = [
    "FRAME",
    "STATE",
    "ArtifactRow",
    "Contents",
    "DatabaseDamagedError",
    "Entry",
    "Fresh",
    "Held",
    "Presence",
    "Record",
    "Stage",
    "State",
    "Store",
    "is_same_file",
    "locked",
    "put_aside",
]
