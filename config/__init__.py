"""What the operator wrote, as values. A leaf: knows no other package, does no network.

Words
- *problem*: one thing wrong in a file, with file, line, key, and what to do. All of them are listed at once.
- *document*: one parsed file that remembers on which line each key stands.
- *secret*: a password given directly, as `*_file`, or as `*_env`; after loading only the value is left.
- *swap*: the two databases of a pair exchange their names, in both files, and nothing else changes.

Rules
- A `Config` is immutable and has no open questions: what `load` returns was checked as a whole.
- A key is described once, in `model.py`; comments, examples and messages are made from that.
- Nothing here logs or prints, and no text made here contains a secret.
"""
