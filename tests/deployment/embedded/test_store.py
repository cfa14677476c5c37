"""The store on disk: Ollama's layout, atomic writes, blob accounting."""

import errno
import hashlib
import json
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from deployment.embedded import store as store_module
from deployment.embedded.names import parse_name
from deployment.embedded.store import CONFIG_TYPE, LAYER_TYPE, Manifest, Store, parse_digest
from deployment.errors import InvalidRequest, RamseyError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path)
    opened.open()
    return opened


def install(store: Store, name: str, weights: bytes = b"weights", system: bytes = b"Be brief.") -> Manifest:
    config, _ = store.put(b"{}", CONFIG_TYPE)
    layers = [store.put(weights, LAYER_TYPE + "model")[0], store.put(system, LAYER_TYPE + "system")[0]]
    return store.write(parse_name(name), config, layers)


def blobs(store: Store) -> set[str]:
    return {path.name for path in (store.root / "blobs").iterdir()}


def test_the_layout_is_ollamas(store: Store) -> None:
    manifest = install(store, "acme/bot:v1")
    path = store.root / "manifests/registry.ollama.ai/acme/bot/v1"
    content = path.read_bytes()
    assert manifest.digest == hashlib.sha256(content).hexdigest()
    data = json.loads(content)
    assert data["schemaVersion"] == 2
    assert data["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert data["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert data["layers"][0] == {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{hashlib.sha256(b'weights').hexdigest()}",
        "size": 7,
    }
    assert f"sha256-{hashlib.sha256(b'weights').hexdigest()}" in blobs(store)
    assert manifest.size == len(b"{}" + b"weights" + b"Be brief.")


def test_another_process_finds_the_same(store: Store) -> None:
    written = install(store, "bot:v1")
    again = Store(store.root)
    again.open()
    assert again.all() == [written]


def test_letter_case(store: Store) -> None:
    install(store, "Bot:v1")
    assert str((store.find(parse_name("bot:V1")) or pytest.fail("not found")).name) == "Bot:v1"
    install(store, "bot:v1", system=b"Be kind.")
    assert [str(each.name) for each in store.all()] == ["Bot:v1"]


def test_delete_keeps_what_others_use(store: Store) -> None:
    first = install(store, "bot:v1", system=b"one")
    second = install(store, "bot:v2", system=b"two")
    store.delete(first)
    assert blobs(store) == {digest.replace(":", "-") for digest in second.digests}
    store.delete(second)
    assert blobs(store) == set()
    assert list((store.root / "manifests").iterdir()) == []


def test_a_replaced_model_frees_its_blobs(store: Store) -> None:
    install(store, "bot:v1", weights=b"old")
    new = install(store, "bot:v1", weights=b"new")
    assert blobs(store) == {digest.replace(":", "-") for digest in new.digests}


def test_a_copy_is_the_same_manifest(store: Store) -> None:
    first = install(store, "bot:v1")
    copied = store.copy(first, parse_name("bot:prod"))
    assert copied.digest == first.digest
    store.delete(first)
    assert store.has_blob(copied.layers[0].digest)


def test_broken_and_stray_manifests_are_no_models(store: Store) -> None:
    manifest = install(store, "bot:v1")
    folder = store.root / "manifests/registry.ollama.ai/library/bot"
    for name, content in (("empty", ""), ("odd", "[1]"), ("half", (folder / "v1").read_text()[:50])):
        (folder / name).write_text(content)
    hostile = json.loads((folder / "v1").read_text())
    hostile["layers"][0]["digest"] = "sha256:../../../etc/passwd"
    (folder / "hostile").write_text(json.dumps(hostile))
    assert store.all() == [manifest]
    assert store.find(parse_name("bot:half")) is None


def test_a_changed_manifest_is_read_again(store: Store) -> None:
    old = install(store, "bot:v1")
    Store(store.root).write(parse_name("bot:v1"), old.config, list(old.layers[:1]))
    assert len((store.find(parse_name("bot:v1")) or pytest.fail("not found")).layers) == 1


def test_a_reader_never_sees_half_a_manifest(store: Store) -> None:
    """Written over and over while it is read with a fresh eye."""
    first = install(store, "bot:v1", system=b"one")
    versions = [(first.config, list(first.layers)), (first.config, list(first.layers[:1]))]
    path = store.root / "manifests/registry.ollama.ai/library/bot/v1"
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for config, layers in versions:
                store.write(parse_name("bot:v1"), config, layers)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            assert len(json.loads(path.read_bytes())["layers"]) in (1, 2)
    finally:
        stop.set()
        writer.join()


def test_a_crash_before_the_rename_leaves_the_old_model(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = install(store, "bot:v1", system=b"one")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.write(old.name, old.config, list(old.layers[:1]))
    again = Store(store.root)
    again.open()
    assert again.all() == [old]
    assert list((store.root / ".ramsey").iterdir()) == []


def test_a_full_disk_leaves_nothing_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "_to_disk", full)
    with pytest.raises(RamseyError, match="no space left on device"):
        store.put(b"content", CONFIG_TYPE)
    assert blobs(store) == set()
    assert list((store.root / ".ramsey").iterdir()) == []


def test_what_a_crash_left_is_cleared_at_open(store: Store) -> None:
    (store.root / ".ramsey" / "tmpabc").write_bytes(b"half")
    store.open()
    assert list((store.root / ".ramsey").iterdir()) == []


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 64, "../x"])
def test_no_digests(text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid digest format"):
        parse_digest(text)


def test_both_spellings_of_a_digest() -> None:
    assert parse_digest("sha256-" + "a" * 64) == parse_digest("sha256:" + "a" * 64) == "sha256:" + "a" * 64
