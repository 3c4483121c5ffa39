"""Schema registries: each record names the schema it was written by, and the codec looks that up ahead of decoding.

The wire format is Confluent's: a zero byte, the schema's id in four bytes, what the form of the schema adds, the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from streamflow.codecs.contract import Codec
from streamflow.errors import DefinitionError, NotFound

T = TypeVar("T")

HEAD_BYTES: Final = 5
SCHEMAS_MAX: Final = 4096
"""Most ids that a codec remembers; beyond it the oldest are looked up again."""
UNKNOWN_SECONDS: Final = 10.0
"""How long an id counts as unknown before the registry is asked again."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema as a registry holds it.

    Args:
        kind: ``AVRO``, ``PROTOBUF`` or ``JSON``.
        text: The schema itself.
        references: Texts of the schemas that it refers to, by name, each behind those that it refers to itself.
    """

    kind: str
    text: str
    references: Mapping[str, str] = field(default_factory=dict)


class SchemaRegistry(Protocol):
    """What a codec asks of a registry; both may take their time, on the running loop.

    Raise `Unavailable` for what may work again later.
    """

    async def schema(self, id: int) -> Schema:
        """Returns a schema with what it refers to.

        Raises:
            NotFound: There is none of that id, or it cannot be used.
        """
        ...

    async def id_of(self, subject: str, schema: Schema, *, register: bool) -> int:
        """Returns the id of a schema under a subject, registering it if that is allowed and it is not there.

        Raises:
            NotFound: It is not there, and must not be registered.
            DefinitionError: The registry refuses it, being incompatible or invalid.
        """
        ...


class Form(Protocol[T]):
    """A codec whose values have schemas, such as Avro."""

    name: str
    kind: Any

    @property
    def schema(self) -> Schema: ...

    def encode(self, value: T, /) -> bytes: ...

    def decode(self, data: bytes, /) -> T: ...

    def prefix(self) -> bytes:
        """What stands between the schema's id and the data."""
        ...

    def reader(self, writer: Schema) -> Callable[[bytes], T]:
        """Returns a decoder of what stands behind the id of that schema; raises ValueError if that cannot be."""
        ...


class RegistryCodec(Generic[T]):
    """A codec of the registry's wire format.

    GUARANTEE: never waits in `encode` and `decode`; ids are looked up in `prepare_decoding` and `prepare_encoding`.
    BOUND: remembers ``SCHEMAS_MAX`` schemas.

    Args:
        form: Encodes and decodes what stands behind the id.
        registry: Where schemas are.
        subject: What its own schema is called there; default is the topic's name and ``-value``.
        register: Whether its own schema is registered if it is not there.
    """

    def __init__(self, form: Form[T], registry: SchemaRegistry, subject: str | None, *, register: bool) -> None:
        self.name = f"{form.name} by registry"
        self.kind = form.kind
        self._form = form
        self._registry = registry
        self._subject = subject
        self._register = register
        self._head = b""
        self._subjects: set[str] = set()
        self._readers: dict[bytes, Callable[[bytes], T]] = {}
        self._unknown: dict[bytes, tuple[float, str]] = {}

    @property
    def unprepared(self) -> Codec[T]:
        """The same values without the registry."""
        return self._form

    def encode(self, value: T, /) -> bytes:
        if not self._head:
            raise ValueError("the id of its schema has not been looked up; a flow does that before its first record")
        return self._head + self._form.encode(value)

    def decode(self, data: bytes, /) -> T:
        reader = self._readers.get(data[1:HEAD_BYTES])
        if reader is None or data[0]:
            raise ValueError(self._why_not(data))
        return reader(data[HEAD_BYTES:])

    async def prepare_decoding(self, payloads: Sequence[bytes | None]) -> None:
        """Looks up the schemas that these payloads name and that are not known."""
        new = {data[1:HEAD_BYTES] for data in payloads if data} - self._readers.keys()
        if new:
            # what has no zero in front names no schema
            named = {data[1:HEAD_BYTES] for data in payloads if data and not data[0] and len(data) >= HEAD_BYTES}
            for id in sorted(new & named):
                await self._look_up(id)

    async def prepare_encoding(self, name: str) -> None:
        """Looks up or registers its own schema."""
        subject = self._subject or f"{name}-value"
        if subject in self._subjects:
            return
        id = await self._registry.id_of(subject, self._form.schema, register=self._register)
        head = b"\0" + id.to_bytes(4, "big") + self._form.prefix()
        if self._head and head != self._head:
            raise DefinitionError(
                f"one codec writes for {sorted(self._subjects)[0]} and {subject}, where its schema has different ids",
                hint="Make one codec for each topic.",
            )
        self._head = head
        self._subjects.add(subject)
        # what it writes itself it can read at once
        self._readers.setdefault(head[1:HEAD_BYTES], self._form.reader(self._form.schema))

    async def _look_up(self, id: bytes) -> None:
        since, _ = self._unknown.get(id, (float("-inf"), ""))
        if time.monotonic() - since < UNKNOWN_SECONDS:
            return
        try:
            reader = self._form.reader(await self._registry.schema(int.from_bytes(id, "big")))
        except (NotFound, ValueError) as error:
            _make_room(self._unknown)
            self._unknown[id] = (time.monotonic(), str(error))
            return
        self._unknown.pop(id, None)
        _make_room(self._readers)
        self._readers[id] = reader

    def _why_not(self, data: bytes) -> str:
        if len(data) < HEAD_BYTES or data[0]:
            return "it does not begin with a zero byte and the id of a schema"
        id = data[1:HEAD_BYTES]
        number = int.from_bytes(id, "big")
        if id in self._unknown:
            return f"its schema {number} cannot be had: {self._unknown[id][1]}"
        return f"its schema {number} has not been looked up"


def _make_room(remembered: dict[bytes, Any]) -> None:
    while len(remembered) >= SCHEMAS_MAX:
        del remembered[next(iter(remembered))]


class MemorySchemaRegistry:
    """A registry in memory, for tests and first steps: any schema fits any subject."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Schema] = {}
        self._subjects: dict[str, set[int]] = {}

    async def schema(self, id: int) -> Schema:
        """Returns a schema."""
        if id not in self._schemas:
            raise NotFound(f"no schema has id {id}")
        return self._schemas[id]

    async def id_of(self, subject: str, schema: Schema, *, register: bool) -> int:
        """Returns a schema's id under a subject."""
        known = self._ids.get((schema.kind, schema.text))
        if known not in self._subjects.get(subject, ()) and not register:
            raise NotFound(f"subject {subject} has no such schema")
        id = self._ids.setdefault((schema.kind, schema.text), len(self._ids) + 1)
        self._schemas[id] = schema
        self._subjects.setdefault(subject, set()).add(id)
        return id
