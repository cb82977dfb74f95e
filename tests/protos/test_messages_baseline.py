"""What `buf breaking` compares with is the messages of today: a field that it does not know could be renumbered."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import identity_pb2 as identity

BASELINE = Path(__file__).resolve().parents[2] / "protos/baseline.binpb"


def test_every_field_of_today_is_in_the_baseline_with_its_number_and_type() -> None:
    then = {file.name: file for file in FileDescriptorSet.FromString(BASELINE.read_bytes()).file}
    assert set(then) == {one.DESCRIPTOR.name for one in (pb, identity)}
    for module in (pb, identity):
        today = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(today)
        said = "protos/baseline.binpb is not what the messages are; run `make baseline`"
        assert _said(then[today.name]) == _said(today), said


def _said(file: FileDescriptorProto) -> list[str]:
    """Messages, enums and services, without comments and without what differs from one compiler to another."""
    file.ClearField("source_code_info")
    file.DiscardUnknownFields()
    for message in file.message_type:
        _without_json_names(message)
    return str(file).splitlines()


def _without_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for inner in message.nested_type:
        _without_json_names(inner)
