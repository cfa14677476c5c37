"""Read the header of a GGUF file: what the model is, without loading it.

The format (v2, v3, little-endian): magic, version, counts, key-value pairs, tensor descriptions, padding,
tensor data. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Every length is checked against what is left of the file before it is read, so a corrupt or hostile file costs
no more memory than its own size and gives a ConfigurationError that says what is wrong.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from deployment.errors import ConfigurationError

MAGIC = b"GGUF"
# Longer arrays (vocabulary, merges) are dropped unless asked for; their lengths are kept.
SHORT_ARRAY = 64
_MAX_KEY_BYTES = 65_535
_MAX_STRING_BYTES = 16 * 1024 * 1024
_MAX_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

# ggml's tensor types: id -> (name, elements in a block, bytes in a block).
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# llama.cpp's file types (`general.file_type`): what most of the weights are.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor's description. `shape` is in ggml's order: the innermost dimension first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about its model.

    `metadata` holds every key; an array that was dropped for its length is None there, and
    `array_lengths` has the length of every array.
    """

    format_version: int
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    array_lengths: Mapping[str, int]
    size: int

    @property
    def architecture(self) -> str:
        """The model's architecture, for instance `llama`."""
        return str(self.metadata["general.architecture"])

    @property
    def name(self) -> str | None:
        """The model's own name, where it has one."""
        return self._text("general.name")

    @property
    def version(self) -> str | None:
        """The model's own version (`general.version`), where it has one."""
        return self._text("general.version")

    @property
    def chat_template(self) -> str | None:
        """The jinja chat template, where it has one."""
        return self._text("tokenizer.chat_template")

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was trained for."""
        return self._number(f"{self.architecture}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the model, and of its embeddings."""
        return self._number(f"{self.architecture}.embedding_length")

    @cached_property
    def parameter_count(self) -> int:
        """How many weights the model has."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def file_type_name(self) -> str:
        """What most of the weights are stored as: F16, Q8_0, Q4_K_M; `unknown` where the file doesn't say."""
        return _FILE_TYPES.get(self._number("general.file_type", -1) or 0, "unknown")

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None

    def _number(self, key: str, default: int | None = None) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else default


def read_metadata(path: Path, *, long_arrays: bool = False) -> GgufHeader:
    """Read the header of the GGUF at `path`.

    `long_arrays` also keeps arrays of more than `SHORT_ARRAY` elements. Raises ConfigurationError when the
    file is missing, is no GGUF, is cut short or contradicts itself.
    """
    try:
        # To open a pipe would wait for its writer, for ever.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigurationError(f"Cannot read {path}: it is no file.", hint="Name a GGUF file.")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _Reader(file, size, path.name, long_arrays).read()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror or error}.") from error


class _Reader:
    """Reads one file from its beginning; knows how much is left."""

    def __init__(self, file: BinaryIO, size: int, name: str, long_arrays: bool) -> None:
        self._file = file
        self._size = size
        self._left = size
        self._name = name
        self._long_arrays = long_arrays

    def read(self) -> GgufHeader:
        if self._take(4, "its magic number") != MAGIC:
            raise self._error("it does not begin with GGUF", "Convert the model with llama.cpp's converter.")
        version = self._number("I")
        if version not in (2, 3):
            raise self._error(f"its GGUF version is {version}; 2 and 3 are known")
        tensor_count, pair_count = self._number("Q"), self._number("Q")
        # A pair takes at least 13 bytes, a tensor 24: a count beyond that is nonsense.
        if pair_count * 13 + tensor_count * 24 > self._left:
            raise self._error(f"it claims {pair_count} keys and {tensor_count} tensors, more than the file can hold")
        lengths: dict[str, int] = {}
        metadata = dict(self._pair(lengths) for _ in range(pair_count))
        if not isinstance(metadata.get("general.architecture"), str):
            raise self._error("general.architecture is missing")
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        self._check_data(metadata.get("general.alignment", 32), tensors)
        return GgufHeader(version, metadata, tensors, lengths, self._size)

    def _pair(self, lengths: dict[str, int]) -> tuple[str, Any]:
        key = self._string(_MAX_KEY_BYTES)
        kind = self._number("I")
        if kind != _ARRAY:
            return key, self._value(kind)
        element, count = self._number("I"), self._number("Q")
        lengths[key] = count
        keep = self._long_arrays or count <= SHORT_ARRAY
        return key, self._array(key, element, count, keep)

    def _array(self, key: str, kind: int, count: int, keep: bool) -> list[Any] | None:
        if kind == _STRING:
            if count * 8 > self._left:
                raise self._error(f"the array {key} is cut")
            if keep:
                return [self._string() for _ in range(count)]
            self._skip_strings(count)
            return None
        if kind not in _SCALARS:
            raise self._error(f"the array {key} has the element type {kind}, which is not supported")
        code = _SCALARS[kind]
        data = self._take(count * struct.calcsize(code), f"the array {key}")
        if not keep:
            return None
        numbers = list(struct.unpack(f"<{count}{code}", data))
        return [bool(number) for number in numbers] if kind == _BOOL else numbers

    def _skip_strings(self, count: int) -> None:
        for _ in range(count):
            self._take(self._string_length(_MAX_STRING_BYTES), "a string")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind not in _SCALARS:
            raise self._error(f"a value has the type {kind}, which does not exist")
        value = self._number(_SCALARS[kind])
        return bool(value) if kind == _BOOL else value

    def _tensor(self) -> Tensor:
        name = self._string(_MAX_KEY_BYTES)
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"the tensor {name} has {dimensions} dimensions; 1 to 4 are possible")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        kind = self._number("I")
        type_name = _TENSOR_TYPES[kind][0] if kind in _TENSOR_TYPES else f"type {kind}"
        return Tensor(name, shape, type_name, self._number("Q"))

    def _check_data(self, alignment: Any, tensors: tuple[Tensor, ...]) -> None:
        """The weights must lie inside the file: a download that was cut is found here."""
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._error(f"its alignment is {alignment!r}; a multiple of 8 is needed")
        begin = -(-(self._size - self._left) // alignment) * alignment
        blocks = {name: (elements, size) for name, elements, size in _TENSOR_TYPES.values()}
        for tensor in tensors:
            elements, block_bytes = blocks.get(tensor.type_name, (1, 0))
            if tensor.shape[0] % elements:
                raise self._error(
                    f"the rows of {tensor.name} are no multiple of {tensor.type_name}'s {elements} elements"
                )
            end = begin + tensor.offset + tensor.elements // elements * block_bytes
            if end > self._size:
                raise self._error(f"the tensor {tensor.name} ends at byte {end}, the file at {self._size}: it was cut")

    def _number(self, code: str) -> Any:
        data = self._take(struct.calcsize("<" + code), "its header")
        return struct.unpack("<" + code, data)[0]

    def _string_length(self, limit: int) -> int:
        length: int = self._number("Q")
        if length > limit:
            raise self._error(f"a string claims {length} bytes")
        return length

    def _string(self, limit: int = _MAX_STRING_BYTES) -> str:
        return self._take(self._string_length(limit), "a string").decode("utf-8", errors="replace")

    def _take(self, length: int, what: str) -> bytes:
        if length > self._left:
            raise self._error(f"it ends inside {what}")
        data = self._file.read(length)
        if len(data) != length:
            raise self._error(f"it ends inside {what}")
        self._left -= length
        return data

    def _error(self, reason: str, hint: str = "Export or copy the file again.") -> ConfigurationError:
        return ConfigurationError(f"{self._name} is no usable GGUF: {reason}.", hint=hint)
