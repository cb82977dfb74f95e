from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_IDLE: _ClassVar[Phase]
    PHASE_EMBED: _ClassVar[Phase]
    PHASE_TRAIN: _ClassVar[Phase]
    PHASE_ENCODE: _ClassVar[Phase]
    PHASE_SEND: _ClassVar[Phase]
    PHASE_INFER: _ClassVar[Phase]
    PHASE_RECEIVE: _ClassVar[Phase]

class EnergyMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENERGY_METHOD_UNSPECIFIED: _ClassVar[EnergyMethod]
    ENERGY_METHOD_MEASURED: _ClassVar[EnergyMethod]
    ENERGY_METHOD_ESTIMATED: _ClassVar[EnergyMethod]
    ENERGY_METHOD_UNKNOWN: _ClassVar[EnergyMethod]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_COMPLETED: _ClassVar[StopReason]
    STOP_REASON_BUDGET: _ClassVar[StopReason]
    STOP_REASON_DEADLINE: _ClassVar[StopReason]
    STOP_REASON_SHUTDOWN: _ClassVar[StopReason]

class PauseCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAUSE_CAUSE_UNSPECIFIED: _ClassVar[PauseCause]
    PAUSE_CAUSE_HEAT: _ClassVar[PauseCause]
    PAUSE_CAUSE_BUSY: _ClassVar[PauseCause]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_ACCEPTED: _ClassVar[Verdict]
    VERDICT_DUPLICATE: _ClassVar[Verdict]
    VERDICT_LATE: _ClassVar[Verdict]
    VERDICT_REJECTED: _ClassVar[Verdict]
PHASE_UNSPECIFIED: Phase
PHASE_IDLE: Phase
PHASE_EMBED: Phase
PHASE_TRAIN: Phase
PHASE_ENCODE: Phase
PHASE_SEND: Phase
PHASE_INFER: Phase
PHASE_RECEIVE: Phase
ENERGY_METHOD_UNSPECIFIED: EnergyMethod
ENERGY_METHOD_MEASURED: EnergyMethod
ENERGY_METHOD_ESTIMATED: EnergyMethod
ENERGY_METHOD_UNKNOWN: EnergyMethod
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_COMPLETED: StopReason
STOP_REASON_BUDGET: StopReason
STOP_REASON_DEADLINE: StopReason
STOP_REASON_SHUTDOWN: StopReason
PAUSE_CAUSE_UNSPECIFIED: PauseCause
PAUSE_CAUSE_HEAT: PauseCause
PAUSE_CAUSE_BUSY: PauseCause
VERDICT_UNSPECIFIED: Verdict
VERDICT_ACCEPTED: Verdict
VERDICT_DUPLICATE: Verdict
VERDICT_LATE: Verdict
VERDICT_REJECTED: Verdict

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "float32", "float16", "uniform_grid", "codebook", "entropy_coded", "rotated", "sparse")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    FLOAT32_FIELD_NUMBER: _ClassVar[int]
    FLOAT16_FIELD_NUMBER: _ClassVar[int]
    UNIFORM_GRID_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_CODED_FIELD_NUMBER: _ClassVar[int]
    ROTATED_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    float32: bytes
    float16: bytes
    uniform_grid: UniformGrid
    codebook: Codebook
    entropy_coded: EntropyCoded
    rotated: Rotated
    sparse: Sparse
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., float32: _Optional[bytes] = ..., float16: _Optional[bytes] = ..., uniform_grid: _Optional[_Union[UniformGrid, _Mapping]] = ..., codebook: _Optional[_Union[Codebook, _Mapping]] = ..., entropy_coded: _Optional[_Union[EntropyCoded, _Mapping]] = ..., rotated: _Optional[_Union[Rotated, _Mapping]] = ..., sparse: _Optional[_Union[Sparse, _Mapping]] = ...) -> None: ...

class UniformGrid(_message.Message):
    __slots__ = ("bits", "bucket", "step", "offset", "codes", "centred")
    BITS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    CENTRED_FIELD_NUMBER: _ClassVar[int]
    bits: int
    bucket: int
    step: bytes
    offset: bytes
    codes: bytes
    centred: bool
    def __init__(self, bits: _Optional[int] = ..., bucket: _Optional[int] = ..., step: _Optional[bytes] = ..., offset: _Optional[bytes] = ..., codes: _Optional[bytes] = ..., centred: _Optional[bool] = ...) -> None: ...

class Codebook(_message.Message):
    __slots__ = ("bits", "levels", "codes")
    BITS_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    bits: int
    levels: bytes
    codes: bytes
    def __init__(self, bits: _Optional[int] = ..., levels: _Optional[bytes] = ..., codes: _Optional[bytes] = ...) -> None: ...

class EntropyCoded(_message.Message):
    __slots__ = ("step", "seed", "share", "inset_first", "inset_rest", "table", "codes", "low", "tails", "levels", "gains")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    INSET_FIRST_FIELD_NUMBER: _ClassVar[int]
    INSET_REST_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    GAINS_FIELD_NUMBER: _ClassVar[int]
    step: float
    seed: int
    share: int
    inset_first: int
    inset_rest: int
    table: bytes
    codes: bytes
    low: bytes
    tails: bytes
    levels: bytes
    gains: bytes
    def __init__(self, step: _Optional[float] = ..., seed: _Optional[int] = ..., share: _Optional[int] = ..., inset_first: _Optional[int] = ..., inset_rest: _Optional[int] = ..., table: _Optional[bytes] = ..., codes: _Optional[bytes] = ..., low: _Optional[bytes] = ..., tails: _Optional[bytes] = ..., levels: _Optional[bytes] = ..., gains: _Optional[bytes] = ...) -> None: ...

class Rotated(_message.Message):
    __slots__ = ("chunk", "seed", "bits", "mixed", "scale", "codes")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    MIXED_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    seed: int
    bits: int
    mixed: int
    scale: bytes
    codes: bytes
    def __init__(self, chunk: _Optional[int] = ..., seed: _Optional[int] = ..., bits: _Optional[int] = ..., mixed: _Optional[int] = ..., scale: _Optional[bytes] = ..., codes: _Optional[bytes] = ...) -> None: ...

class Sparse(_message.Message):
    __slots__ = ("kept", "low", "high", "values")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    kept: int
    low: bytes
    high: bytes
    values: Tensor
    def __init__(self, kept: _Optional[int] = ..., low: _Optional[bytes] = ..., high: _Optional[bytes] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("offset", "counts", "totals", "squares", "sums", "products")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    offset: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    totals: _containers.RepeatedScalarFieldContainer[int]
    squares: _containers.RepeatedScalarFieldContainer[int]
    sums: CodedIntegers
    products: CodedIntegers
    def __init__(self, offset: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ..., totals: _Optional[_Iterable[int]] = ..., squares: _Optional[_Iterable[int]] = ..., sums: _Optional[_Union[CodedIntegers, _Mapping]] = ..., products: _Optional[_Union[CodedIntegers, _Mapping]] = ...) -> None: ...

class CodedIntegers(_message.Message):
    __slots__ = ("fine", "table", "codes", "low", "tails")
    FINE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    fine: int
    table: bytes
    codes: bytes
    low: bytes
    tails: bytes
    def __init__(self, fine: _Optional[int] = ..., table: _Optional[bytes] = ..., codes: _Optional[bytes] = ..., low: _Optional[bytes] = ..., tails: _Optional[bytes] = ...) -> None: ...

class FeatureMap(_message.Message):
    __slots__ = ("offset", "project", "shift", "seed")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    project: int
    shift: int
    seed: int
    def __init__(self, offset: _Optional[int] = ..., project: _Optional[int] = ..., shift: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Basis(_message.Message):
    __slots__ = ("version", "tensors")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    version: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, version: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Control(_message.Message):
    __slots__ = ("version", "epoch", "tensors")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    version: str
    epoch: int
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, version: _Optional[str] = ..., epoch: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Codec(_message.Message):
    __slots__ = ("name", "parameters")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PhaseEnergy(_message.Message):
    __slots__ = ("phase", "energy_j", "covered_s", "uncovered_s", "method", "sensor", "uncertainty_j", "flags")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    COVERED_S_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_S_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SENSOR_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_J_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    energy_j: float
    covered_s: float
    uncovered_s: float
    method: EnergyMethod
    sensor: str
    uncertainty_j: float
    flags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., energy_j: _Optional[float] = ..., covered_s: _Optional[float] = ..., uncovered_s: _Optional[float] = ..., method: _Optional[_Union[EnergyMethod, str]] = ..., sensor: _Optional[str] = ..., uncertainty_j: _Optional[float] = ..., flags: _Optional[_Iterable[str]] = ...) -> None: ...

class Meter(_message.Message):
    __slots__ = ("method", "sensor", "calibration_id", "quality", "id")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SENSOR_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ID_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    method: EnergyMethod
    sensor: str
    calibration_id: str
    quality: str
    id: int
    def __init__(self, method: _Optional[_Union[EnergyMethod, str]] = ..., sensor: _Optional[str] = ..., calibration_id: _Optional[str] = ..., quality: _Optional[str] = ..., id: _Optional[int] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("name", "version", "delegate", "accelerator")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    delegate: str
    accelerator: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., delegate: _Optional[str] = ..., accelerator: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("protocol_major", "protocol_minor", "device_id", "session", "software_version", "board", "engine", "meter", "train_examples", "test_examples", "budget_j", "reason", "declined_run", "instance", "account")
    PROTOCOL_MAJOR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    TRAIN_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEST_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_J_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DECLINED_RUN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    protocol_major: int
    protocol_minor: int
    device_id: str
    session: str
    software_version: str
    board: str
    engine: Engine
    meter: Meter
    train_examples: int
    test_examples: int
    budget_j: float
    reason: str
    declined_run: str
    instance: str
    account: str
    def __init__(self, protocol_major: _Optional[int] = ..., protocol_minor: _Optional[int] = ..., device_id: _Optional[str] = ..., session: _Optional[str] = ..., software_version: _Optional[str] = ..., board: _Optional[str] = ..., engine: _Optional[_Union[Engine, _Mapping]] = ..., meter: _Optional[_Union[Meter, _Mapping]] = ..., train_examples: _Optional[int] = ..., test_examples: _Optional[int] = ..., budget_j: _Optional[float] = ..., reason: _Optional[str] = ..., declined_run: _Optional[str] = ..., instance: _Optional[str] = ..., account: _Optional[str] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("protocol_major", "protocol_minor", "software_version", "check_in_s", "receive_known")
    PROTOCOL_MAJOR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECK_IN_S_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_KNOWN_FIELD_NUMBER: _ClassVar[int]
    protocol_major: int
    protocol_minor: int
    software_version: str
    check_in_s: float
    receive_known: bool
    def __init__(self, protocol_major: _Optional[int] = ..., protocol_minor: _Optional[int] = ..., software_version: _Optional[str] = ..., check_in_s: _Optional[float] = ..., receive_known: _Optional[bool] = ...) -> None: ...

class SettledEnergy(_message.Message):
    __slots__ = ("run_id", "round", "energy", "attempt", "meter_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    METER_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    energy: _containers.RepeatedCompositeFieldContainer[PhaseEnergy]
    attempt: int
    meter_id: int
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., energy: _Optional[_Iterable[_Union[PhaseEnergy, _Mapping]]] = ..., attempt: _Optional[int] = ..., meter_id: _Optional[int] = ...) -> None: ...

class NextOrderRequest(_message.Message):
    __slots__ = ("device_id", "session", "settled", "bundle_id", "head_version", "rebuilds", "basis_version", "waits_s", "published", "receptions", "upgrade")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    REBUILDS_FIELD_NUMBER: _ClassVar[int]
    BASIS_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAITS_S_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    RECEPTIONS_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session: str
    settled: _containers.RepeatedCompositeFieldContainer[SettledEnergy]
    bundle_id: str
    head_version: str
    rebuilds: bool
    basis_version: str
    waits_s: float
    published: str
    receptions: _containers.RepeatedCompositeFieldContainer[Reception]
    upgrade: UpgradeState
    def __init__(self, device_id: _Optional[str] = ..., session: _Optional[str] = ..., settled: _Optional[_Iterable[_Union[SettledEnergy, _Mapping]]] = ..., bundle_id: _Optional[str] = ..., head_version: _Optional[str] = ..., rebuilds: _Optional[bool] = ..., basis_version: _Optional[str] = ..., waits_s: _Optional[float] = ..., published: _Optional[str] = ..., receptions: _Optional[_Iterable[_Union[Reception, _Mapping]]] = ..., upgrade: _Optional[_Union[UpgradeState, _Mapping]] = ...) -> None: ...

class NextOrderResponse(_message.Message):
    __slots__ = ("wait", "train", "rejoin", "reveal")
    WAIT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    REJOIN_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    wait: Wait
    train: TrainOrder
    rejoin: Rejoin
    reveal: RevealOrder
    def __init__(self, wait: _Optional[_Union[Wait, _Mapping]] = ..., train: _Optional[_Union[TrainOrder, _Mapping]] = ..., rejoin: _Optional[_Union[Rejoin, _Mapping]] = ..., reveal: _Optional[_Union[RevealOrder, _Mapping]] = ...) -> None: ...

class MaskOrder(_message.Message):
    __slots__ = ("clip", "bits")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    clip: float
    bits: int
    def __init__(self, clip: _Optional[float] = ..., bits: _Optional[int] = ...) -> None: ...

class RevealOrder(_message.Message):
    __slots__ = ("run_id", "round", "attempt", "sent", "missing")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    attempt: int
    sent: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., sent: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class MaskKeys(_message.Message):
    __slots__ = ("seal", "mask", "seed")
    SEAL_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    seal: bytes
    mask: bytes
    seed: bytes
    def __init__(self, seal: _Optional[bytes] = ..., mask: _Optional[bytes] = ..., seed: _Optional[bytes] = ...) -> None: ...

class MaskMember(_message.Message):
    __slots__ = ("device_id", "keys")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    keys: MaskKeys
    def __init__(self, device_id: _Optional[str] = ..., keys: _Optional[_Union[MaskKeys, _Mapping]] = ...) -> None: ...

class MaskShare(_message.Message):
    __slots__ = ("device_id", "sealed")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    sealed: bytes
    def __init__(self, device_id: _Optional[str] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class OpenShare(_message.Message):
    __slots__ = ("device_id", "share")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    share: bytes
    def __init__(self, device_id: _Optional[str] = ..., share: _Optional[bytes] = ...) -> None: ...

class MaskReveal(_message.Message):
    __slots__ = ("seeds", "keys")
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    seeds: _containers.RepeatedCompositeFieldContainer[OpenShare]
    keys: _containers.RepeatedCompositeFieldContainer[OpenShare]
    def __init__(self, seeds: _Optional[_Iterable[_Union[OpenShare, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[OpenShare, _Mapping]]] = ...) -> None: ...

class MaskShares(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[MaskShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[MaskShare, _Mapping]]] = ...) -> None: ...

class MaskRequest(_message.Message):
    __slots__ = ("device_id", "session", "run_id", "round", "attempt", "keys", "shares", "reveal")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session: str
    run_id: str
    round: int
    attempt: int
    keys: MaskKeys
    shares: MaskShares
    reveal: MaskReveal
    def __init__(self, device_id: _Optional[str] = ..., session: _Optional[str] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., keys: _Optional[_Union[MaskKeys, _Mapping]] = ..., shares: _Optional[_Union[MaskShares, _Mapping]] = ..., reveal: _Optional[_Union[MaskReveal, _Mapping]] = ...) -> None: ...

class MaskResponse(_message.Message):
    __slots__ = ("roster", "threshold", "shares")
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    roster: _containers.RepeatedCompositeFieldContainer[MaskMember]
    threshold: int
    shares: _containers.RepeatedCompositeFieldContainer[MaskShare]
    def __init__(self, roster: _Optional[_Iterable[_Union[MaskMember, _Mapping]]] = ..., threshold: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[MaskShare, _Mapping]]] = ...) -> None: ...

class MaskedChange(_message.Message):
    __slots__ = ("width", "numbers")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    width: int
    numbers: bytes
    def __init__(self, width: _Optional[int] = ..., numbers: _Optional[bytes] = ...) -> None: ...

class AwaitEndRequest(_message.Message):
    __slots__ = ("device_id", "session", "run_id", "round", "waits_s")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WAITS_S_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session: str
    run_id: str
    round: int
    waits_s: float
    def __init__(self, device_id: _Optional[str] = ..., session: _Optional[str] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., waits_s: _Optional[float] = ...) -> None: ...

class AwaitEndResponse(_message.Message):
    __slots__ = ("wanted", "watts")
    WANTED_FIELD_NUMBER: _ClassVar[int]
    WATTS_FIELD_NUMBER: _ClassVar[int]
    wanted: bool
    watts: bool
    def __init__(self, wanted: _Optional[bool] = ..., watts: _Optional[bool] = ...) -> None: ...

class PowerBins(_message.Message):
    __slots__ = ("first_s", "bin_s", "mean_w", "low_w", "high_w", "covered_s")
    FIRST_S_FIELD_NUMBER: _ClassVar[int]
    BIN_S_FIELD_NUMBER: _ClassVar[int]
    MEAN_W_FIELD_NUMBER: _ClassVar[int]
    LOW_W_FIELD_NUMBER: _ClassVar[int]
    HIGH_W_FIELD_NUMBER: _ClassVar[int]
    COVERED_S_FIELD_NUMBER: _ClassVar[int]
    first_s: float
    bin_s: float
    mean_w: bytes
    low_w: bytes
    high_w: bytes
    covered_s: bytes
    def __init__(self, first_s: _Optional[float] = ..., bin_s: _Optional[float] = ..., mean_w: _Optional[bytes] = ..., low_w: _Optional[bytes] = ..., high_w: _Optional[bytes] = ..., covered_s: _Optional[bytes] = ...) -> None: ...

class LiveWattsRequest(_message.Message):
    __slots__ = ("device_id", "session", "bins", "reason", "ends")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session: str
    bins: PowerBins
    reason: str
    ends: bool
    def __init__(self, device_id: _Optional[str] = ..., session: _Optional[str] = ..., bins: _Optional[_Union[PowerBins, _Mapping]] = ..., reason: _Optional[str] = ..., ends: _Optional[bool] = ...) -> None: ...

class LiveWattsResponse(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: bool
    def __init__(self, wanted: _Optional[bool] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("retry_after_s", "reason", "publication", "upgrade", "watts")
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PUBLICATION_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    WATTS_FIELD_NUMBER: _ClassVar[int]
    retry_after_s: float
    reason: str
    publication: Publication
    upgrade: UpgradeOffer
    watts: bool
    def __init__(self, retry_after_s: _Optional[float] = ..., reason: _Optional[str] = ..., publication: _Optional[_Union[Publication, _Mapping]] = ..., upgrade: _Optional[_Union[UpgradeOffer, _Mapping]] = ..., watts: _Optional[bool] = ...) -> None: ...

class UpgradeOffer(_message.Message):
    __slots__ = ("upgrade_id", "wheel", "size_bytes", "sha256", "trial_s")
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    WHEEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TRIAL_S_FIELD_NUMBER: _ClassVar[int]
    upgrade_id: str
    wheel: str
    size_bytes: int
    sha256: bytes
    trial_s: float
    def __init__(self, upgrade_id: _Optional[str] = ..., wheel: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., trial_s: _Optional[float] = ...) -> None: ...

class UpgradeState(_message.Message):
    __slots__ = ("upgrade_id", "state", "reason")
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    upgrade_id: str
    state: str
    reason: str
    def __init__(self, upgrade_id: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class FetchUpgradeRequest(_message.Message):
    __slots__ = ("device_id", "upgrade_id")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    upgrade_id: str
    def __init__(self, device_id: _Optional[str] = ..., upgrade_id: _Optional[str] = ...) -> None: ...

class FetchUpgradeResponse(_message.Message):
    __slots__ = ("file", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: BundleFile
    data: bytes
    def __init__(self, file: _Optional[_Union[BundleFile, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Publication(_message.Message):
    __slots__ = ("run_id", "name", "bundle_id", "head", "round", "accuracy", "loss", "evaluate", "signed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    bundle_id: str
    head: Head
    round: int
    accuracy: float
    loss: float
    evaluate: bool
    signed: bytes
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., bundle_id: _Optional[str] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., round: _Optional[int] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., evaluate: _Optional[bool] = ..., signed: _Optional[bytes] = ...) -> None: ...

class Reception(_message.Message):
    __slots__ = ("publication", "adopted", "reason", "evaluation")
    PUBLICATION_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    publication: str
    adopted: bool
    reason: str
    evaluation: HeadEvaluation
    def __init__(self, publication: _Optional[str] = ..., adopted: _Optional[bool] = ..., reason: _Optional[str] = ..., evaluation: _Optional[_Union[HeadEvaluation, _Mapping]] = ...) -> None: ...

class HeadEvaluation(_message.Message):
    __slots__ = ("head_version", "examples", "correct", "loss", "class_examples", "class_correct")
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CLASS_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CLASS_CORRECT_FIELD_NUMBER: _ClassVar[int]
    head_version: str
    examples: int
    correct: int
    loss: float
    class_examples: _containers.RepeatedScalarFieldContainer[int]
    class_correct: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, head_version: _Optional[str] = ..., examples: _Optional[int] = ..., correct: _Optional[int] = ..., loss: _Optional[float] = ..., class_examples: _Optional[_Iterable[int]] = ..., class_correct: _Optional[_Iterable[int]] = ...) -> None: ...

class Rejoin(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Head(_message.Message):
    __slots__ = ("version", "tensors", "base", "differences")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    version: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    base: str
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    def __init__(self, version: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., base: _Optional[str] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("tensors", "scale")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    scale: float
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., scale: _Optional[float] = ...) -> None: ...

class TrainOrder(_message.Message):
    __slots__ = ("run_id", "round", "plan_id", "bundle_id", "head", "steps", "inputs", "codec", "budget_j", "deadline_s", "seed", "attempt", "statistics", "basis", "costs", "mask", "control", "evaluate")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BUDGET_J_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    plan_id: str
    bundle_id: str
    head: Head
    steps: int
    inputs: _containers.ScalarMap[str, float]
    codec: Codec
    budget_j: float
    deadline_s: float
    seed: int
    attempt: int
    statistics: FeatureMap
    basis: Basis
    costs: CostHint
    mask: MaskOrder
    control: Control
    evaluate: bool
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., plan_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., steps: _Optional[int] = ..., inputs: _Optional[_Mapping[str, float]] = ..., codec: _Optional[_Union[Codec, _Mapping]] = ..., budget_j: _Optional[float] = ..., deadline_s: _Optional[float] = ..., seed: _Optional[int] = ..., attempt: _Optional[int] = ..., statistics: _Optional[_Union[FeatureMap, _Mapping]] = ..., basis: _Optional[_Union[Basis, _Mapping]] = ..., costs: _Optional[_Union[CostHint, _Mapping]] = ..., mask: _Optional[_Union[MaskOrder, _Mapping]] = ..., control: _Optional[_Union[Control, _Mapping]] = ..., evaluate: _Optional[bool] = ...) -> None: ...

class CostHint(_message.Message):
    __slots__ = ("embedding_j", "step_j", "sending_j", "work_w")
    EMBEDDING_J_FIELD_NUMBER: _ClassVar[int]
    STEP_J_FIELD_NUMBER: _ClassVar[int]
    SENDING_J_FIELD_NUMBER: _ClassVar[int]
    WORK_W_FIELD_NUMBER: _ClassVar[int]
    embedding_j: float
    step_j: float
    sending_j: float
    work_w: float
    def __init__(self, embedding_j: _Optional[float] = ..., step_j: _Optional[float] = ..., sending_j: _Optional[float] = ..., work_w: _Optional[float] = ...) -> None: ...

class Strain(_message.Message):
    __slots__ = ("heat_s", "busy_s", "hottest_c", "throttled", "under_voltage")
    HEAT_S_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    HOTTEST_C_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    UNDER_VOLTAGE_FIELD_NUMBER: _ClassVar[int]
    heat_s: float
    busy_s: float
    hottest_c: float
    throttled: bool
    under_voltage: bool
    def __init__(self, heat_s: _Optional[float] = ..., busy_s: _Optional[float] = ..., hottest_c: _Optional[float] = ..., throttled: _Optional[bool] = ..., under_voltage: _Optional[bool] = ...) -> None: ...

class DeviceReport(_message.Message):
    __slots__ = ("run_id", "round", "device_id", "plan_id", "bundle_id", "head_version", "steps_planned", "steps_done", "examples", "local_normaliser", "stop_reason", "loss_first", "loss_last", "engine", "energy", "update", "embedded", "train_s", "strain", "ended_in_pause", "attempt", "meter_id", "statistics", "basis_version", "masked", "control_version", "control_held", "evaluation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_NORMALISER_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIRST_FIELD_NUMBER: _ClassVar[int]
    LOSS_LAST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    TRAIN_S_FIELD_NUMBER: _ClassVar[int]
    STRAIN_FIELD_NUMBER: _ClassVar[int]
    ENDED_IN_PAUSE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    METER_ID_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    BASIS_VERSION_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    CONTROL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTROL_HELD_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    device_id: str
    plan_id: str
    bundle_id: str
    head_version: str
    steps_planned: int
    steps_done: int
    examples: int
    local_normaliser: float
    stop_reason: StopReason
    loss_first: float
    loss_last: float
    engine: Engine
    energy: _containers.RepeatedCompositeFieldContainer[PhaseEnergy]
    update: _containers.RepeatedCompositeFieldContainer[Tensor]
    embedded: int
    train_s: float
    strain: Strain
    ended_in_pause: PauseCause
    attempt: int
    meter_id: int
    statistics: Statistics
    basis_version: str
    masked: MaskedChange
    control_version: str
    control_held: bool
    evaluation: HeadEvaluation
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., device_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., head_version: _Optional[str] = ..., steps_planned: _Optional[int] = ..., steps_done: _Optional[int] = ..., examples: _Optional[int] = ..., local_normaliser: _Optional[float] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., loss_first: _Optional[float] = ..., loss_last: _Optional[float] = ..., engine: _Optional[_Union[Engine, _Mapping]] = ..., energy: _Optional[_Iterable[_Union[PhaseEnergy, _Mapping]]] = ..., update: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., embedded: _Optional[int] = ..., train_s: _Optional[float] = ..., strain: _Optional[_Union[Strain, _Mapping]] = ..., ended_in_pause: _Optional[_Union[PauseCause, str]] = ..., attempt: _Optional[int] = ..., meter_id: _Optional[int] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., basis_version: _Optional[str] = ..., masked: _Optional[_Union[MaskedChange, _Mapping]] = ..., control_version: _Optional[str] = ..., control_held: _Optional[bool] = ..., evaluation: _Optional[_Union[HeadEvaluation, _Mapping]] = ...) -> None: ...

class ReportHeader(_message.Message):
    __slots__ = ("run_id", "round", "device_id", "total_bytes", "sha256", "from_byte")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FROM_BYTE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    device_id: str
    total_bytes: int
    sha256: bytes
    from_byte: int
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., device_id: _Optional[str] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., from_byte: _Optional[int] = ...) -> None: ...

class ReportHeldRequest(_message.Message):
    __slots__ = ("device_id", "run_id", "round", "total_bytes", "sha256")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    run_id: str
    round: int
    total_bytes: int
    sha256: bytes
    def __init__(self, device_id: _Optional[str] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class ReportHeldResponse(_message.Message):
    __slots__ = ("held_bytes",)
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    held_bytes: int
    def __init__(self, held_bytes: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: ReportHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[ReportHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("verdict", "reason", "attempt")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    reason: str
    attempt: int
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class FetchBundleRequest(_message.Message):
    __slots__ = ("bundle_id", "edge_tpu_twin", "signature", "held_bytes")
    class HeldBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    EDGE_TPU_TWIN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    edge_tpu_twin: bool
    signature: bool
    held_bytes: _containers.ScalarMap[str, int]
    def __init__(self, bundle_id: _Optional[str] = ..., edge_tpu_twin: _Optional[bool] = ..., signature: _Optional[bool] = ..., held_bytes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class BundleFile(_message.Message):
    __slots__ = ("name", "size_bytes", "sha256", "from_byte")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FROM_BYTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    sha256: bytes
    from_byte: int
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., from_byte: _Optional[int] = ...) -> None: ...

class FetchBundleResponse(_message.Message):
    __slots__ = ("file", "data")
    FILE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    file: BundleFile
    data: bytes
    def __init__(self, file: _Optional[_Union[BundleFile, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("device_id", "session", "settled", "reason")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session: str
    settled: _containers.RepeatedCompositeFieldContainer[SettledEnergy]
    reason: str
    def __init__(self, device_id: _Optional[str] = ..., session: _Optional[str] = ..., settled: _Optional[_Iterable[_Union[SettledEnergy, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchWattsRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class WatchWattsResponse(_message.Message):
    __slots__ = ("bins", "reason", "skipped")
    BINS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    bins: PowerBins
    reason: str
    skipped: int
    def __init__(self, bins: _Optional[_Union[PowerBins, _Mapping]] = ..., reason: _Optional[str] = ..., skipped: _Optional[int] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("plan_toml", "plan_directory")
    PLAN_TOML_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    plan_toml: str
    plan_directory: str
    def __init__(self, plan_toml: _Optional[str] = ..., plan_directory: _Optional[str] = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class StopRunResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class PauseRunRequest(_message.Message):
    __slots__ = ("run_id", "after_round")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_ROUND_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_round: bool
    def __init__(self, run_id: _Optional[str] = ..., after_round: _Optional[bool] = ...) -> None: ...

class PauseRunResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run_id", "plan_toml", "plan_directory")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_TOML_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    plan_toml: str
    plan_directory: str
    def __init__(self, run_id: _Optional[str] = ..., plan_toml: _Optional[str] = ..., plan_directory: _Optional[str] = ...) -> None: ...

class ResumeRunResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("run_id", "since_round", "page", "newest_only", "details", "parts", "after", "say")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_ROUND_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    NEWEST_ONLY_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SAY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    since_round: int
    page: int
    newest_only: bool
    details: bool
    parts: bool
    after: str
    say: float
    def __init__(self, run_id: _Optional[str] = ..., since_round: _Optional[int] = ..., page: _Optional[int] = ..., newest_only: _Optional[bool] = ..., details: _Optional[bool] = ..., parts: _Optional[bool] = ..., after: _Optional[str] = ..., say: _Optional[float] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("runs", "software_version", "next_round", "next_after", "next_say", "reports")
    class ReportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    NEXT_SAY_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunStatus]
    software_version: str
    next_round: int
    next_after: str
    next_say: float
    reports: _containers.ScalarMap[str, int]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunStatus, _Mapping]]] = ..., software_version: _Optional[str] = ..., next_round: _Optional[int] = ..., next_after: _Optional[str] = ..., next_say: _Optional[float] = ..., reports: _Optional[_Mapping[str, int]] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run_id", "name", "state", "reason", "plan_id", "bundle_id", "rounds_planned", "rounds", "started_unix_s", "finished_unix_s", "privacy", "details")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    state: str
    reason: str
    plan_id: str
    bundle_id: str
    rounds_planned: int
    rounds: _containers.RepeatedCompositeFieldContainer[RoundStatus]
    started_unix_s: float
    finished_unix_s: float
    privacy: PrivacySpent
    details: RunDetails
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., plan_id: _Optional[str] = ..., bundle_id: _Optional[str] = ..., rounds_planned: _Optional[int] = ..., rounds: _Optional[_Iterable[_Union[RoundStatus, _Mapping]]] = ..., started_unix_s: _Optional[float] = ..., finished_unix_s: _Optional[float] = ..., privacy: _Optional[_Union[PrivacySpent, _Mapping]] = ..., details: _Optional[_Union[RunDetails, _Mapping]] = ...) -> None: ...

class RunDetails(_message.Message):
    __slots__ = ("plan_toml", "plan_directory", "events")
    PLAN_TOML_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    plan_toml: str
    plan_directory: str
    events: _containers.RepeatedCompositeFieldContainer[RunEvent]
    def __init__(self, plan_toml: _Optional[str] = ..., plan_directory: _Optional[str] = ..., events: _Optional[_Iterable[_Union[RunEvent, _Mapping]]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("round", "unix_s", "kind", "detail")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    round: int
    unix_s: float
    kind: str
    detail: str
    def __init__(self, round: _Optional[int] = ..., unix_s: _Optional[float] = ..., kind: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "count", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: str
    count: int
    detail: str
    def __init__(self, code: _Optional[str] = ..., count: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class PrivacySpent(_message.Message):
    __slots__ = ("epsilon", "delta", "limit", "rounds")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    limit: float
    rounds: int
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., limit: _Optional[float] = ..., rounds: _Optional[int] = ...) -> None: ...

class RoundStatus(_message.Message):
    __slots__ = ("round", "state", "accuracy", "loss", "bytes_up", "bytes_down", "devices", "opened_unix_s", "closed_unix_s", "head_version", "bias", "federated", "r2", "rmse", "auc")
    class RmseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    OPENED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CLOSED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_FIELD_NUMBER: _ClassVar[int]
    R2_FIELD_NUMBER: _ClassVar[int]
    RMSE_FIELD_NUMBER: _ClassVar[int]
    AUC_FIELD_NUMBER: _ClassVar[int]
    round: int
    state: str
    accuracy: float
    loss: float
    bytes_up: int
    bytes_down: int
    devices: _containers.RepeatedCompositeFieldContainer[DeviceRound]
    opened_unix_s: float
    closed_unix_s: float
    head_version: str
    bias: WeightBias
    federated: FederatedEvaluation
    r2: float
    rmse: _containers.ScalarMap[str, float]
    auc: float
    def __init__(self, round: _Optional[int] = ..., state: _Optional[str] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[DeviceRound, _Mapping]]] = ..., opened_unix_s: _Optional[float] = ..., closed_unix_s: _Optional[float] = ..., head_version: _Optional[str] = ..., bias: _Optional[_Union[WeightBias, _Mapping]] = ..., federated: _Optional[_Union[FederatedEvaluation, _Mapping]] = ..., r2: _Optional[float] = ..., rmse: _Optional[_Mapping[str, float]] = ..., auc: _Optional[float] = ...) -> None: ...

class FederatedEvaluation(_message.Message):
    __slots__ = ("devices", "examples", "correct", "loss", "class_examples", "class_correct", "adopted", "kept")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CLASS_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CLASS_CORRECT_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    devices: int
    examples: int
    correct: int
    loss: float
    class_examples: _containers.RepeatedScalarFieldContainer[int]
    class_correct: _containers.RepeatedScalarFieldContainer[int]
    adopted: int
    kept: int
    def __init__(self, devices: _Optional[int] = ..., examples: _Optional[int] = ..., correct: _Optional[int] = ..., loss: _Optional[float] = ..., class_examples: _Optional[_Iterable[int]] = ..., class_correct: _Optional[_Iterable[int]] = ..., adopted: _Optional[int] = ..., kept: _Optional[int] = ...) -> None: ...

class WeightBias(_message.Message):
    __slots__ = ("from_plan", "from_plan_ratio", "from_examples", "from_examples_ratio", "left_out")
    FROM_PLAN_FIELD_NUMBER: _ClassVar[int]
    FROM_PLAN_RATIO_FIELD_NUMBER: _ClassVar[int]
    FROM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    FROM_EXAMPLES_RATIO_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    from_plan: float
    from_plan_ratio: float
    from_examples: float
    from_examples_ratio: float
    left_out: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, from_plan: _Optional[float] = ..., from_plan_ratio: _Optional[float] = ..., from_examples: _Optional[float] = ..., from_examples_ratio: _Optional[float] = ..., left_out: _Optional[_Iterable[str]] = ...) -> None: ...

class DeviceRound(_message.Message):
    __slots__ = ("device_id", "outcome", "steps_planned", "steps_done", "stop_reason", "budget_j", "weight", "bytes_up", "bytes_down", "energy", "further_energy", "examples", "loss", "embedded", "strain", "ended_in_pause", "counted_in", "refusals")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STEPS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    BUDGET_J_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    FURTHER_ENERGY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    STRAIN_FIELD_NUMBER: _ClassVar[int]
    ENDED_IN_PAUSE_FIELD_NUMBER: _ClassVar[int]
    COUNTED_IN_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    outcome: str
    steps_planned: int
    steps_done: int
    stop_reason: StopReason
    budget_j: float
    weight: float
    bytes_up: int
    bytes_down: int
    energy: _containers.RepeatedCompositeFieldContainer[PhaseEnergy]
    further_energy: _containers.RepeatedCompositeFieldContainer[PhaseEnergy]
    examples: int
    loss: float
    embedded: int
    strain: Strain
    ended_in_pause: PauseCause
    counted_in: int
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, device_id: _Optional[str] = ..., outcome: _Optional[str] = ..., steps_planned: _Optional[int] = ..., steps_done: _Optional[int] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., budget_j: _Optional[float] = ..., weight: _Optional[float] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., energy: _Optional[_Iterable[_Union[PhaseEnergy, _Mapping]]] = ..., further_energy: _Optional[_Iterable[_Union[PhaseEnergy, _Mapping]]] = ..., examples: _Optional[int] = ..., loss: _Optional[float] = ..., embedded: _Optional[int] = ..., strain: _Optional[_Union[Strain, _Mapping]] = ..., ended_in_pause: _Optional[_Union[PauseCause, str]] = ..., counted_in: _Optional[int] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class GetBudgetsRequest(_message.Message):
    __slots__ = ("run_id", "after", "page")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after: str
    page: int
    def __init__(self, run_id: _Optional[str] = ..., after: _Optional[str] = ..., page: _Optional[int] = ...) -> None: ...

class GetBudgetsResponse(_message.Message):
    __slots__ = ("run_id", "devices", "more")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    devices: _containers.RepeatedCompositeFieldContainer[DeviceBudget]
    more: bool
    def __init__(self, run_id: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[DeviceBudget, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class DeviceBudget(_message.Message):
    __slots__ = ("device_id", "orders", "granted_j", "spent_j", "uncertain_j", "today_j", "unlimited", "fit")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_J_FIELD_NUMBER: _ClassVar[int]
    SPENT_J_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_J_FIELD_NUMBER: _ClassVar[int]
    TODAY_J_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    orders: int
    granted_j: float
    spent_j: float
    uncertain_j: float
    today_j: float
    unlimited: int
    fit: CostFit
    def __init__(self, device_id: _Optional[str] = ..., orders: _Optional[int] = ..., granted_j: _Optional[float] = ..., spent_j: _Optional[float] = ..., uncertain_j: _Optional[float] = ..., today_j: _Optional[float] = ..., unlimited: _Optional[int] = ..., fit: _Optional[_Union[CostFit, _Mapping]] = ...) -> None: ...

class CostFit(_message.Message):
    __slots__ = ("rounds", "price", "deviation")
    class PriceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class DeviationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    price: _containers.ScalarMap[str, float]
    deviation: _containers.ScalarMap[str, float]
    def __init__(self, rounds: _Optional[int] = ..., price: _Optional[_Mapping[str, float]] = ..., deviation: _Optional[_Mapping[str, float]] = ...) -> None: ...

class UnlearnDeviceRequest(_message.Message):
    __slots__ = ("run_id", "device_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    device_id: str
    def __init__(self, run_id: _Optional[str] = ..., device_id: _Optional[str] = ...) -> None: ...

class UnlearnDeviceResponse(_message.Message):
    __slots__ = ("run_id", "head_version", "devices", "examples", "accuracy", "also_in")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ALSO_IN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    head_version: str
    devices: int
    examples: int
    accuracy: float
    also_in: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_id: _Optional[str] = ..., head_version: _Optional[str] = ..., devices: _Optional[int] = ..., examples: _Optional[int] = ..., accuracy: _Optional[float] = ..., also_in: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ("after", "page")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    after: str
    page: int
    def __init__(self, after: _Optional[str] = ..., page: _Optional[int] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices", "more")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    more: bool
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("device_id", "state", "board", "engine", "meter", "software_version", "train_examples", "test_examples", "last_seen_unix_s", "energy_j", "unknown_phases", "budget_j", "reason", "account")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAIN_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEST_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_PHASES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_J_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    state: str
    board: str
    engine: Engine
    meter: Meter
    software_version: str
    train_examples: int
    test_examples: int
    last_seen_unix_s: float
    energy_j: float
    unknown_phases: int
    budget_j: float
    reason: str
    account: str
    def __init__(self, device_id: _Optional[str] = ..., state: _Optional[str] = ..., board: _Optional[str] = ..., engine: _Optional[_Union[Engine, _Mapping]] = ..., meter: _Optional[_Union[Meter, _Mapping]] = ..., software_version: _Optional[str] = ..., train_examples: _Optional[int] = ..., test_examples: _Optional[int] = ..., last_seen_unix_s: _Optional[float] = ..., energy_j: _Optional[float] = ..., unknown_phases: _Optional[int] = ..., budget_j: _Optional[float] = ..., reason: _Optional[str] = ..., account: _Optional[str] = ...) -> None: ...

class ForgetDeviceRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class ForgetDeviceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EvaluateRunRequest(_message.Message):
    __slots__ = ("run_id", "head_version", "bits")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    head_version: str
    bits: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run_id: _Optional[str] = ..., head_version: _Optional[str] = ..., bits: _Optional[_Iterable[int]] = ...) -> None: ...

class EvaluateRunResponse(_message.Message):
    __slots__ = ("run_id", "head_version", "examples", "heads")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    head_version: str
    examples: int
    heads: _containers.RepeatedCompositeFieldContainer[RoundedHead]
    def __init__(self, run_id: _Optional[str] = ..., head_version: _Optional[str] = ..., examples: _Optional[int] = ..., heads: _Optional[_Iterable[_Union[RoundedHead, _Mapping]]] = ...) -> None: ...

class RoundedHead(_message.Message):
    __slots__ = ("bits", "ranges", "granularity", "accuracy", "loss", "size_bytes")
    BITS_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    bits: int
    ranges: str
    granularity: str
    accuracy: float
    loss: float
    size_bytes: int
    def __init__(self, bits: _Optional[int] = ..., ranges: _Optional[str] = ..., granularity: _Optional[str] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ExportRunRequest(_message.Message):
    __slots__ = ("run_id", "head_version", "max_drop", "head_alone", "bundle")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_DROP_FIELD_NUMBER: _ClassVar[int]
    HEAD_ALONE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    head_version: str
    max_drop: float
    head_alone: bool
    bundle: bool
    def __init__(self, run_id: _Optional[str] = ..., head_version: _Optional[str] = ..., max_drop: _Optional[float] = ..., head_alone: _Optional[bool] = ..., bundle: _Optional[bool] = ...) -> None: ...

class ExportSummary(_message.Message):
    __slots__ = ("size_bytes", "sha256", "head_version", "float_accuracy", "exported_accuracy", "operators", "note", "measured")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    HEAD_VERSION_FIELD_NUMBER: _ClassVar[int]
    FLOAT_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    sha256: bytes
    head_version: str
    float_accuracy: float
    exported_accuracy: float
    operators: _containers.RepeatedScalarFieldContainer[str]
    note: str
    measured: Measured
    def __init__(self, size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., head_version: _Optional[str] = ..., float_accuracy: _Optional[float] = ..., exported_accuracy: _Optional[float] = ..., operators: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ..., measured: _Optional[_Union[Measured, _Mapping]] = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("measure", "float_score", "exported_score", "float_rmse", "exported_rmse")
    class FloatRmseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ExportedRmseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_SCORE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_RMSE_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_RMSE_FIELD_NUMBER: _ClassVar[int]
    measure: str
    float_score: float
    exported_score: float
    float_rmse: _containers.ScalarMap[str, float]
    exported_rmse: _containers.ScalarMap[str, float]
    def __init__(self, measure: _Optional[str] = ..., float_score: _Optional[float] = ..., exported_score: _Optional[float] = ..., float_rmse: _Optional[_Mapping[str, float]] = ..., exported_rmse: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ExportRunResponse(_message.Message):
    __slots__ = ("summary", "data")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    summary: ExportSummary
    data: bytes
    def __init__(self, summary: _Optional[_Union[ExportSummary, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UpgradeHeader(_message.Message):
    __slots__ = ("wheel", "size_bytes", "sha256", "signature", "to", "canaries", "wave", "may_fail", "trial_s")
    WHEEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    MAY_FAIL_FIELD_NUMBER: _ClassVar[int]
    TRIAL_S_FIELD_NUMBER: _ClassVar[int]
    wheel: str
    size_bytes: int
    sha256: bytes
    signature: bytes
    to: _containers.RepeatedScalarFieldContainer[str]
    canaries: int
    wave: int
    may_fail: int
    trial_s: float
    def __init__(self, wheel: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., to: _Optional[_Iterable[str]] = ..., canaries: _Optional[int] = ..., wave: _Optional[int] = ..., may_fail: _Optional[int] = ..., trial_s: _Optional[float] = ...) -> None: ...

class StartUpgradeRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UpgradeHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UpgradeHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class StartUpgradeResponse(_message.Message):
    __slots__ = ("upgrade",)
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    upgrade: UpgradeStatus
    def __init__(self, upgrade: _Optional[_Union[UpgradeStatus, _Mapping]] = ...) -> None: ...

class StopUpgradeRequest(_message.Message):
    __slots__ = ("upgrade_id",)
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    upgrade_id: str
    def __init__(self, upgrade_id: _Optional[str] = ...) -> None: ...

class StopUpgradeResponse(_message.Message):
    __slots__ = ("upgrade",)
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    upgrade: UpgradeStatus
    def __init__(self, upgrade: _Optional[_Union[UpgradeStatus, _Mapping]] = ...) -> None: ...

class ListUpgradesRequest(_message.Message):
    __slots__ = ("upgrade_id", "all")
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    upgrade_id: str
    all: bool
    def __init__(self, upgrade_id: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class ListUpgradesResponse(_message.Message):
    __slots__ = ("upgrades",)
    UPGRADES_FIELD_NUMBER: _ClassVar[int]
    upgrades: _containers.RepeatedCompositeFieldContainer[UpgradeStatus]
    def __init__(self, upgrades: _Optional[_Iterable[_Union[UpgradeStatus, _Mapping]]] = ...) -> None: ...

class UpgradeStatus(_message.Message):
    __slots__ = ("upgrade_id", "wheel", "sha256", "line", "version", "state", "reason", "stage", "stages", "started_by", "started_unix_s", "ended_unix_s", "devices")
    UPGRADE_ID_FIELD_NUMBER: _ClassVar[int]
    WHEEL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    upgrade_id: str
    wheel: str
    sha256: str
    line: str
    version: int
    state: str
    reason: str
    stage: int
    stages: int
    started_by: str
    started_unix_s: float
    ended_unix_s: float
    devices: _containers.RepeatedCompositeFieldContainer[UpgradeDevice]
    def __init__(self, upgrade_id: _Optional[str] = ..., wheel: _Optional[str] = ..., sha256: _Optional[str] = ..., line: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., stage: _Optional[int] = ..., stages: _Optional[int] = ..., started_by: _Optional[str] = ..., started_unix_s: _Optional[float] = ..., ended_unix_s: _Optional[float] = ..., devices: _Optional[_Iterable[_Union[UpgradeDevice, _Mapping]]] = ...) -> None: ...

class UpgradeDevice(_message.Message):
    __slots__ = ("device_id", "stage", "state", "reason", "software_version", "present", "changed_unix_s")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    stage: int
    state: str
    reason: str
    software_version: str
    present: bool
    changed_unix_s: float
    def __init__(self, device_id: _Optional[str] = ..., stage: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., software_version: _Optional[str] = ..., present: _Optional[bool] = ..., changed_unix_s: _Optional[float] = ...) -> None: ...
