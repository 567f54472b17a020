"""Writes TFRecord files as TensorFlow does, to be read by ours: the message by protobuf, the checksums bit by bit."""

import struct
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _message(name: str, *fields: tuple[str, int, int, str], packed: bool = True) -> descriptor_pb2.DescriptorProto:
    """Fields of name, number, type and the name of their message type; those of a repeated number are `packed`."""
    message = descriptor_pb2.DescriptorProto(name=name)
    for field, number, kind, type_name in fields:
        repeated = field == "value" and name != "Entry"
        added = message.field.add(name=field, number=number, type=kind, label=3 if repeated else 1)
        if type_name:
            added.type_name = type_name
        if repeated and kind != 12:
            added.options.packed = packed
    return message


def _example_class(*, packed: bool):
    """Of tf.train.Example."""
    package = "packed" if packed else "unpacked"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    lists = [("bytes_list", 1, "Bytes"), ("float_list", 2, "Floats"), ("int64_list", 3, "Ints")]
    feature = _message("Feature", *((name, number, 11, f".{package}.{kind}") for name, number, kind in lists))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = descriptor_pb2.DescriptorProto(name="Features")
    features.field.add(name="feature", number=1, type=11, label=3, type_name=f".{package}.Features.FeatureEntry")
    entry = _message("FeatureEntry", ("key", 1, 9, ""))
    entry.field.add(name="value", number=2, type=11, label=1, type_name=f".{package}.Feature")
    entry.options.map_entry = True
    features.nested_type.append(entry)
    file.message_type.extend(
        [
            _message("Bytes", ("value", 1, 12, "")),
            _message("Floats", ("value", 1, 2, ""), packed=packed),
            _message("Ints", ("value", 1, 3, ""), packed=packed),
            feature,
            features,
            _message("Example", ("features", 1, 11, f".{package}.Features")),
        ]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))


def example_bytes(features: dict[str, list], *, packed: bool = True) -> bytes:
    """A tf.train.Example: of each feature a list of bytes, float or int."""
    example = _example_class(packed=packed)()
    for name, values in features.items():
        feature = example.features.feature[name]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example.SerializeToString()


def record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def write_records(path: Path, payloads: Iterable[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(payload) for payload in payloads))
    return path


def _masked_crc(data: bytes) -> bytes:
    """By division bit by bit, not by the table of the reader."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
