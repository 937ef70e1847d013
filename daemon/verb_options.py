"""Where a verb finds its console: the options that all of them have, and what they mean."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from config.load import load_console

if TYPE_CHECKING:
    from .console_client import Door

PASSWORD_VARIABLE = "PGCUTOVER_ADMIN_PASSWORD"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Connection:
    """The options of every verb. What is not given comes from the configuration file, then from defaults."""

    config: Path | None
    host: str | None
    port: int | None
    user: str | None
    database: str | None
    password: str | None
    password_env: str
    json: bool

    def door(self, environ: Mapping[str, str] = os.environ) -> Door:
        """Raises ConfigError for a file that does not say where the console is."""
        from .console_client import Door

        host, port, user, database = "127.0.0.1", 6432, "admin", "admin"
        password = environ.get(self.password_env)
        if self.config is not None:
            general, admin = load_console(self.config, environ)
            host, port = _EVERY_ADDRESS.get(general.host, general.host), general.port
            user, database = admin.user, admin.name
            password = password if password is not None else admin.password.get_secret_value()
        return Door(
            host=self.host or host,
            port=self.port or port,
            user=self.user or user,
            database=self.database or database,
            password=self.password if self.password is not None else password,
        )


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None,
            typer.Option(help="Configuration file that says where the console is, and its password."),
        ],
        None,
    ),
    "host": (Annotated[str | None, typer.Option(help="Where the proxy listens. [default: 127.0.0.1]")], None),
    "port": (Annotated[int | None, typer.Option(min=1, max=65535, help="Its port. [default: 6432]")], None),
    "user": (Annotated[str | None, typer.Option(help="Operator to log in as. [default: admin]")], None),
    "database": (
        Annotated[str | None, typer.Option(help="Name of the admin database. [default: admin]")],
        None,
    ),
    "password": (
        Annotated[str | None, typer.Option(help="Its password; other users of this machine can see it here.")],
        None,
    ),
    "password_env": (
        Annotated[str, typer.Option(metavar="NAME", help="Environment variable with the password.")],
        PASSWORD_VARIABLE,
    ),
    "json": (Annotated[bool, typer.Option("--json", help="Answer as JSON.")], False),
}


def console_command(function: Callable[..., int]) -> Callable[..., None]:
    """`function` with the options of a connection for its first parameter; ends with its exit status.

    The names in its annotations must be known in its module when this is called.
    """
    hints = get_type_hints(function, include_extras=True)
    own: Sequence[inspect.Parameter] = list(inspect.signature(function).parameters.values())[1:]
    parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    parameters += [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for key, (annotation, default) in _OPTIONS.items()
    ]

    def command(**values: Any) -> None:
        connection = Connection(**{key: values.pop(key) for key in _OPTIONS})
        raise typer.Exit(function(connection, **values))

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # What typer reads a command's arguments and options from.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
