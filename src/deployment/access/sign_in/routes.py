"""Signing in and out over HTTP. Browsers get pages, programs JSON."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, RedirectResponse

from deployment.access.authentication import Authenticator
from deployment.access.guard import AdminRoute, known, public
from deployment.access.model import Principal
from deployment.access.refusals import Refusals
from deployment.access.sessions import Browsers, BrowserSession
from deployment.access.sessions.cookies import SIGNING_IN_S
from deployment.access.sign_in.flow import Answer, SignIn
from deployment.access.sign_in.pages import error_page, signed_in_page, signed_out_page
from deployment.access.sign_in.pending import MOST_NEXT, local_path
from deployment.errors import Forbidden, InvalidRequest, NotFound, RamseyError, SignInFailed, Unauthenticated

HOME = "/auth"
_MOST_FORM = 4096
_NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes work with; `flow` and `browsers` are None where nobody signs in."""

    authenticator: Authenticator
    refusals: Refusals
    flow: SignIn | None
    browsers: Browsers | None

    def parts(self) -> tuple[SignIn, Browsers]:
        """Both. Raises NotFound where signing in is not set up."""
        if self.flow is None or self.browsers is None:
            raise NotFound(
                "Signing in with a browser is not set up here.",
                hint="An administrator can set server.public_url and client_id of access.oidc[].",
            )
        return self.flow, self.browsers


class MeOut(BaseModel):
    """Who calls."""

    id: str
    name: str
    tenant: str
    roles: list[str]
    permissions: list[str]
    anonymous: bool
    signed_in: bool = Field(description="By a session, not a key or token.")
    csrf_token: str | None = Field(description="What a page sends as X-CSRF-Token where it changes something.")
    expires_at: str | None = Field(description="When the session ends at the latest.")


def sign_in_routes(desk: Desk) -> APIRouter:
    """`/auth` and what is under it."""
    router = APIRouter(prefix=HOME, tags=["sign-in"], route_class=_route_class(desk.refusals))
    _way_in(router, desk)
    _way_out(router, desk)

    @router.get("", include_in_schema=False, **public())
    async def home(
        request: Request, back: Annotated[str | None, Query(alias="next", max_length=MOST_NEXT)] = None
    ) -> Response:
        flow, browsers = desk.parts()
        session = browsers.find(request.scope)
        if session is not None:
            return signed_in_page(session, flow.sign_out_at(session))
        names = [provider.settings.sign_in_name for provider in flow.providers.values()]
        return signed_out_page(names, local_path(back) if back else None)

    @router.get("/me", summary="Who am I?", **known())
    async def me(request: Request, response: Response) -> MeOut:
        """The caller's tenant, roles and permissions, and of a session the token against forged requests."""
        caller = desk.authenticator.authenticate(request.scope)
        session = desk.browsers.find(request.scope) if desk.browsers is not None else None
        if session is not None and session.principal != caller:
            session = None  # a key came with the cookie, and decides
        response.headers.update(_NO_STORE)
        return _me(caller, session)

    return router


def _way_in(router: APIRouter, desk: Desk) -> None:
    @router.get("/login", summary="Sign in", status_code=303, response_class=RedirectResponse, **public())
    async def login(
        provider: Annotated[str | None, Query(max_length=64, description="Which, where there are several.")] = None,
        back: Annotated[
            str, Query(alias="next", max_length=MOST_NEXT, description="A path here, for afterwards.")
        ] = HOME,
    ) -> Response:
        """Send the browser to the provider (authorization code, PKCE)."""
        flow, browsers = desk.parts()
        url, sealed = await flow.begin(provider, back)
        answer = RedirectResponse(url, 303, _NO_STORE)
        browsers.cookies.give(answer, browsers.cookies.signing_in, sealed, SIGNING_IN_S)
        return answer

    @router.get(
        "/callback",
        summary="Come back from the provider",
        status_code=303,
        response_class=RedirectResponse,
        **public(),
    )
    async def callback(
        request: Request,
        state: Annotated[str, Query(max_length=256)] = "",
        code: Annotated[str | None, Query(max_length=4096)] = None,
        error: Annotated[str | None, Query(max_length=256)] = None,
        iss: Annotated[str | None, Query(max_length=512)] = None,
    ) -> Response:
        """The provider sends the browser here; who is accepted gets a session."""
        flow, browsers = desk.parts()
        kept = request.cookies.get(browsers.cookies.signing_in)
        before = browsers.shown(request.scope)
        signed_in = await flow.finish(Answer(state, code, error, iss), kept, before, _from(request))
        answer = RedirectResponse(flow.url(signed_in.next), 303, _NO_STORE)
        browsers.cookies.take(answer, browsers.cookies.signing_in)
        browsers.cookies.give(answer, browsers.cookies.session, signed_in.session_id, signed_in.seconds)
        return answer


def _way_out(router: APIRouter, desk: Desk) -> None:
    @router.post("/logout", summary="Sign out", responses={303: {"description": "For browsers"}}, **public())
    async def logout(request: Request) -> Response:
        """End the session; `end_session_url` is where to sign out of the provider too. Needs the token against forged
        requests, as header X-CSRF-Token or field csrf_token."""
        flow, browsers = desk.parts()
        session = browsers.find(request.scope)
        on_to = None
        if session is not None:
            token = request.headers.get("x-csrf-token") or await _field(request, "csrf_token")
            browsers.refuse_forged(request.scope, session, token.encode())
            on_to = await flow.sign_out(session, _from(request))
        answer: Response
        if _wants_page(request):
            answer = RedirectResponse(on_to or flow.url(HOME), 303, _NO_STORE)
        else:
            answer = JSONResponse({"signed_out": session is not None, "end_session_url": on_to}, headers=_NO_STORE)
        if browsers.shown(request.scope):  # a foreign page's form comes without the cookie, and must not take it away
            browsers.cookies.take(answer, browsers.cookies.session)
        return answer


def _route_class(refusals: Refusals) -> type[AdminRoute]:
    class SignInRoute(AdminRoute):
        """A route whose errors are pages for browsers, and whose refusals are in the record."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """The handler, its errors told."""
            handler = super().get_route_handler()

            async def told(request: Request) -> Response:
                try:
                    return await handler(request)
                except RamseyError as error:
                    page = _wants_page(request)
                    # The envelope notes what it renders, but for the one that it does not know as a refusal.
                    if isinstance(error, SignInFailed) or (page and isinstance(error, Unauthenticated | Forbidden)):
                        refusals.note(error, request.scope, _request_id(request))
                    if not page:
                        raise
                    if (record := getattr(request.state, "record", None)) is not None:
                        record.error = error.code
                    return error_page(error, _request_id(request), retry=not isinstance(error, NotFound))

            return told

    return SignInRoute


def _me(caller: Principal, session: BrowserSession | None) -> MeOut:
    return MeOut(
        id=caller.id,
        name=session.record.shown_name if session is not None else caller.name,
        tenant=caller.tenant,
        roles=sorted(caller.roles),
        permissions=sorted(caller.permissions),
        anonymous=caller.anonymous,
        signed_in=session is not None,
        csrf_token=session.csrf_token if session is not None else None,
        expires_at=session.record.expires_at.isoformat() if session is not None else None,
    )


async def _field(request: Request, name: str) -> str:
    """A field of a small form; empty where there is none."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return ""
    body = await request.body()
    if len(body) > _MOST_FORM:
        raise InvalidRequest("The form is too long.")
    return parse_qs(body.decode("latin-1")).get(name, [""])[0]


def _from(request: Request) -> Principal:
    """Nobody yet, but where the request came from."""
    source = request.client.host if request.client is not None else ""
    return replace(_NOBODY, source=source[:64], request_id=_request_id(request)[:128])


def _request_id(request: Request) -> str:
    return str(getattr(getattr(request.state, "record", None), "request_id", ""))


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


_NOBODY = Principal("unknown", "unknown", "", frozenset(), frozenset(), None)
