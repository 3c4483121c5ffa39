"""Avro: values of a Python type, or dicts by a schema, in Avro's binary form without a header."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

import msgspec

from streamflow.codecs.avro_bounds import SCHEMA_BYTES_MAX, Bounds, check_depth
from streamflow.codecs.avro_check import checker
from streamflow.codecs.avro_schema import schema_of
from streamflow.codecs.contract import Codec
from streamflow.codecs.models import is_model
from streamflow.codecs.registry import RegistryCodec, Schema, SchemaRegistry
from streamflow.codecs.shapes import type_name
from streamflow.errors import DefinitionError, MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")

AvroSchema = str | Mapping[str, Any] | Sequence[Any]
"""A schema as JSON text, or as what that text says."""

_BUILTIN: Final = (bytes, datetime.datetime, datetime.date, datetime.time, uuid.UUID, decimal.Decimal)
_REFUSED: Final = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, EOFError, RecursionError, MemoryError,
    struct.error,
)  # fmt: skip
"""What a reader and writer in C raise for data of another form, besides their own errors."""


class AvroCodec(Generic[T]):
    """Avro's binary form.

    GUARANTEE: only ValueError escapes for data that is damaged, too deep, or followed by more bytes. Nothing is
    written otherwise than it is (`avro_check`). BOUND: what is read is in proportion to its bytes (`avro_bounds`).

    Args:
        kind: Type of the values; dict, list and so on where it is Any.
        schema: What they are written by.
    """

    def __init__(self, kind: Any, schema: Any) -> None:
        self._avro = _fastavro()
        self.name = "avro"
        self.kind = kind
        self.schema = Schema("AVRO", json.dumps(schema))
        try:
            self._writer = _Parsed(self._avro, self.schema)
        except ValueError as error:
            raise DefinitionError(
                f"the Avro schema of {type_name(kind)} cannot be used: {error}",
                hint="See the Avro specification; names are letters, digits and _, and each type is defined once.",
            ) from None
        self._to_plain, self._from_plain = _conversions(kind)
        self._check = checker(self._writer.parsed, self._writer.named)
        self.decode: Callable[[bytes], T] = self._reader(self._writer)

    def encode(self, value: T, /) -> bytes:
        buffer = io.BytesIO()
        try:
            plain = self._to_plain(value)
            if self._check is not None:
                self._check(plain)
            self._avro.schemaless_writer(buffer, self._writer.parsed, plain, strict_allow_default=True)
        except _REFUSED as error:
            raise ValueError(f"{value!r:.80} does not fit its Avro schema: {error}") from error
        return buffer.getvalue()

    def reader(self, writer: Schema) -> Callable[[bytes], T]:
        """Returns a reader of what was written by another schema.

        Raises:
            ValueError: The schema cannot be used at all; whether data of it fits is told by the data.
        """
        if writer.kind != "AVRO":
            raise ValueError(f"it is a schema of {writer.kind}, not of AVRO")
        return self._reader(_Parsed(self._avro, writer))

    def prefix(self) -> bytes:
        """Nothing stands between the schema's id and the data."""
        return b""

    def _reader(self, writer: _Parsed) -> Callable[[bytes], T]:
        avro, check, convert = self._avro, writer.bounds.check, self._from_plain
        read, written, wanted = avro.schemaless_reader, writer.parsed, self._writer.parsed
        if writer is self._writer:
            wanted = None
        refused = (*_REFUSED, avro._read_common.SchemaResolutionError)

        def decode(data: bytes) -> T:
            buffer = io.BytesIO(data)
            try:
                check(data)
                plain = read(buffer, written, wanted)
                if buffer.tell() != len(data):
                    raise ValueError(f"{len(data) - buffer.tell()} bytes follow the record")
                return cast("T", convert(plain))
            except refused as error:
                raise ValueError(f"not an Avro {type_name(self.kind)}: {error or type(error).__name__}") from error

        return decode


class _Parsed:
    """A schema that is fit to read and write by."""

    def __init__(self, avro: Any, schema: Schema) -> None:
        self.named: dict[str, Any] = {}
        try:
            for text in (*schema.references.values(), schema.text):
                if len(text) > SCHEMA_BYTES_MAX:
                    raise ValueError(f"a schema of {len(text)} bytes is larger than {SCHEMA_BYTES_MAX}")
                plain = json.loads(text)
                check_depth(plain)
                self.parsed = avro.parse_schema(plain, named_schemas=self.named)
        except avro.schema.UnknownType as error:
            raise ValueError(f"it refers to {error}, which is defined nowhere") from None
        except (*_REFUSED, avro.schema.SchemaParseException) as error:
            raise ValueError(str(error) or type(error).__name__) from None
        self.bounds = Bounds(self.parsed, self.named)


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError:
        raise MissingExtraError(
            "Avro needs fastavro, which is not installed", hint="pip install streamflow-asyncio[avro]"
        ) from None
    module: ModuleType = fastavro
    return module


def _conversions(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How values of a type become what Avro's library takes, and come back."""
    if kind is Any or kind is dict:
        return _as_it_is, _as_it_is
    if is_model(kind):
        validator, serializer = kind.__pydantic_validator__, kind.__pydantic_serializer__
        return (lambda value: serializer.to_python(value, by_alias=True, warnings="error")), validator.validate_python

    def to_plain(value: Any) -> Any:
        return msgspec.to_builtins(value, builtin_types=_BUILTIN)

    def from_plain(plain: Any) -> Any:
        return msgspec.convert(plain, kind, builtin_types=_BUILTIN)

    return to_plain, from_plain


def _as_it_is(value: Any) -> Any:
    return value


@overload
def avro(
    kind: type[T],
    *,
    schema: AvroSchema | None = None,
    registry: SchemaRegistry | None = None,
    subject: str | None = None,
    register: bool = True,
    namespace: str = "",
) -> Codec[T]: ...
@overload
def avro(
    kind: AvroSchema,
    *,
    registry: SchemaRegistry | None = None,
    subject: str | None = None,
    register: bool = True,
) -> Codec[Any]: ...


def avro(
    kind: Any,
    *,
    schema: AvroSchema | None = None,
    registry: SchemaRegistry | None = None,
    subject: str | None = None,
    register: bool = True,
    namespace: str = "",
) -> Codec[Any]:
    """Avro of a type, or of dicts by a schema: ``kafka.topic("orders", value=sf.avro(Order))``.

    Args:
        kind: A dataclass, msgspec Struct, TypedDict, pydantic model or plain type; or a schema, then values are dicts.
        schema: The schema to use for a type, instead of one that is made from it. A pydantic model needs one.
        registry: Write and read the wire format of a schema registry: each record names its schema, and what was
            written by another one is resolved to this one.
        subject: What the schema is called in the registry; default is ``<topic>-value``.
        register: Whether a schema that the registry does not know is registered; else it must be there.
        namespace: Namespace of the types in a schema that is made from a type.

    Raises:
        DefinitionError: The type has no schema, or the schema cannot be used.
        MissingExtraError: fastavro is not installed.
    """
    if isinstance(kind, str | Mapping | list):
        kind, schema = Any, cast("AvroSchema", kind)
    if schema is None:
        schema = schema_of(kind, namespace)
    elif isinstance(schema, str):
        schema = _from_text(schema)
    codec = AvroCodec[Any](kind, schema)
    return codec if registry is None else RegistryCodec(codec, registry, subject, register=register)


def _from_text(schema: str) -> Any:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        if schema.isidentifier():
            return schema
        raise DefinitionError(
            f"the Avro schema is no JSON: {error}", hint='Pass JSON text, a dict, or a plain name such as "string".'
        ) from None
