"""Codecs: how a value becomes bytes and comes back, typed, with a round trip that is checked."""

from streamflow.codecs.choice import codec_for
from streamflow.codecs.contract import Codec, Prepared, unprepared
from streamflow.codecs.models import PydanticCodec
from streamflow.codecs.plain import BytesCodec, StrCodec
from streamflow.codecs.shapes import fingerprint, immutable, type_name
from streamflow.codecs.typed import JsonCodec, MsgpackCodec, msgpack

__all__ = [
    "BytesCodec",
    "Codec",
    "JsonCodec",
    "MsgpackCodec",
    "Prepared",
    "PydanticCodec",
    "StrCodec",
    "codec_for",
    "fingerprint",
    "immutable",
    "msgpack",
    "type_name",
    "unprepared",
]
