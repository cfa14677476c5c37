"""A start that fails says why in a line, not with a traceback, under every ASGI server."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.errors import RamseyError


async def told_plainly(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the lifespan. Why it could not start is also left as `app.state.startup_error`, for who serves it."""
    failed: Message | None = None

    async def hold(message: Message) -> None:
        nonlocal failed
        if message["type"] == "lifespan.startup.failed":
            failed = message
        else:
            await send(message)

    try:
        await app(scope, receive, hold)
    except RamseyError as error:
        if failed is None:
            raise
        scope["app"].state.startup_error = error
        await send({**failed, "message": f"{error.message} {error.hint or ''}".strip()})
    except BaseException:
        if failed is not None:
            await send(failed)
        raise
