"""The client of a schema registry: Confluent's HTTP interface, which others speak too, over the running event loop."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Any, Final, NoReturn, cast
from urllib.parse import quote, urlsplit

from streamflow.clock import Duration, duration_ms
from streamflow.codecs import Schema
from streamflow.connect.secret import Secret, as_secret, redact
from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, DefinitionError, NotFound, SettingsError, Unavailable

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
REFERENCES_MAX: Final = 64
"""Most schemas that one may refer to, directly or not."""
WAITS_SECONDS: Final = (0.2, 0.5)
"""Waits before a request is sent again; after the last the registry counts as unavailable."""
_INCOMPATIBLE: Final = 409
_INVALID: Final = (42201, 42202, 422)


class HttpSchemaRegistry:
    """A schema registry at a URL.

    GUARANTEE: binds no loop and does no I/O until a flow asks; credentials never show. BOUND: an answer has at most
    4 MiB, a request is sent at most three times, each ends after ``timeout``.

    Args:
        url: Where it is, e.g. ``https://registry:8081``; a path is kept.
        user: Name for HTTP basic authentication.
        password: The password or token to that name.
        tls: Certificates, where the system's do not do; for ``https`` URLs.
        timeout: Longest time of one request.

    Raises:
        SettingsError: The URL is none of HTTP, or holds a password.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str | Secret = "",
        tls: Tls | None = None,
        timeout: Duration = "10s",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"{redact(url)} is no URL of a schema registry", hint="Write https://host:8081.")
        if parts.username is not None or parts.query or parts.fragment:
            raise SettingsError(
                f"the URL {redact(url)} holds more than host and path", hint="Pass user= and password= instead."
            )
        if tls is not None and parts.scheme == "http":
            raise SettingsError(f"tls= is given for {url}, which does not use it", hint="Write https://.")
        self.url = url.rstrip("/")
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._address, self._path = parts.netloc, parts.path.rstrip("/")
        self._user, self._password = user, as_secret(password)
        self._tls = tls or Tls()
        self._timeout_seconds = duration_ms(timeout) / 1000
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"HttpSchemaRegistry({self.url!r})"

    async def schema(self, id: int) -> Schema:
        """Returns a schema with what it refers to.

        Raises:
            NotFound: There is none of that id.
            Unavailable: The registry does not answer.
        """
        found = await self._found("GET", f"/schemas/ids/{id}")
        references: dict[str, str] = {}
        try:
            await self._collect(found.get("references"), references, set())
        except (AttributeError, TypeError):
            raise NotFound(f"{self.url} gives schema {id} with references that are none") from None
        return Schema(str(found.get("schemaType") or "AVRO"), _text(found), references)

    async def id_of(self, subject: str, schema: Schema, *, register: bool) -> int:
        """Returns the id of a schema under a subject.

        Raises:
            NotFound: It is not there, and ``register`` is not set.
            DefinitionError: The registry refuses it.
            Unavailable: The registry does not answer.
        """
        path = f"/subjects/{quote(subject, safe='')}"
        wanted = (
            {"schema": schema.text} if schema.kind == "AVRO" else {"schema": schema.text, "schemaType": schema.kind}
        )
        try:
            found = await self._found("POST", path, wanted)
        except NotFound:
            if not register:
                raise NotFound(
                    f"subject {subject} of {self.url} has no such {schema.kind} schema",
                    hint="Register it, or let the codec do so: register=True.",
                ) from None
            found = await self._registered(path, wanted, subject)
        id = found.get("id")
        if not isinstance(id, int) or not 0 <= id < 1 << 32:
            raise Unavailable(f"{self.url} gave no id for subject {subject}, but {id!r:.40}")
        return id

    async def _registered(self, path: str, wanted: Mapping[str, Any], subject: str) -> dict[str, Any]:
        """Registers a schema.

        Where two do so at the same time, Apicurio tells the later one of a conflict, so that is looked into once more.
        """
        try:
            return await self._found("POST", f"{path}/versions", wanted, subject)
        except DefinitionError:
            await asyncio.sleep(WAITS_SECONDS[0])
            try:
                return await self._found("POST", path, wanted)
            except NotFound:
                return await self._found("POST", f"{path}/versions", wanted, subject)

    async def _collect(self, references: Any, found: dict[str, str], seen: set[str]) -> None:
        """Reads the schemas that one refers to, those first that they refer to themselves."""
        for reference in references or ():
            name, subject, version = (str(reference.get(part)) for part in ("name", "subject", "version"))
            if name in seen:
                continue
            seen.add(name)
            if len(seen) > REFERENCES_MAX:
                raise NotFound(f"a schema of {self.url} refers to more than {REFERENCES_MAX} others")
            subject, version = quote(subject, safe=""), quote(version, safe="")
            inner = await self._found("GET", f"/subjects/{subject}/versions/{version}")
            await self._collect(inner.get("references"), found, seen)
            found[name] = _text(inner)

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    async def _found(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, subject: str = ""
    ) -> dict[str, Any]:
        """Sends a request, again if it fails, and returns what is answered."""
        payload = b"" if body is None else json.dumps(body).encode()
        problem = ""
        for wait in (*WAITS_SECONDS, None):
            try:
                status, answer = await self._ask(method, path, payload)
            except (OSError, EOFError, TimeoutError, HTTPException, ValueError) as error:
                problem = redact(str(error) or type(error).__name__)
            else:
                if status < 300:
                    return answer
                if status not in (408, 429) and status < 500:
                    self._refused(status, answer, subject)
                problem = f"HTTP {status} {_message(answer)}"
            if wait is not None:
                await asyncio.sleep(wait)
        raise Unavailable(
            f"the schema registry at {self.url} does not answer: {problem}",
            hint="Start it, or mend its address; the flow tries again by itself.",
        )

    async def _ask(self, method: str, path: str, payload: bytes) -> tuple[int, dict[str, Any]]:
        if self._secure and self._context is None:
            self._context = await asyncio.to_thread(self._tls.context)
        async with asyncio.timeout(self._timeout_seconds):
            reader, writer = await asyncio.open_connection(
                self._host,
                self._port,
                ssl=self._context,
                server_hostname=(self._tls.server_name or self._host) if self._secure else None,
            )
            try:
                writer.write(self._head(method, path, len(payload)) + payload)
                raw = await _read_all(reader)
            finally:
                writer.close()
        return _parse(method, raw)

    def _head(self, method: str, path: str, size: int) -> bytes:
        lines = [
            f"{method} {self._path}{path} HTTP/1.1",
            f"Host: {self._address}",
            "Accept: application/vnd.schemaregistry.v1+json, application/json",
            "Content-Type: application/vnd.schemaregistry.v1+json",
            f"Content-Length: {size}",
            "Connection: close",
        ]
        if self._user:
            login = b64encode(f"{self._user}:{self._password.reveal()}".encode()).decode()
            lines.append(f"Authorization: Basic {login}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _refused(self, status: int, answer: Mapping[str, Any], subject: str) -> NoReturn:
        what = _message(answer)
        if status in (401, 403):
            raise ConnectorError(
                f"the schema registry at {self.url} refuses the login ({status} {what})",
                hint="Pass user= and password= of an account that may read schemas, and register them if it should.",
            )
        if status == 404:
            raise NotFound(f"{self.url}: {what or 'not found'}")
        if status == _INCOMPATIBLE:
            raise DefinitionError(
                f"the schema does not fit the earlier ones of subject {subject}: {what}",
                hint="Give new fields a default and keep the old ones, loosen the subject's compatibility, or name "
                "another subject=.",
            )
        if status in _INVALID or answer.get("error_code") in _INVALID:
            raise DefinitionError(
                f"{self.url} takes the schema of subject {subject} for invalid: {what}", hint="Correct the schema."
            )
        raise ConnectorError(f"the schema registry at {self.url} answers {status}: {what}", hint="See its log.")


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(65_536):
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise ValueError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return b"".join(parts)


class _Received:
    """What was received, in the shape in which the standard library parses an answer."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._raw)


def _parse(method: str, raw: bytes) -> tuple[int, dict[str, Any]]:
    """Reads a whole answer: its status, and its body, which is a JSON object."""
    response = HTTPResponse(cast("Any", _Received(raw)), method=method)
    try:
        response.begin()
        body = response.read()
    except OverflowError as error:  # a chunk that says it is larger than any memory
        raise ValueError(str(error)) from None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        if response.status < 300:
            raise ValueError(f"no JSON but {body[:60]!r}") from None
        answer = {"message": body[:200].decode("utf-8", "replace")}
    if not isinstance(answer, dict):
        raise ValueError(f"no JSON object but {body[:60]!r}")
    return response.status, answer


def _message(answer: Mapping[str, Any]) -> str:
    """What the registry says, in one line."""
    return " ".join(redact(str(answer.get("message", ""))).split())[:300]


def _text(answer: Mapping[str, Any]) -> str:
    text = answer.get("schema")
    if not isinstance(text, str):
        raise NotFound("the registry answered without a schema")
    return text
