"""Codecs: how a value becomes bytes and comes back, typed, with a round trip that is checked."""

from streamflow.codecs.avro_codec import AvroCodec, AvroSchema, avro
from streamflow.codecs.choice import codec_for
from streamflow.codecs.contract import Codec, Prepared, prepare_encoding, unprepared
from streamflow.codecs.models import PydanticCodec
from streamflow.codecs.plain import BytesCodec, StrCodec
from streamflow.codecs.protobuf_codec import ProtobufCodec, protobuf
from streamflow.codecs.registry import MemorySchemaRegistry, RegistryCodec, Schema, SchemaRegistry
from streamflow.codecs.shapes import fingerprint, immutable, type_name
from streamflow.codecs.typed import JsonCodec, MsgpackCodec, msgpack

__all__ = [
    "AvroCodec",
    "AvroSchema",
    "BytesCodec",
    "Codec",
    "JsonCodec",
    "MemorySchemaRegistry",
    "MsgpackCodec",
    "Prepared",
    "ProtobufCodec",
    "PydanticCodec",
    "RegistryCodec",
    "Schema",
    "SchemaRegistry",
    "StrCodec",
    "avro",
    "codec_for",
    "fingerprint",
    "immutable",
    "msgpack",
    "prepare_encoding",
    "protobuf",
    "type_name",
    "unprepared",
]
