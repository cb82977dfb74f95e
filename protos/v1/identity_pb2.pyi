from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("token_id", "machine", "certificate_request", "mac")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    token_id: bytes
    machine: str
    certificate_request: bytes
    mac: bytes
    def __init__(self, token_id: _Optional[bytes] = ..., machine: _Optional[str] = ..., certificate_request: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("device_id", "chain_pem", "root_pem", "unix_s", "mac", "above_root_pem")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    ROOT_PEM_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    ABOVE_ROOT_PEM_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    chain_pem: bytes
    root_pem: bytes
    unix_s: float
    mac: bytes
    above_root_pem: bytes
    def __init__(self, device_id: _Optional[str] = ..., chain_pem: _Optional[bytes] = ..., root_pem: _Optional[bytes] = ..., unix_s: _Optional[float] = ..., mac: _Optional[bytes] = ..., above_root_pem: _Optional[bytes] = ...) -> None: ...

class ReadmitRequest(_message.Message):
    __slots__ = ("old_chain_pem", "certificate_request", "signature")
    OLD_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    old_chain_pem: bytes
    certificate_request: bytes
    signature: bytes
    def __init__(self, old_chain_pem: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ReadmitResponse(_message.Message):
    __slots__ = ("chain_pem",)
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    chain_pem: bytes
    def __init__(self, chain_pem: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("chain_pem",)
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    chain_pem: bytes
    def __init__(self, chain_pem: _Optional[bytes] = ...) -> None: ...
