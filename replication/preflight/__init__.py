"""CHECK: everything known to make a cutover fail, or lose or double rows, looked for on both databases.

Words
- check      a function that asks one question; its id is the catalogue's, and stays the same for ever
- finding    one answer that somebody should read: id, severity, object, finding, remedy
- phase      setup: before replication is made; arm: replication runs, a cutover is about to start
- snapshot   tables, columns and keys of one side, read once per run and compared in plain Python

Rules
- A check looks at both sides where it can, for the way back runs the other way round.
- Every check runs, whatever happens to the others. One that cannot be carried out is a blocking finding.
- SQL relies on search_path = pg_catalog (control sessions set it), and takes values as parameters.
- Left out everywhere: schemas of the server, `pgcutover`, and what belongs to an extension.
- No check changes anything; N02 makes a subscription in a transaction that it rolls back.
"""

from __future__ import annotations

from . import (
    activity,
    code_diff,
    code_security,
    identity,
    keys,
    logins,
    other_streams,
    partitions,
    publication,
    replication_state,
    schema_diff,
    sequences,
    session_env,
    settings,
    tables,
    transactions,
    user_types,
)
from .model import (
    CannotCheck,
    CheckContext,
    ErrorBaseline,
    Finding,
    Phase,
    ProxiedUser,
    Severity,
    Where,
)
from .registry import CATALOGUE, CatalogueEntry
from .replication_state import read_error_baseline
from .runner import run_checks

# Importing them puts their checks into the catalogue.
GROUPS = (
    identity,
    logins,
    settings,
    session_env,
    tables,
    partitions,
    publication,
    schema_diff,
    keys,
    user_types,
    code_diff,
    sequences,
    code_security,
    replication_state,
    other_streams,
    transactions,
    activity,
)

__all__ = [
    "CATALOGUE",
    "CannotCheck",
    "CatalogueEntry",
    "CheckContext",
    "ErrorBaseline",
    "Finding",
    "Phase",
    "ProxiedUser",
    "Severity",
    "Where",
    "read_error_baseline",
    "run_checks",
]
