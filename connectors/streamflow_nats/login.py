"""Logging in: credentials and certificates read for nats-py, and why a server refused them."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

from streamflow.connect.secret import Secret, UserPassword
from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, MissingExtraError, SettingsError, Unavailable
from streamflow_nats.settings import Creds, Nats, NKey, Token


async def login_options(nats: Nats) -> dict[str, Any]:
    """Reads the files that the settings name, off the loop, as arguments for nats-py."""
    try:
        import nats as nats_py
        import nkeys
    except ImportError:
        raise MissingExtraError(
            "streamflow_nats needs nats-py, which is not installed",
            hint='Install the extra: pip install "streamflow-asyncio[nats]".',
        ) from None
    del nats_py, nkeys
    options: dict[str, Any] = {}
    match nats.auth:
        case UserPassword(user, Secret() as password):
            options |= {"user": user, "password": password.reveal()}
        case Token(Secret() as token):
            options["token"] = token.reveal()
        case NKey(seed_file):
            options["nkeys_seed_str"] = await _read(seed_file, "nkey seed")
        case Creds(file):
            from nats.aio.client import RawCredentials

            options["user_credentials"] = RawCredentials(await _read(file, "credentials"))
        case _:
            pass
    if isinstance(nats.tls, ssl.SSLContext):
        options["tls"] = nats.tls
    elif nats.encrypted:
        tls = nats.tls or Tls()
        try:
            options["tls"] = await asyncio.to_thread(tls.context)
        except OSError as error:
            raise SettingsError(
                f"the TLS files cannot be used: {error}", hint="Check ca=, cert= and key= of Tls(...)."
            ) from None
        if tls.server_name is not None:
            options["tls_hostname"] = tls.server_name
    return options


async def _read(path: str | Path, what: str) -> str:
    try:
        text = await asyncio.to_thread(Path(path).read_text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"the {what} file {path} cannot be read: {reason}", hint="Check the path.") from None
    if what == "credentials":
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise SettingsError(
                f"{path} is no NATS credentials file", hint="Pass the .creds file of a user, as nsc writes it."
            )
        return text
    import nkeys

    try:
        nkeys.from_seed(bytearray(text.strip().encode())).wipe()
    except (nkeys.NkeysError, ValueError):
        raise SettingsError(
            f"{path} holds no user nkey seed", hint="The file holds one line that starts with SU."
        ) from None
    return text


def explain_refusal(
    error: BaseException, cause: BaseException | None, url: str, *, wants_certificate: bool
) -> ConnectorError:
    """Says in one sentence why no connection came about."""
    text = reason(error)
    if "authorization" in text.lower() or "authentication" in text.lower():
        return ConnectorError(
            f"NATS at {url} refuses the credentials",
            hint="Check auth= (UserPassword, Token, NKey, Creds) against the server's configuration.",
        )
    if isinstance(error, ssl.SSLError):
        return ConnectorError(
            f"TLS with NATS at {url} failed: {getattr(error, 'verify_message', '') or error.reason or error}",
            hint="Check Tls(ca=...), the client certificate, and the name in the server's certificate.",
        )
    if wants_certificate and isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return ConnectorError(
            f"NATS at {url} wants a client certificate and ended the connection: {text}",
            hint="Pass Tls(cert=..., key=...) with a certificate that the server's authority signed.",
        )
    if isinstance(error, TimeoutError) and cause is None:
        text = "no answer in time"
    elif cause is not None:
        text = reason(cause)
    return Unavailable(f"no NATS server answers at {url}: {text}", hint="Start it, or check host, port and firewall.")


def reason(error: BaseException) -> str:
    """Says in a few words what went wrong."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).removeprefix("nats: ")
