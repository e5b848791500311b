"""Where artifacts live, what is known of them, and how they are published. See `store.py` for the protocol."""

from mergebuild.store.contents import FRAME, Contents, Entry
from mergebuild.store.database import DatabaseDamagedError
from mergebuild.store.locking import LOCK_FILES, REBUILDS, locked
from mergebuild.store.names import SCRATCH, own_files, scratch_folders
from mergebuild.store.stages import Stage
from mergebuild.store.state import STATE, ArtifactRow, Record, State, begin_afresh
from mergebuild.store.store import Fresh, Held, Presence, Store

__all__ = [
    "FRAME",
    "LOCK_FILES",
    "REBUILDS",
    "SCRATCH",
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
    "begin_afresh",
    "locked",
    "own_files",
    "scratch_folders",
]
