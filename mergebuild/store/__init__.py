"""The store: which artifacts there are, what is remembered of builds and sources, and how files are published.

Begin with `protocols.py`: it says what others ask of a shelf, a ledger and a publisher; `values.py` has what they
return. `shelf.py`, `ledger.py` and `publisher.py` are the three of a store on disk; `store.py` opens them over one
database:

- `state.py` has its tables, `database.py` opens it and detects damage, `recovery.py` saves what can be read of a
  damaged one.
- `contents.py` packs the table of an artifact; `comparing.py` checks whether a file has the bytes of an artifact.
- `stages.py` puts a whole folder at its place; `locking.py` has the locks, `names.py` the names of the store's own
  files.

May import formats and the system; never a recipe, a source or a plan.
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
