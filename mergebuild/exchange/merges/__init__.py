"""What one merge of another tool is, as targets of a draft: a module a tool.

The same merge comes out of a file's metadata, a history, a command line: readers take those apart, these say what is
meant.
"""
