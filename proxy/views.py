"""What the proxy shows of itself: plain values for the console, the metrics and the run. No I/O, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientView:
    """A row of SHOW CLIENTS. Times are UNIX seconds, `wait_us` counts from the first waiting request."""

    id: int
    user: str
    database: str
    state: str  # "active" (a request is under way), "idle", "waiting" (held or no link yet), "login"
    addr: str
    port: int
    local_addr: str
    local_port: int
    connect_time: float
    request_time: float
    wait_us: int
    remote_pid: int  # backend of its link, 0 where it has none
    tls: str
    application_name: str
    replication: str  # "none", "logical" or "physical"
    transaction_ms: float  # how long its open transaction has lasted, 0 where there is none


@dataclass(frozen=True, slots=True)
class ServerView:
    """A row of SHOW SERVERS: one link."""

    id: int
    user: str
    database: str
    state: str  # "active", "idle", "login", "twin" (opened ahead of a swap)
    addr: str
    port: int
    local_addr: str
    local_port: int
    connect_time: float
    request_time: float
    remote_pid: int
    client_id: int  # 0 where it serves nobody yet
    tls: str
    application_name: str
    close_needed: bool = False  # marked by RECONNECT or a reload; WAIT_CLOSE waits for these


@dataclass(frozen=True, slots=True)
class PoolView:
    database: str
    user: str
    cl_active: int
    cl_waiting: int
    sv_active: int
    sv_idle: int
    sv_login: int
    maxwait_us: int
    pool_mode: str


@dataclass(frozen=True, slots=True)
class DatabaseView:
    name: str
    host: str
    port: int
    database: str
    pool_size: int
    pool_mode: str
    current_connections: int
    current_client_connections: int
    paused: bool
    disabled: bool
    gate: str  # "open", "draining", "closed"


@dataclass(frozen=True, slots=True)
class StatsView:
    """Counters of one database since the start of the daemon; times in microseconds."""

    database: str
    xact_count: int
    query_count: int
    bytes_received: int
    bytes_sent: int
    xact_time_us: int
    query_time_us: int
    wait_time_us: int
    client_login_count: int
    server_assignment_count: int
