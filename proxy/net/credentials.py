"""Who may log in, from the configuration."""

from __future__ import annotations

from collections.abc import Callable

from config.model import AuthType, Config

from ..errors import ProxyError
from .client_login import ClientCredential, LoginSettings
from .tls import server_tls


def login_settings(config: Config, refuse: Callable[[str, str], ProxyError | None]) -> LoginSettings:
    """What log-ins are judged by under `config`. Raises TlsSettingsError for certificates that do not load."""
    general, admin = config.general, config.admin
    secrets: dict[tuple[str, str], ClientCredential] = {
        (user.database, user.name): ClientCredential(
            user.password.get_secret_value() if user.password is not None else None
        )
        for user in config.users
    }
    # The admin database asks for its password whatever the general rule is: "trust" must not open it.
    secrets[admin.name, admin.user] = ClientCredential(admin.password.get_secret_value(), AuthType.SCRAM)
    names = frozenset(d.name for d in config.databases) | {admin.name}

    def lookup(database: str, user: str) -> ClientCredential | None:
        return secrets.get((database, user))

    return LoginSettings(
        lookup=lookup,
        auth_type=general.auth_type,
        tls=server_tls(general),
        timeout_s=general.client_login_timeout / 1000.0,
        database_exists=names.__contains__,
        refuse=refuse,
    )
