"""An issuer of tokens that publishes its keys over HTTP, and signs and answers whatever a test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

AUDIENCE = "https://llm.example"


class TokenIssuer:
    """`keys` are those it signs with, `published` the documents it shows; a test changes either."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, Key] = {}
        self.published: list[dict[str, Any]] = []
        self.says_it_is = url
        self.down = False
        self.asked = 0
        self.paths: list[str] = []
        self.tells: dict[str, Any] = {}
        """What its discovery says besides, or None for what it shall not say."""
        self.forms: list[dict[str, str]] = []
        """What its token endpoint was asked."""
        self.token_reply: Callable[[], web.Response] = lambda: web.Response(status=503)
        self.userinfo: dict[str, Any] | None = None
        self.wait: asyncio.Event | None = None
        """What its token endpoint waits for before it answers."""
        self.add("rsa", RSAKey.generate_key(2048))

    def add(self, key_id: str, key: Key) -> None:
        """Sign with a new key, and publish it."""
        self.keys[key_id] = key
        self.published.append({**key.as_dict(private=False), "kid": key_id, "use": "sig"})

    def withdraw(self, key_id: str) -> None:
        """Publish it no more."""
        self.published = [key for key in self.published if key["kid"] != key_id]

    def sign(self, claims: dict[str, Any], key: str | Key = "rsa", algorithm: str = "RS256", **header: Any) -> str:
        """A token of these claims."""
        signing = self.keys[key] if isinstance(key, str) else key
        named = {"kid": key} if isinstance(key, str) else {}
        return jwt.encode({"alg": algorithm, **named, **header}, claims, signing, algorithms=[algorithm])


def ec_key() -> ECKey:
    """A new key for ES256."""
    return ECKey.generate_key("P-256")


def ed_key() -> OKPKey:
    """A new key for EdDSA."""
    return OKPKey.generate_key("Ed25519")


def secret_key(secret: bytes) -> OctKey:
    """A key for HMAC."""
    return OctKey.import_key(secret)


@asynccontextmanager
async def token_issuer() -> AsyncIterator[TokenIssuer]:
    """Start one on a free port, and stop it at the end."""
    issuer: TokenIssuer

    async def discovery(_request: web.Request) -> web.Response:
        issuer.asked += 1
        if issuer.down:
            return web.Response(status=503)
        named = {f"{name}_endpoint": f"{issuer.url}/{name}" for name in ("authorization", "token", "userinfo")}
        told = {"issuer": issuer.says_it_is, "jwks_uri": f"{issuer.url}/keys", **named, **issuer.tells}
        return web.json_response({name: value for name, value in told.items() if value is not None})

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": issuer.published})

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        issuer.paths.append(request.path)
        return await handler(request)

    async def token(request: web.Request) -> web.Response:
        issuer.forms.append({name: str(value) for name, value in (await request.post()).items()})
        if issuer.wait is not None:
            await issuer.wait.wait()
        return issuer.token_reply()

    async def userinfo(_request: web.Request) -> web.Response:
        return web.json_response(issuer.userinfo, status=200 if issuer.userinfo is not None else 401)

    app = web.Application(middlewares=[note])
    app.router.add_post("/token", token)
    app.router.add_get("/userinfo", userinfo)
    app.router.add_get("/.well-known/openid-configuration", discovery)
    app.router.add_get("/keys", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    issuer = TokenIssuer(f"http://{host}:{port}")
    try:
        yield issuer
    finally:
        await runner.cleanup()
