"""One module for each kind of recipe file.

Each has `recognizes(file)`, which goes by the content and never by the name, and `read(file, draft)`.
"""
