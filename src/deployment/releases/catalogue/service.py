"""Use cases: releases are made, found, scored and given up. Each exists once and never changes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployment import modelfile as modelfiles
from deployment.access import LOCAL_OPERATOR, Act, Principal
from deployment.clock import Clock
from deployment.errors import ConfigurationError, Conflict, InvalidRequest, NotFound
from deployment.gguf import read_metadata
from deployment.modelfile import Modelfile
from deployment.releases.catalogue.artefacts import Artefacts
from deployment.releases.catalogue.model import (
    CatalogueEntry,
    checked_model,
    checked_notes,
    checked_version,
    portable,
    release_name,
)
from deployment.releases.catalogue.store import CatalogueStore
from deployment.releases.ledger import Ledger
from deployment.releases.model import Recipe, release_tag
from deployment.releases.traits import Traits
from deployment.settings import Settings

SETTINGS_ACTOR = replace(LOCAL_OPERATOR, id="settings", name="settings")
"""Who makes the release that the settings' Modelfile describes."""

_UNUSED_S = 86_400.0
"""An uploaded file that no release came of is removed after this long."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new release is to be called. `version` None: the one that its weights carry."""

    model: str
    version: str | None = None
    notes: str = ""
    again: bool = False
    """The very same release may be there already: its weights are given once more, where they are lost or corrupt."""


class Catalogue:
    """The releases that there are. Construction does no I/O."""

    def __init__(self, settings: Settings, store: CatalogueStore, artefacts: Artefacts, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self.artefacts = artefacts

    # --- made -------------------------------------------------------------------------------------------------

    async def create(
        self, path: Path, wish: Wish, actor: Principal, progress: Progress = lambda _: None
    ) -> CatalogueEntry:
        """Keep a release of the Modelfile at `path` and of the files that it names.

        Raises ConfigurationError for a Modelfile or GGUF that is missing or wrong, InvalidRequest for a name that
        must not be used, Conflict for a version that there is, DiskFull.
        """
        _check(wish)
        modelfile = await asyncio.to_thread(modelfiles.load, path)
        files = await asyncio.to_thread(_files_of, modelfile)
        if wish.version is not None and not wish.again:  # before gigabytes are copied
            await self._refuse_taken(f"{wish.model}:{wish.version}")
        digests = {
            str(file): await asyncio.to_thread(self.artefacts.keep, file, progress) for file in dict.fromkeys(files)
        }
        return await self._add(modelfile, digests, wish, actor)

    async def create_uploaded(
        self, text: str, files: Mapping[str, str], wish: Wish, actor: Principal
    ) -> CatalogueEntry:
        """As `create`, of a text; `files` are the SHA-256 of what FROM and ADAPTER name, uploaded before."""
        _check(wish)
        try:
            modelfile = modelfiles.parse(text)
            named = [modelfile.from_, *modelfile.adapters]
            await self._see_uploaded(named, files)
            return await self._add(modelfile, {name: files[name] for name in named}, wish, actor)
        except ConfigurationError as error:  # here it is the caller's
            raise InvalidRequest(error.message, hint=error.hint) from None

    async def adopt(self) -> CatalogueEntry | None:
        """The release that the settings' Modelfile describes, made where there is none yet.

        None where they name no file of weights. Raises as `create`, and ConfigurationError where another release
        has its name.
        """
        model, path = self._settings.model, self._settings.model.modelfile
        if path is None:
            return None
        modelfile = await asyncio.to_thread(modelfiles.load, path)
        if modelfile.from_path is None:
            return None
        recipe = await asyncio.to_thread(self._recipe_of_files, modelfile)
        name = f"{model.name}:{release_tag(recipe, model.release)}"
        found = await self._store.get(name)
        if found is not None and found.recipe_digest != recipe.digest:
            raise _another(found, recipe, model.modelfile)
        kept = [await asyncio.to_thread(self.artefacts.has, each) for each in (recipe.weights, *recipe.adapters)]
        if found is not None and found.deleted_at is None and all(kept):
            return found
        for file in await asyncio.to_thread(_files_of, modelfile):
            await asyncio.to_thread(self.artefacts.keep, file)
        return await self._put(recipe, name, "The settings' Modelfile.", SETTINGS_ACTOR, again=True)

    # --- found ------------------------------------------------------------------------------------------------

    async def list(self, model: str | None = None) -> list[CatalogueEntry]:
        """All releases, or one model's; the newest first."""
        return await self._store.list(model)

    async def get(self, name: str) -> CatalogueEntry:
        """One release, as `v1.1` or `ramsey-model:v1.1`. Raises NotFound that names those that there are."""
        full = release_name(name, self._settings.model.name)
        if (found := await self._store.get(full)) is not None:
            return found
        known = [entry.name for entry in await self._store.list() if entry.deleted_at is None]
        raise NotFound(
            f"There is no release {full}.",
            hint=f"There are: {', '.join(known[:8])}." if known else "Make one: ramsey release create MODELFILE.",
        )

    async def find(self, name: str) -> CatalogueEntry | None:
        """One release by its full name; None where it is not kept here."""
        return await self._store.get(name)

    async def traits(self, entry: CatalogueEntry) -> Traits:
        """How the release reads and answers."""
        header = await asyncio.to_thread(read_metadata, self.artefacts.path(entry.weights_sha256), long_arrays=True)
        return Traits.made_of(header, entry.modelfile)

    # --- learned ----------------------------------------------------------------------------------------------

    async def note_evaluation(self, name: str, scores: Mapping[str, Any], actor: Principal | None = None) -> None:
        """Keep the newest scores of a release; it is recorded where somebody asked for them."""
        if actor is None:
            await self._store.note_evaluation(name, scores)
            return
        after = {"right": scores["right"], "of": scores["of"]}
        await self._store.note_evaluation(name, scores, self._act(actor, "release.evaluate", name, after=after))

    async def note_distribution(self, name: str, nodes: Iterable[str], actor: Principal) -> None:
        """Somebody brings it onto these nodes."""
        await self._store.record(self._act(actor, "release.distribute", name, after={"nodes": sorted(nodes)}))

    async def learn_digest(self, name: str, digest: str, instead_of: str | None) -> str | None:
        """Note what nodes call it, unless another was noted since; what is noted now."""
        return await self._store.learn_digest(name, digest, instead_of)

    async def note_pruned(self, name: str, actor: Principal | None) -> None:
        """It went off every node; with None it may be on them again."""
        if actor is None:
            await self._store.note_pruned(name, None)
        else:
            await self._store.note_pruned(name, self._clock.now(), self._act(actor, "release.prune", name))

    async def give_up(self, name: str, actor: Principal) -> CatalogueEntry:
        """Delete its weights where no other release is made of them. Its version stays taken.

        The caller has seen to it that it has no traffic and is on no node.
        """
        entry = await self.get(name)
        before = {"recipe": entry.recipe_digest, "weights": entry.weights_sha256}
        act = self._act(actor, "release.delete", entry.name, before=before)
        await self._store.note_deleted(entry.name, self._clock.now(), act)
        await asyncio.to_thread(self._drop, entry.artefacts, await self._wanted())
        return await self.get(entry.name)

    async def sweep(self) -> int:
        """Remove uploaded files that no release is made of, a day old or older; how many."""
        before = self._clock.now().timestamp() - _UNUSED_S
        return len(await asyncio.to_thread(self.artefacts.sweep, await self._wanted(), before))

    # --- within -----------------------------------------------------------------------------------------------

    async def _see_uploaded(self, named: Iterable[str], files: Mapping[str, str]) -> None:
        for name in named:
            if name not in files:
                raise InvalidRequest(
                    f"The Modelfile names {name[:200]}, whose digest is not among the files.",
                    hint="Upload it first; a release is made of files, never of another model's name.",
                    param="files",
                )
            if not await asyncio.to_thread(self.artefacts.has, files[name]):
                raise NotFound(f"The file {files[name][:12]} ({name[:200]}) was not uploaded.", hint="Upload it first.")

    async def _add(
        self, modelfile: Modelfile, digests: Mapping[str, str], wish: Wish, actor: Principal
    ) -> CatalogueEntry:
        weights = digests[modelfile.from_]
        header = await asyncio.to_thread(read_metadata, self.artefacts.path(weights))
        recipe = Recipe(modelfile, weights, tuple(digests[each] for each in modelfile.adapters), header)
        tag = checked_version(release_tag(recipe, wish.version))
        return await self._put(recipe, f"{wish.model}:{tag}", wish.notes, actor, again=wish.again)

    async def _put(
        self, recipe: Recipe, name: str, notes: str, actor: Principal, *, again: bool = False
    ) -> CatalogueEntry:
        model, _, tag = name.rpartition(":")
        entry = CatalogueEntry(
            model=model,
            tag=tag,
            recipe_digest=recipe.digest,
            weights_sha256=recipe.weights,
            weights_bytes=recipe.header.size if recipe.header else 0,
            adapters=recipe.adapters,
            modelfile_text=portable(recipe),
            created_at=self._clock.now(),
            created_by=actor.name,
            notes=notes,
        )
        facts = {"recipe": entry.recipe_digest, "weights": entry.weights_sha256, "notes": notes}
        found = await self._store.add(self._act(actor, "release.create", name, after=facts), entry)
        if found is None:
            return entry
        same = found.recipe_digest == recipe.digest
        if same and found.deleted_at is not None:
            await self._store.note_deleted(name, None, self._act(actor, "release.restore", name))
        elif not (same and again):
            raise _taken(found)
        return await self.get(name)

    async def _refuse_taken(self, name: str) -> None:
        if (found := await self._store.get(name)) is not None and found.deleted_at is None:
            raise _taken(found)

    def _recipe_of_files(self, modelfile: Modelfile) -> Recipe:
        ledger = Ledger.read(self._settings.data_dir)
        files = _files_of(modelfile)
        weights, *adapters = (ledger.sha256(file) for file in files)
        ledger.save()
        return Recipe(modelfile, weights, tuple(adapters), read_metadata(files[0]))

    async def _wanted(self) -> set[str]:
        return {each for entry in await self._store.list() if entry.deleted_at is None for each in entry.artefacts}

    def _drop(self, artefacts: Iterable[str], wanted: set[str]) -> None:
        for each in set(artefacts) - wanted:
            self.artefacts.remove(each)

    def _act(self, actor: Principal, action: str, subject: str, **detail: Any) -> Act:
        return Act(self._clock.now(), actor, action, subject, detail)


def _check(wish: Wish) -> None:
    checked_model(wish.model)
    checked_notes(wish.notes)
    if wish.version is not None:
        checked_version(wish.version)


def _files_of(modelfile: Modelfile) -> list[Path]:
    """The weights and the adapters, looked at. Blocks; raises ConfigurationError where one is of no use."""
    weights = modelfile.from_path
    if weights is None:
        raise ConfigurationError(
            f"The Modelfile builds on {modelfile.from_}, a model on the engine: its weights cannot be kept.",
            hint="Name a GGUF file instead: FROM ./model.gguf.",
        )
    if weights.is_dir():
        raise ConfigurationError(f"FROM {weights} is a folder.", hint="Convert it to one GGUF file.")
    read_metadata(weights)
    return [weights, *map(Path, modelfile.adapters)]


def _taken(entry: CatalogueEntry) -> Conflict:
    gone = " and deleted since; only the very same release can come back under it" if entry.deleted_at else ""
    return Conflict(
        f"{entry.name} was created {entry.told}{gone}. A release never changes.",
        hint="Give the new one another version.",
    )


def _another(found: CatalogueEntry, recipe: Recipe, path: Path | None) -> ConfigurationError:
    made, text = found.modelfile, recipe.modelfile
    names = ("template", "system", "parameters", "messages", "license", "renderer", "parser", "requires")
    parts = ["weights"] if found.weights_sha256 != recipe.weights else []
    parts += [name for name in names if getattr(made, name) != getattr(text, name)]
    return ConfigurationError(
        f"{path} describes another {found.name} than the one created {found.told}: "
        f"its {' and '.join(parts) or 'adapters'} differ.",
        hint="A release never changes. Give the new one another tag (RAMSEY_MODEL__RELEASE, or the GGUF's "
        "general.version), or create it: ramsey release create MODELFILE --version v1.2.",
    )
