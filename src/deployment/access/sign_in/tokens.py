"""What we ask of a provider while somebody signs in: the code for tokens, and who they are."""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

import aiohttp

from deployment.access.oidc import Endpoints, Provider, Unusable, read_object
from deployment.access.sign_in.pending import Pending
from deployment.errors import ProviderRefused, ProviderUnavailable, SignInFailed

_TIMEOUT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a code was worth."""

    id_token: str = field(repr=False)
    access_token: str | None = field(repr=False)


def authorization_url(provider: Provider, address: str, pending: Pending, redirect_uri: str) -> str:
    """Where the browser goes to sign in."""
    digest = hashlib.sha256(pending.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": provider.settings.client_id or "",
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.settings.scopes),
        "state": pending.state,
        "nonce": pending.nonce,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    return _with_query(address, query)


def end_session_url(provider: Provider, address: str, id_token: str | None, back_to: str) -> str:
    """Where the browser goes to sign out of the provider too."""
    query = {"client_id": provider.settings.client_id or "", "post_logout_redirect_uri": back_to}
    return _with_query(address, query | ({"id_token_hint": id_token} if id_token else {}))


async def redeem(provider: Provider, endpoints: Endpoints, code: str, verifier: str, redirect_uri: str) -> Tokens:
    """The code for tokens. Raises SignInFailed, ProviderRefused or ProviderUnavailable."""
    settings = provider.settings
    client_id = settings.client_id or ""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
    headers: dict[str, str] = {}
    if settings.client_secret is None:
        form["client_id"] = client_id
    elif endpoints.basic:
        pair = f"{quote_plus(client_id)}:{quote_plus(settings.client_secret.get_secret_value())}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        form |= {"client_id": client_id, "client_secret": settings.client_secret.get_secret_value()}
    status, answer = await _ask(provider, "POST", endpoints.token or "", headers, form)
    if status != 200:
        raise _refused(provider, answer.get("error"))
    id_token, access_token = answer.get("id_token"), answer.get("access_token")
    if not isinstance(id_token, str):
        raise ProviderRefused(
            f"{settings.sign_in_name} gave no ID token.", hint="An administrator can check access.oidc[].scopes."
        )
    return Tokens(id_token, access_token if isinstance(access_token, str) else None)


async def userinfo(provider: Provider, address: str, access_token: str, subject: str) -> dict[str, Any]:
    """What the provider tells of who signed in. Raises SignInFailed or ProviderUnavailable."""
    headers = {"Authorization": f"Bearer {access_token}"}
    status, answer = await _ask(provider, "GET", address, headers)
    if status != 200:
        raise _away(provider)
    if answer.get("sub") != subject:
        raise SignInFailed("The provider told of somebody else than who signed in.", hint="Sign in again.")
    return answer


async def _ask(
    provider: Provider, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(
                method, url, headers={"Accept": "application/json", **headers}, data=form, allow_redirects=False
            ) as response,
        ):
            if response.status >= 500 or response.status == 429:
                raise _away(provider)
            return response.status, await read_object(response)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Unusable):
        raise _away(provider) from None


def _refused(provider: Provider, error: object) -> SignInFailed | ProviderRefused:
    if error == "invalid_grant":
        return SignInFailed("The provider's code was used already, or is too old.", hint="Sign in again.")
    name = error if isinstance(error, str) and error.replace("_", "").isalpha() else "an error"
    return ProviderRefused(
        f"{provider.settings.sign_in_name} refuses this service: {name[:64]}.",
        hint="An administrator can check client_id and client_secret of access.oidc[].",
    )


def _away(provider: Provider) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"{provider.settings.sign_in_name} does not answer as it should.",
        hint="Sign in again in a moment.",
        retry_after_s=5.0,
    )


def _with_query(address: str, query: dict[str, str]) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}"
