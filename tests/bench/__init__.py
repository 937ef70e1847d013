"""`python -m tests.bench`: the figures that the documentation quotes, measured on the machine at hand.

Each part measures something and returns rows: a value, and the bar it has to reach. `__main__` chooses the
parts, prints the rows and keeps everything as JSON.
"""
