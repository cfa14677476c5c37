"""What verbs share: the settings, and the gateway that they speak to."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deployment.cli.gateway import Gateway
    from deployment.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Gateway to ask; by default the one that runs here. Its key: RAMSEY_API_KEY.", metavar="URL"
    ),
]


def settings_of(context: typer.Context, **overrides: Any) -> "Settings":
    """The settings, with a verb's own flags over them. Raises ConfigurationError."""
    from deployment.settings import load

    return load(context.obj, **overrides)


def gateway_of(context: typer.Context, url: str | None) -> "Gateway":
    """The gateway at `url`, else the one that `ramsey up` started here, else the one of the settings."""
    from deployment.cli.claim import running
    from deployment.cli.gateway import Gateway, address
    from deployment.settings import api_key

    if url is not None:
        return Gateway(url, api_key())
    settings = settings_of(context)
    here = running(settings.data_dir)
    url = here.url if here and here.url else address(settings.server)
    return Gateway(url, api_key(), certificate=settings.server.tls_cert)
