"""A double of a schema registry: an HTTP server in the test's own process that speaks Confluent's documented interface.

Ids are global per schema. Compatibility is checked by one rule alone: a new Avro field without a default is refused. It
can be made to fail, hang, lie, ask for a login or close the connection in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64decode
from typing import Any
from urllib.parse import unquote


class Refusal(Exception):
    """An answer with an error code."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.answer = status, {"error_code": code, "message": message}


class RegistryDouble:
    """The server; use it as an async context manager."""

    def __init__(self, *, login: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.failures: list[bytes | float | None] = []
        """What the next requests get instead of an answer: raw bytes, seconds of silence, or a closed connection."""
        self.chunked = False
        self._login, self._tls = login, tls
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> RegistryDouble:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/registry"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        self.requests.append(f"{method} {path}")
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, float):
                await asyncio.sleep(failure)
            elif failure is not None:
                writer.write(failure)
            return
        try:
            self._check_login(headers.get("authorization", ""))
            status, answer = 200, self._route(method, path, json.loads(body or b"{}"))
        except Refusal as refusal:
            status, answer = refusal.status, refusal.answer
        self._write(writer, status, json.dumps(answer).encode())
        await writer.drain()

    def _write(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n"
        if self.chunked:
            middle = len(body) // 2
            parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]))
            writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + parts + b"0\r\n\r\n")
        else:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _check_login(self, header: str) -> None:
        if self._login is not None:
            given = b64decode(header.removeprefix("Basic ")).decode() if header else ""
            if given != ":".join(self._login):
                raise Refusal(401, 401, "Unauthorized")

    def _route(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        parts = [unquote(part) for part in path.removeprefix("/registry/").split("/")]
        match method, parts:
            case "GET", ["schemas", "ids", id]:
                return self._schema(int(id))
            case "GET", ["subjects", subject, "versions", version]:
                ids = self._subject(subject)
                if not 1 <= int(version) <= len(ids):
                    raise Refusal(404, 40402, f"Version {version} not found.")
                return {"subject": subject, "version": int(version), **self._schema(ids[int(version) - 1])}
            case "POST", ["subjects", subject]:
                for known in self._subject(subject):
                    if self._schemas[known - 1] == _stored(body):
                        return {"subject": subject, "id": known, **self._schemas[known - 1]}
                raise Refusal(404, 40403, "Schema not found")
            case "POST", ["subjects", subject, "versions"]:
                return {"id": self._register(subject, _stored(body))}
        raise Refusal(404, 404, "HTTP 404 Not Found")

    def _schema(self, id: int) -> dict[str, Any]:
        if not 1 <= id <= len(self._schemas):
            raise Refusal(404, 40403, f"Schema {id} not found")
        found = self._schemas[id - 1]
        return {name: value for name, value in found.items() if not (name == "schemaType" and value == "AVRO")}

    def _subject(self, subject: str) -> list[int]:
        if subject not in self._subjects:
            raise Refusal(404, 40401, f"Subject '{subject}' not found.")
        return self._subjects[subject]

    def _register(self, subject: str, schema: dict[str, Any]) -> int:
        ids = self._subjects.get(subject, [])
        if schema["schemaType"] == "AVRO":
            try:
                fields = _fields(schema)
            except ValueError:
                raise Refusal(422, 42201, "Invalid schema: not JSON") from None
            before = _fields(self._schemas[ids[-1] - 1]) if ids else fields
            known = {field["name"] for field in before}
            for field in fields:
                if field["name"] not in known and "default" not in field:
                    raise Refusal(409, 409, f"READER_FIELD_MISSING_DEFAULT_VALUE\n {field['name']}")
        if schema not in self._schemas:
            self._schemas.append(schema)
        id = self._schemas.index(schema) + 1
        if id not in ids:
            self._subjects[subject] = [*ids, id]
        return id


def _stored(body: dict[str, Any]) -> dict[str, Any]:
    kept = {"schema": body["schema"], "schemaType": body.get("schemaType", "AVRO")}
    return kept | ({"references": body["references"]} if body.get("references") else {})


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    parsed = json.loads(schema["schema"])
    return parsed.get("fields", []) if isinstance(parsed, dict) else []
