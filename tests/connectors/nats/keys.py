"""Keys for the tests: nkeys and JWTs of operator, account and user, and TLS certificates."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import nkeys

PREFIXES = {"O": 14 << 3, "A": 0, "U": 20 << 3}
SEED_PREFIX = 18 << 3


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def make_seed(kind: str) -> str:
    """A new seed (SO..., SA..., SU...), in the layout of nats-io/nkeys."""
    prefix = PREFIXES[kind]
    raw = bytes([SEED_PREFIX | (prefix >> 5), (prefix & 31) << 3]) + secrets.token_bytes(32)
    return base64.b32encode(raw + _crc16(raw).to_bytes(2, "little")).decode().rstrip("=")


def public(seed: str) -> str:
    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())


def jwt(issuer_seed: str, subject: str, name: str, claims: dict[str, Any]) -> str:
    """A NATS JWT, version 2: ed25519-nkey over header and claims."""
    body = {"iat": int(time.time()), "iss": public(issuer_seed), "name": name, "sub": subject, "nats": claims}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    parts = [_b64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    signature = nkeys.from_seed(bytearray(issuer_seed.encode())).sign(".".join(parts).encode())
    return ".".join([*parts, _b64(signature)])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def operator_setup(folder: Path) -> tuple[str, Path]:
    """Makes operator, account (with JetStream) and user; returns server configuration and the user's creds file."""
    operator, account, user = make_seed("O"), make_seed("A"), make_seed("U")
    operator_jwt = jwt(operator, public(operator), "OP", {"type": "operator", "version": 2})
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits = {**unlimited, "wildcards": True, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    account_jwt = jwt(operator, public(account), "ACC", {"type": "account", "version": 2, "limits": limits})
    system = make_seed("A")
    system_jwt = jwt(operator, public(system), "SYS", {"type": "account", "version": 2, "limits": unlimited})
    user_jwt = jwt(account, public(user), "ann", {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1})
    creds = folder / "ann.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user}\n------END USER NKEY SEED------\n"
    )
    config = f"""
        operator: {operator_jwt}
        system_account: {public(system)}
        resolver: MEMORY
        resolver_preload: {{ {public(account)}: {account_jwt}, {public(system)}: {system_jwt} }}
    """
    return config, creds


def certificates(folder: Path, name: str = "ca") -> Path:
    """Makes an authority and, signed by it, certificates for a server (127.0.0.1), another host, and a client."""
    base = folder / name
    base.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=base, check=True, capture_output=True)

    ca_extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem",
        "-days", "2", "-subj", f"/CN={name}", *ca_extensions,
    )  # fmt: skip
    for who, alternative in (("server", "IP:127.0.0.1"), ("other", "DNS:elsewhere.example"), ("client", "DNS:client")):
        (base / f"{who}.ext").write_text(f"subjectAltName={alternative}\n")
        openssl("req", *curve, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl(
            "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{who}.pem", "-days", "2", "-extfile", f"{who}.ext",
        )  # fmt: skip
    return base
