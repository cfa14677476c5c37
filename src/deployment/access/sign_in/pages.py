"""The few pages for people: who is signed in, where to sign in, what went wrong. No script, nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote, urlencode, urlsplit

from starlette.responses import HTMLResponse

from deployment.access.sessions import BrowserSession
from deployment.errors import RamseyError

_STYLE = (
    ":root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}"
    "body{display:grid;min-height:100vh;margin:0;place-items:center}"
    "main{box-sizing:border-box;max-width:32rem;padding:2rem;width:100%}"
    "h1{font-size:1.5rem;margin:0 0 1rem}"
    "a.button,button{background:#1f4fd8;border:0;border-radius:.4rem;color:#fff;cursor:pointer;display:inline-block;"
    "font:inherit;margin:.25rem .5rem .25rem 0;padding:.5rem 1rem;text-decoration:none}"
    "a:focus-visible,button:focus-visible{outline:3px solid #f5a524;outline-offset:2px}"
    "dl{display:grid;gap:.25rem 1rem;grid-template-columns:auto 1fr}dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere}"
    "small{opacity:.7;overflow-wrap:anywhere}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def signed_in_page(session: BrowserSession, sign_out_at: str | None) -> HTMLResponse:
    """Who is signed in. `sign_out_at` is the provider's address to sign out at, where the form may lead on to."""
    record = session.record
    facts = {
        "Tenant": record.tenant,
        "Roles": ", ".join(record.roles),
        "Signed in until": f"{record.expires_at:%Y-%m-%d %H:%M} UTC, at the latest",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    form = (
        '<form method="post" action="/auth/logout">'
        f'<input type="hidden" name="csrf_token" value="{escape(session.csrf_token)}">'
        "<button>Sign out</button></form>"
    )
    title = f"You are signed in as {escape(record.shown_name)}"
    return _page(title, f"<dl>{listed}</dl>{form}", forms_to=("'self'", *_origin(sign_out_at)))


def signed_out_page(providers: Iterable[str], next_path: str | None) -> HTMLResponse:
    """Where to sign in."""
    return _page("You are not signed in", "<p>" + _buttons(providers, next_path) + "</p>")


def error_page(error: RamseyError, request_id: str, retry: bool) -> HTMLResponse:
    """What went wrong, and the next step; with `retry`, a button for it."""
    parts = [f"<p>{escape(error.message)}</p>"]
    if error.hint:
        parts.append(f"<p>{escape(error.hint)}</p>")
    if retry:
        parts.append('<p><a class="button" href="/auth">Sign in again</a></p>')
    parts.append(f"<small>Request {escape(request_id)}</small>")
    page = _page("That did not work", "".join(parts), error.status)
    if error.retry_after is not None:
        page.headers["Retry-After"] = error.retry_after
    return page


def _buttons(providers: Iterable[str], next_path: str | None) -> str:
    links = []
    for name in providers:
        query = urlencode({"provider": name} | ({"next": next_path} if next_path else {}), quote_via=quote, safe="/")
        links.append(f'<a class="button" href="/auth/login?{escape(query)}">Sign in with {escape(name)}</a>')
    return "".join(links)


def _origin(url: str | None) -> Sequence[str]:
    """Browsers hold the way that a form's answer leads on to against the page's policy."""
    if url is None:
        return ()
    parts = urlsplit(url)
    return (f"{parts.scheme}://{parts.netloc}",)


def _page(title: str, body: str, status: int = 200, forms_to: Sequence[str] = ("'none'",)) -> HTMLResponse:
    """`title` and `body` are HTML."""
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; "
        f"form-action {' '.join(forms_to)}"
    )
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Without any referrer, browsers say `Origin: null` of our own form.
        '<meta name="referrer" content="same-origin">'
        f"<title>{title} - Ramsey</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(html, status, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})
