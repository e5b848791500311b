"""What the machine can: files and their state, publishing by rename, temporary files, text of bounded size.

Begin with `portable.py`: every call that not every platform has is made there. May import nothing else of ours but
`results`.
"""
