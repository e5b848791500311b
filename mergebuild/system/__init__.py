"""The operating system: files and their state, publishing by rename, locks, limits, and the timing of threads.

Begin with `platform.py`: it says what is asked of the operating system, and how systems differ; `_linux.py`,
`_posix.py` and `_portable.py` implement it.

- `filestate.py` tells whether a file changed; `publishing.py` puts a finished file at its place by a rename.
- `scratch.py`, `locks.py`, `space.py`, `limits.py` and `time_limit.py` are about temporary files, locks, and limits.
- `bounded_text.py` reads untrusted text files; `missing.py` helps if a path leads to no file.
- `spans.py` times what threads do; `profile.py` adds that up, `trace.py` writes it to a file.

May import nothing else of ours but `results`.
"""
