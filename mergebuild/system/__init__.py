"""What the machine can: files and their state, publishing by rename, temporary files, text of bounded size.

Begin with `platform.py`: it says what is asked of the operating system, and in what systems differ. May import nothing
else of ours but `results`.
"""
