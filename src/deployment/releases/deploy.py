"""Bring the release that the settings name onto a node. Doing it again changes nothing."""

import asyncio
from pathlib import Path
from typing import Any

import structlog

from deployment import modelfile as modelfiles
from deployment.errors import ConfigurationError, EngineError, EngineRefused, ModelMissing, StartupError
from deployment.gguf import read_metadata
from deployment.modelfile import Modelfile
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.releases.ledger import Ledger
from deployment.releases.model import Recipe, Release, differences, release_tag
from deployment.releases.traits import Traits
from deployment.settings import Settings

LOOK = Timeouts(total=15.0)
"""For what is no upload and no creation: a node that takes longer hangs, and others wait for it."""

_log = structlog.get_logger("deploy")


async def deploy(client: OllamaClient, settings: Settings) -> Release:
    """The release of `settings.model` on the client's node: created there, unless the node has it.

    Without a Modelfile, the release that the node holds already. Raises ConfigurationError for a Modelfile or
    GGUF that is missing or wrong and for another model under the same name; EngineError, StartupError when the
    node fails or its disk is full.
    """
    model, path = settings.model.name, settings.model.modelfile
    if path is None:
        return await _installed(client, model, settings.model.release)
    ledger = await asyncio.to_thread(Ledger.read, settings.data_dir)
    recipe = await _recipe(client, modelfiles.load(path), ledger)
    tag = release_tag(recipe, settings.model.release)
    name = f"{model}:{tag}"
    there = await _find(client, name)
    if there is None:
        digest = await _create(client, name, recipe.modelfile, path)
        _log.info("created", release=name, digest=digest)
    else:
        digest = str(there.get("digest"))
        await _refuse_another(client, name, there, recipe, ledger.recipe_of(digest))
    await asyncio.to_thread(ledger.record, digest, recipe.digest)
    return Release(model, tag, name, digest, await _traits(client, name, recipe.modelfile))


async def release_of(client: OllamaClient, settings: Settings) -> str | None:
    """What `deploy` would call the release; nothing is made. None without a Modelfile and a tag in the settings.

    Raises as `deploy` does.
    """
    model, path = settings.model.name, settings.model.modelfile
    if path is None:
        return f"{model}:{settings.model.release}" if settings.model.release else None
    ledger = await asyncio.to_thread(Ledger.read, settings.data_dir)
    return f"{model}:{release_tag(await _recipe(client, modelfiles.load(path), ledger), settings.model.release)}"


def check_model(settings: Settings) -> None:
    """Look at the Modelfile and its weights without an engine. Raises ConfigurationError where they are wrong."""
    if settings.model.modelfile is not None:
        weights = modelfiles.load(settings.model.modelfile).from_path
        if weights is not None and not weights.is_dir():
            read_metadata(weights)


async def _recipe(client: OllamaClient, modelfile: Modelfile, ledger: Ledger) -> Recipe:
    weights = modelfile.from_path
    adapters = [await asyncio.to_thread(ledger.sha256, Path(each)) for each in modelfile.adapters]
    if weights is None:
        source = await _find(client, modelfile.from_)
        if source is None:
            raise ModelMissing(
                f"The Modelfile builds on {modelfile.from_}, which the engine does not hold.",
                hint=f"Get it first: ollama pull {modelfile.from_}",
            )
        return Recipe(modelfile, str(source.get("digest")), tuple(adapters))
    if await asyncio.to_thread(weights.is_dir):
        raise ConfigurationError(f"FROM {weights} is a folder.", hint="Convert it to one GGUF file.")
    header = await asyncio.to_thread(read_metadata, weights)
    return Recipe(modelfile, await asyncio.to_thread(ledger.sha256, weights), tuple(adapters), header)


async def _create(client: OllamaClient, name: str, modelfile: Modelfile, path: Path) -> str:
    try:
        return await client.create(name, modelfile)
    except EngineError as error:
        if "no space left" in error.message.lower():
            raise StartupError(
                f"The engine's disk is full: {name} could not be written.",
                hint="Free some space where the engine keeps its models, then try again.",
            ) from None
        if isinstance(error, EngineRefused):
            raise ConfigurationError(f"The engine cannot make {name} of {path}: {error.message}") from None
        raise


async def _refuse_another(
    client: OllamaClient, name: str, there: dict[str, Any], recipe: Recipe, known: str | None
) -> None:
    """A release never changes: what stands under its name must be what we would make."""
    if known == recipe.digest:
        return
    found = differences(recipe, await client.show(name), there.get("size"))
    if known is not None and not found:
        found = ["weights or license"]
    if found:
        raise ConfigurationError(
            f"The engine already holds another {name}: its {' and '.join(found)} differ.",
            hint="A release never changes. Give the new one another tag (RAMSEY_MODEL__RELEASE, or the GGUF's "
            f"general.version), or delete the old one: ramsey models delete {name}",
        )


async def _installed(client: OllamaClient, model: str, tag: str | None) -> Release:
    """The one release of the model that the node holds, or the one of that tag."""
    releases = {str(each["name"]): each for each in await client.tags() if str(each["name"]).startswith(f"{model}:")}
    wanted = [f"{model}:{tag}"] if tag else sorted(releases)
    if not releases or wanted[0] not in releases:
        raise ModelMissing(
            f"The engine holds no {wanted[0] if wanted else model}.",
            hint="Name a Modelfile to deploy: RAMSEY_MODEL__MODELFILE=models/ollama/Modelfile.",
        )
    if len(wanted) > 1:
        raise ConfigurationError(
            f"The engine holds several releases of {model}: {', '.join(wanted)}.",
            hint=f"Say which to serve: RAMSEY_MODEL__RELEASE={wanted[-1].partition(':')[2]}.",
        )
    name = wanted[0]
    digest = str(releases[name].get("digest"))
    return Release(model, name.partition(":")[2], name, digest, await _traits(client, name))


async def _traits(client: OllamaClient, name: str, modelfile: Modelfile | None = None) -> Traits | None:
    """By the release's GGUF where we have it, else by what the node tells of it."""
    if modelfile is not None and modelfile.from_path is not None:
        header = await asyncio.to_thread(read_metadata, modelfile.from_path, long_arrays=True)
        return Traits.made_of(header, modelfile)
    try:
        shown = await client.show(name, verbose=True)
    except EngineError as error:
        _log.warning("the control tokens are not known; what looks like one is taken for one", reason=error.message)
        return None
    return Traits.shown(shown)


async def _find(client: OllamaClient, name: str) -> dict[str, Any] | None:
    """The row of a model in /api/tags."""
    wanted = (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()
    return next((each for each in await client.tags() if str(each.get("name")).lower() == wanted), None)
