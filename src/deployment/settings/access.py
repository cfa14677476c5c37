"""Who may call, and how much."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from deployment.settings.section import Seconds, Section

_SHA256 = r"^[0-9a-f]{64}$"


class ApiKey(Section):
    """One key that may call. Only its SHA-256 is known here: `ramsey keys create --print-config` makes both."""

    name: str = Field(min_length=1, max_length=64, description="Who holds the key; appears in logs.")
    sha256: str = Field(pattern=_SHA256, description="SHA-256 of the key, in hex.")
    tenant: str = Field("default", min_length=1, max_length=64, description="The tenant that the key belongs to.")
    roles: tuple[Literal["viewer", "user", "operator", "admin"], ...] = Field(
        ("user",), min_length=1, description="What the key may do: viewer, user, operator, admin."
    )


class OidcProvider(Section):
    """An OpenID Connect provider whose access tokens are accepted, or with whom people sign in."""

    issuer: str = Field(
        pattern=r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])",
        description="The provider's issuer URL, as its tokens say it.",
    )
    audience: tuple[str, ...] = Field(
        (), description="An access token must be for one of these; without any, access tokens are not accepted."
    )
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...
    ] = Field(("RS256", "PS256", "ES256", "EdDSA"), min_length=1, description="How a token may be signed.")
    leeway_seconds: int = Field(60, ge=0, le=300, description="How far clocks may differ, in seconds.")
    tenant: str = Field("default", max_length=64, description="The tenant of its callers, without a tenant_claim.")
    tenant_claim: str | None = Field(None, description="The claim that names the tenant; dots reach into objects.")
    roles: tuple[str, ...] = Field(("user",), description="Roles of everybody with a valid token.")
    roles_claim: str = Field("roles", description="The claim that lists roles or groups; dots reach into objects.")
    role_map: dict[str, str] = Field(
        default_factory=dict, description="From an entry of roles_claim to a role here; others give nothing."
    )
    client_id: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="What the provider calls this service: people may sign in with a browser. Needs server.public_url, "
        "whose /auth/callback the provider must know as a redirect URI.",
    )
    client_secret: SecretStr | None = Field(
        None,
        min_length=1,
        description="What proves client_id, or where that is (env:, file:, ...); a public client has none.",
    )
    scopes: tuple[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,128}$")], ...] = Field(
        ("openid",), max_length=32, description="What signing in asks the provider for."
    )
    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="What people choose to sign in; by default the issuer's host.",
    )

    @property
    def sign_in_name(self) -> str:
        """What people choose to sign in."""
        return self.name or urlsplit(self.issuer).hostname or self.issuer

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.client_id is None and self.client_secret is not None:
            raise ValueError("client_secret needs client_id beside it")
        if self.client_id is None and not self.audience:
            raise ValueError("it needs audience, to accept access tokens, or client_id, to sign people in")
        if "openid" not in self.scopes:
            raise ValueError("scopes needs openid among them")
        return self


class SessionSettings(Section):
    """How long a browser stays signed in."""

    idle_seconds: float = Field(
        3600.0, ge=300, allow_inf_nan=False, description="How long a session lasts that nobody uses, in seconds."
    )
    lifetime_seconds: float = Field(
        43_200.0,
        ge=300,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="How long a session lasts at most, in seconds; then one signs in again.",
    )


class AccessSettings(Section):
    """Who may call."""

    keys: tuple[ApiKey, ...] = Field((), description="Keys that may call, besides the stored ones.")
    oidc: tuple[OidcProvider, ...] = Field(
        (), description="Providers whose access tokens are accepted, or with whom people sign in."
    )
    cors_origins: tuple[str, ...] = Field((), description="Web origins whose pages may call; none by default.")
    offline_seconds: Seconds = Field(
        3600.0,
        description="How long stored keys and sessions go on while the database cannot be reached, in seconds.",
    )
    sessions: SessionSettings = Field(default_factory=SessionSettings)

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        if len({provider.issuer for provider in self.oidc}) < len(self.oidc):
            raise ValueError("two OpenID Connect providers have the same issuer")
        names = [provider.sign_in_name for provider in self.oidc if provider.client_id]
        if len(set(names)) < len(names):
            raise ValueError("two OpenID Connect providers have the same name: give each oidc[].name")
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.keys]
            if repeated := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"two keys have the {what} {min(repeated)}")
        return self


Money = Annotated[float, Field(ge=0.000001, le=1e9, allow_inf_nan=False)]


Count = Annotated[int, Field(ge=1, le=2**53)]  # Redis counts in floating point, exact until there


class LimitSet(Section):
    """What one caller, tenant or model may have; empty for no limit."""

    requests_per_minute: Count | None = Field(None, description="Requests in any 60 seconds.")
    tokens_per_minute: Count | None = Field(None, description="Tokens, prompts and answers, in any 60 seconds.")
    concurrent: Count | None = Field(None, description="Requests at the same time.")
    tokens_per_day: Count | None = Field(None, description="Budget of tokens for a day, by UTC.")
    tokens_per_month: Count | None = Field(None, description="Budget of tokens for a calendar month, by UTC.")
    money_per_day: Money | None = Field(None, description="Budget of money for a day, by UTC, by limits.prices.")
    money_per_month: Money | None = Field(None, description="Budget of money for a calendar month, by UTC.")
    max_prompt_chars: Count | None = Field(None, description="Longest prompt, in characters.")
    max_output_tokens: Count | None = Field(None, description="Longest answer, in tokens.")

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_flag(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it is a number")  # true would pass for 1
        return value

    @property
    def counted(self) -> bool:
        """Whether anything of it is counted; sizes hold for each request by itself."""
        sizes = {"max_prompt_chars", "max_output_tokens"}
        return any(getattr(self, name) is not None for name in type(self).model_fields if name not in sizes)


class Price(Section):
    """What 1,000 tokens of a model cost."""

    prompt: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="1,000 tokens of prompts.")
    completion: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="1,000 tokens of answers.")


class LimitsSettings(Section):
    """How much callers may have."""

    key: LimitSet = Field(default_factory=LimitSet, description="Of each key (and of each other caller).")
    tenant: LimitSet = Field(default_factory=LimitSet, description="Of each tenant, all its keys together.")
    model: LimitSet = Field(default_factory=LimitSet, description="Of each tenant, on each model.")
    redis_url: SecretStr | None = Field(
        None, description="Count limits in this Redis, shared by several gateways; else in this process."
    )
    budget_alert: float = Field(
        0.8, gt=0, le=1, description="Part of a budget at whose use a warning is logged, once in its period."
    )
    gateways: int = Field(
        1,
        ge=1,
        description="How many gateways share the limits; each takes its share without Redis, or while it is away.",
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="What models cost, by their names, `*` for all others: prompt and completion, for 1,000 tokens "
        "each, in one currency of your own. Without a price, a model is free.",
    )

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if not self.prices and any(
            one.money_per_day or one.money_per_month for one in (self.key, self.tenant, self.model)
        ):
            raise ValueError("a budget of money needs limits.prices")
        return self
