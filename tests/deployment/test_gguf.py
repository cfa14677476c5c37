"""Reading GGUF headers: the real model, and files that are broken in every way that we know."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment.errors import ConfigurationError
from deployment.gguf import GgufHeader, read_metadata
from deployment.releases.tokens import control_tokens

MODEL = Path("models/ollama/ramsey-model-v1.1.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    pairs: list[bytes] | None = None, tensors: list[bytes] | None = None, data: bytes = b"", version: int = 3
) -> bytes:
    pairs = [pair("general.architecture", 8, text("llama"))] if pairs is None else pairs
    tensors = tensors or []
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + b"\0" * (-len(head) % 32) + data


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def test_the_real_model() -> None:
    header = read_metadata(MODEL)
    assert header.architecture == "llama"
    assert header.version == "v1.1"
    assert header.file_type_name == "F16"
    assert header.context_length == 512
    assert header.embedding_length == 192
    assert 1_800_000 < header.parameter_count < 1_850_000
    assert header.array_lengths["tokenizer.ggml.tokens"] == 1280
    assert header.metadata["tokenizer.ggml.tokens"] is None
    assert "<|im_start|>" in (header.chat_template or "")
    by_name = {each.name: each for each in header.tensors}
    assert by_name["token_embd.weight"].shape == (192, 1280)
    assert by_name["token_embd.weight"].type_name == "F16"


def test_long_arrays_on_demand() -> None:
    header = read_metadata(MODEL, long_arrays=True)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 1280


def test_every_kind_of_value(tmp_path: Path) -> None:
    pairs = [
        pair("general.architecture", 8, text("llama")),
        pair("a.u8", 0, b"\x07"),
        pair("a.i16", 3, struct.pack("<h", -5)),
        pair("a.f32", 6, struct.pack("<f", 0.5)),
        pair("a.bool", 7, b"\x01"),
        pair("a.f64", 12, struct.pack("<d", 0.25)),
        pair("a.list", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
        pair("a.flags", 9, struct.pack("<IQ2B", 7, 2, 1, 0)),
        pair("a.words", 9, struct.pack("<IQ", 8, 2) + text("ein") + text("zwei")),
    ]
    metadata = read_metadata(written(tmp_path, gguf(pairs))).metadata
    assert metadata["a.u8"] == 7
    assert metadata["a.i16"] == -5
    assert metadata["a.f32"] == 0.5
    assert metadata["a.bool"] is True
    assert metadata["a.f64"] == 0.25
    assert metadata["a.list"] == [1, -2, 3]
    assert metadata["a.flags"] == [True, False]
    assert metadata["a.words"] == ["ein", "zwei"]


def test_an_unset_file_type_is_unknown_and_zero_is_f32(tmp_path: Path) -> None:
    assert read_metadata(written(tmp_path, gguf())).file_type_name == "unknown"
    pairs = [
        pair("general.architecture", 8, text("llama")),
        pair("general.file_type", 4, struct.pack("<I", 0)),
    ]
    assert read_metadata(written(tmp_path, gguf(pairs))).file_type_name == "F32"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends inside"),
        (b"PK\x03\x04 a zip file", "does not begin with GGUF"),
        (gguf(version=1), "version is 1"),
        (gguf(pairs=[]), "general.architecture is missing"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "more than the file can hold"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + b"\0" * 64, "claims"),
        (gguf([pair("general.architecture", 99, b"\0" * 8)]), "type 99"),
        (gguf([pair("x", 9, struct.pack("<IQ", 4, 1 << 40))]), "ends inside the array x"),
        (gguf([pair("x", 9, struct.pack("<IQ", 9, 1))]), "element type 9"),
        (gguf(tensors=[tensor("w", (32, 2))], data=b"\0" * 100), "it was cut"),
        (gguf(tensors=[tensor("w", (33,), kind=8)], data=b"\0" * 100), "no multiple"),
        (gguf(tensors=[tensor("w", (1, 1, 1, 1, 1))], data=b"\0" * 4), "5 dimensions"),
        (
            gguf(
                [
                    pair("general.architecture", 8, text("llama")),
                    pair("general.alignment", 4, struct.pack("<I", 0)),
                ]
            ),
            "alignment is 0",
        ),
    ],
)
def test_a_corrupt_file_says_what_is_wrong(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        read_metadata(written(tmp_path, content))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "model.gguf"
    os.mkfifo(pipe)
    # With a reader and a writer already there, opening it does not block: it fails then for another reason.
    keeper = os.open(pipe, os.O_RDWR)
    try:
        with pytest.raises(ConfigurationError, match=r"model\.gguf: it is no file"):
            read_metadata(pipe)
    finally:
        os.close(keeper)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot read .*nowhere\.gguf: No such file"):
        read_metadata(tmp_path / "nowhere.gguf")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=MODEL.stat().st_size - 1))
def test_a_model_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    path.write_bytes(MODEL.read_bytes()[:cut])
    with pytest.raises(ConfigurationError):
        read_metadata(path)


HEADER_BYTES = 64 * 1024


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, HEADER_BYTES), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_a_model_with_other_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(MODEL.read_bytes())
    for at, other in changes:
        content[at : at + len(other)] = other
    path = tmp_path_factory.mktemp("changed") / "model.gguf"
    path.write_bytes(content)
    try:
        header = read_metadata(path, long_arrays=True)
    except ConfigurationError:
        return
    _told(header)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([2, 3]), st.integers(0, 3), st.integers(0, 6))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, version: int, tensors: int, pairs: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.gguf"
    architecture = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + architecture + rest)
    try:
        _told(read_metadata(path, long_arrays=True))
    except ConfigurationError as error:
        assert "is no usable GGUF" in error.message  # noqa: PT017 - it may be refused or not


def _told(header: GgufHeader) -> None:
    """Everything that is read of a header."""
    assert isinstance(header.architecture, str)
    for value in (header.name, header.version, header.chat_template):
        assert value is None or isinstance(value, str)
    for number in (header.context_length, header.embedding_length):
        assert number is None or isinstance(number, int)
    assert header.parameter_count >= 0
    assert header.file_type_name
    control_tokens(header.metadata, header.chat_template)
