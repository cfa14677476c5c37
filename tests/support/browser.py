"""A browser as far as signing in needs one: cookies, redirects, forms; and a load balancer that ends its TLS."""

import html
import itertools
import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import httpx

ADDRESS = "https://llm.example"
"""Where the browser believes the gateways are."""


class LoadBalancer(httpx.AsyncBaseTransport):
    """Each request to the next gateway in turn, under the name that the browser asked for."""

    def __init__(self, gateways: Iterable[str]) -> None:
        self._gateways = itertools.cycle([httpx.URL(url) for url in gateways])
        self._wire = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass it on."""
        to = next(self._gateways)
        url = request.url.copy_with(scheme=to.scheme, host=to.host, port=to.port)
        return await self._wire.handle_async_request(
            httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
            )
        )

    async def aclose(self) -> None:
        """Hang up."""
        await self._wire.aclose()


class Browser(AbstractAsyncContextManager["Browser"]):
    """Follows redirects and fills in forms. `http` is for what else a page's script would do."""

    def __init__(self, *gateways: str) -> None:
        self.http = httpx.AsyncClient(
            mounts={ADDRESS: LoadBalancer(gateways)}, base_url=ADDRESS, follow_redirects=True, timeout=60
        )

    async def __aenter__(self) -> Self:
        """Open."""
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.http.aclose()

    async def visit(self, url: str, **options: Any) -> httpx.Response:
        """Open a page, as by a link."""
        return await self.http.get(url, headers={"accept": "text/html,*/*;q=0.8"}, **options)

    async def submit(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """Fill in the page's form and send it."""
        action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
        assert action is not None, page.text
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        url = page.url.join(html.unescape(action[1]))
        origin = f"{page.url.scheme}://{page.url.netloc.decode()}"
        if page.headers.get("referrer-policy") == "no-referrer" and '<meta name="referrer"' not in page.text:
            origin = "null"  # as browsers do, to tell nothing
        headers = {"accept": "text/html,*/*;q=0.8", "origin": origin, "sec-fetch-site": "same-origin"}
        return await self.http.post(url, data=hidden | fields, headers=headers)

    async def sign_in(self, person: str, *, next_path: str = "/auth", query: str = "") -> httpx.Response:
        """All the way, with the provider of the tests: log in and agree. Returns the page where it ended."""
        page = await self.visit(f"/auth/login?next={next_path}{query}")
        if "/interaction/" in str(page.url) and 'name="login"' in page.text:
            page = await self.submit(page, login=person, password="of the tests")
        if "/interaction/" in str(page.url):
            page = await self.submit(page)
        return page

    async def who(self) -> dict[str, Any]:
        """What /auth/me says to a page's script."""
        answer = await self.http.get("/auth/me", headers={"accept": "application/json"})
        return dict(answer.json())

    def cookie(self, name: str) -> str | None:
        """The value of one of its cookies."""
        return next((each.value for each in self.http.cookies.jar if each.name == name), None)
