"""Where artifacts live, what is known of them, and how they are published.

`protocols.py` says what others ask of a store, in the words of `values.py`: of a shelf, a ledger and a publisher. The
modules of these names are the three of a store on disk, which `store.py` opens over one database: `state.py` has its
tables, `database.py` guards it, and `recovery.py` keeps what can be read of a damaged one. `stages.py` puts folders at
their places, `comparing.py` knows an artifact by its bytes, and `contents.py` packs the table of one.
"""

from mergebuild.store.comparing import has_bytes
from mergebuild.store.contents import FRAME, Contents, Entry, ScatteredEntry
from mergebuild.store.database import DatabaseDamagedError
from mergebuild.store.locking import LOCK_FILES, REBUILDS, locked
from mergebuild.store.names import SCRATCH, own_files, scratch_folders
from mergebuild.store.protocols import Ledger, Publisher, Shelf, SourceMemory, Store
from mergebuild.store.recovery import begin_afresh
from mergebuild.store.stages import Stage
from mergebuild.store.state import STATE
from mergebuild.store.store import DiskStore
from mergebuild.store.values import ArtifactRow, Fresh, Held, PackedKeys, Presence, Record, SourceRow

__all__ = [
    "FRAME",
    "LOCK_FILES",
    "REBUILDS",
    "SCRATCH",
    "STATE",
    "ArtifactRow",
    "Contents",
    "DatabaseDamagedError",
    "DiskStore",
    "Entry",
    "Fresh",
    "Held",
    "Ledger",
    "PackedKeys",
    "Presence",
    "Publisher",
    "Record",
    "ScatteredEntry",
    "Shelf",
    "SourceMemory",
    "SourceRow",
    "Stage",
    "Store",
    "begin_afresh",
    "has_bytes",
    "locked",
    "own_files",
    "scratch_folders",
]
