"""TLS as every client here uses it: files of certificates, and no way to do without checks."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from streamflow.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS 1.2 or newer, host name checked; there is no way to turn that off.

    Args:
        ca: File with the authorities to trust; the system's by default.
        cert: File with the client's certificate, where the server wants one.
        key: File with the client's private key.
        server_name: The name the server's certificate must carry; the URL's host by default.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "cert", "key"):
            text = str(getattr(self, name) or "")
            if "\n" in text or "-----BEGIN" in text:
                raise SettingsError(
                    f"{name}= is given what looks like a certificate or key itself, not the path of a file",
                    hint="Write it into a file that only its owner may read, and pass the path.",
                )

    def context(self) -> ssl.SSLContext:
        """Reads the files and returns the context; blocks."""
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            context.load_cert_chain(str(self.cert), None if self.key is None else str(self.key))
        return context


def check_context(context: ssl.SSLContext) -> None:
    """Holds a context of the user's own to the same: it verifies the server and its name, by TLS 1.2 or newer.

    Raises:
        SettingsError: It does not.
    """
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise SettingsError(
            "the SSL context does not verify the server", hint="Use Tls(ca=...) or ssl.create_default_context()."
        )
    if context.minimum_version is ssl.TLSVersion.MINIMUM_SUPPORTED:
        # nobody has chosen: some builds of Python leave it to OpenSSL's own settings
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise SettingsError(
            "the SSL context allows TLS below 1.2", hint="Set minimum_version to ssl.TLSVersion.TLSv1_2."
        )
