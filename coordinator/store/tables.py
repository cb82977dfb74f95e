"""The tables. Every statement about a report goes through an index: (run_id, round, device_id).

`sequence` numbers reports in the order in which they were accepted, which is the order in which they are folded: a
restart folds them again in that order and gets the same bits. Times are Unix seconds, for people; nothing is decided
by them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# SQLite numbers rows by itself only in a column of type INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

# One row: which layout this database has.
layout = Table("layout", metadata, Column("version", Integer, primary_key=True))

# One row on a server: counts the coordinators that took this database, so that an earlier one finds that it is not the
# newest any more. A SQLite file is kept by the lock of its state directory.
fence = Table("fence", metadata, Column("epoch", BigInteger, primary_key=True, autoincrement=False))

heads = Table(
    "heads",
    metadata,
    Column("version", String(64), primary_key=True),  # made of the content
    Column("shapes", Text, nullable=False),  # JSON: name to shape, names sorted
    Column("data", LargeBinary, nullable=False),  # little-endian float32, in that order
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("sequence", _SEQUENCE, nullable=False, unique=True),
    Column("name", String(256), nullable=False, index=True),
    Column("state", String(16), nullable=False),  # scheduled, waiting, running, paused, finished, stopped, failed
    Column("reason", Text, nullable=False),
    Column("plan_id", String(64), nullable=False),
    Column("plan_toml", Text, nullable=False),
    Column("plan_directory", Text, nullable=False),
    Column("bundle_id", String(128), nullable=False),
    Column("rounds_planned", Integer, nullable=False),
    Column("initial_head", ForeignKey("heads.version"), nullable=False),
    Column("engine", String(256)),  # the engine class that this run is tied to
    Column("evaluation_key", String(128)),  # names the cached embeddings of the held-out data
    Column("started_unix_s", Float(53), nullable=False),
    Column("finished_unix_s", Float(53)),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("round", Integer, primary_key=True),  # 0 is the head before any training
    Column("state", String(16), nullable=False),  # open, closed, abandoned
    Column("attempt", Integer, nullable=False),
    Column("accuracy", Float(53)),
    Column("loss", Float(53)),
    Column("opened_unix_s", Float(53), nullable=False),
    Column("closed_unix_s", Float(53)),
    Column("head_version", ForeignKey("heads.version")),  # the head after this round
    Column("trained_from", String(64)),  # the head that its devices train from; NULL: not known
)

orders = Table(
    "orders",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("outcome", String(16), nullable=False),  # ordered, accepted, late, rejected, missing
    Column("attempt", Integer, nullable=False, server_default="1"),  # the newest at its round that asked this device
    Column("session", String(256)),  # the start of the device that it belongs to; empty: it left; NULL: not known
    Column("steps", Integer, nullable=False),
    Column("budget_j", Float(53)),
    Column("bytes_up", BigInteger, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    ForeignKeyConstraint(["run_id", "round"], ["rounds.run_id", "rounds.round"]),
)

reports = Table(
    "reports",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("device_id", String(256), nullable=False),
    Column("data", LargeBinary, nullable=False),  # the serialised report, as it came
    Column("sha256", LargeBinary, nullable=False),
    Column("weight", Float(53), nullable=False),  # not normalised
    Column("steps_done", Integer, nullable=False),
    Column("examples", BigInteger, nullable=False),
    Column("stop_reason", String(16), nullable=False),
    Column("loss", Float(53)),
    Column("embedded", BigInteger, nullable=False),
    Column("accepted_unix_s", Float(53), nullable=False),
    Column("attempt", Integer),  # whose order it answers; NULL: the device did not say
    Column("folded_in", Integer),  # the later round that it counts in; NULL: its own
    UniqueConstraint("run_id", "round", "device_id"),
    Index("reports_of_device_by_round", "run_id", "device_id", "round"),
    Index("late_reports_by_round", "run_id", "folded_in"),
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
)

# What devices had to bear in a round, of those that said so.
strains = Table(
    "strains",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("heat_s", Float(53), nullable=False),
    Column("busy_s", Float(53), nullable=False),
    Column("hottest_c", Float(53)),  # NULL: not known
    Column("throttled", Boolean, nullable=False),
    Column("under_voltage", Boolean, nullable=False),
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
)

energy = Table(
    "energy",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("phase", String(16), primary_key=True),
    Column("energy_j", Float(53)),  # NULL: not known
    Column("covered_s", Float(53), nullable=False),
    Column("uncovered_s", Float(53), nullable=False),
    Column("method", String(16), nullable=False),
    Column("sensor", String(256), nullable=False),
    Column("uncertainty_j", Float(53)),
    Column("flags", Text, nullable=False),  # JSON list
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
    Index("energy_of_device", "device_id"),
)

# What orders cost that a further attempt renewed: their joules were spent all the same.
earlier_energy = Table(
    "earlier_energy",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("phase", String(16), primary_key=True),
    Column("energy_j", Float(53)),  # NULL: not known
    Column("covered_s", Float(53), nullable=False),
    Column("uncovered_s", Float(53), nullable=False),
    Column("method", String(16), nullable=False),
    Column("sensor", String(256), nullable=False),
    Column("uncertainty_j", Float(53)),
    Column("flags", Text, nullable=False),  # JSON list
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
    Index("earlier_energy_of_device", "device_id"),
)

# What the devices of a run hold: the head that they train from, which is not always one that a round made.
shown = Table(
    "shown",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("version", ForeignKey("heads.version"), nullable=False),
)

# The coordinates in which the devices of a run train, kept among the heads; no row: those of the head.
bases = Table(
    "bases",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("version", ForeignKey("heads.version"), nullable=False),
)

# What a server optimiser remembers between rounds, kept among the heads; no row: nothing.
server_states = Table(
    "server_states",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("version", ForeignKey("heads.version"), nullable=False),
)

# The newest coded differences that led there, each beginning where the one before ended.
differences = Table(
    "differences",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("before", String(64), nullable=False),
    Column("after", String(64), nullable=False),
    Column("data", LargeBinary, nullable=False),  # serialised
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(256), primary_key=True),
    Column("session", String(256), nullable=False),
    Column("state", String(16), nullable=False),  # here, left
    Column("card", Text, nullable=False),  # JSON of what the device said of itself
    Column("last_seen_unix_s", Float(53), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),  # why it cannot train, or left, in its own words
)

# On a server: copies of the files that runs need, so that a coordinator with another state folder can go on with them.
shared_files = Table(
    "shared_files",
    metadata,
    Column("folder", String(256), primary_key=True),  # "bundles/ID", "evaluations" or "harvests"
    Column("name", String(256), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# What an order promised, and what was worked out for it. With the energy that was reported, this is the ledger.
grants = Table(
    "grants",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("unix_s", Float(53), nullable=False),
    Column("granted_j", Float(53)),  # NULL: no limit
    Column("lost_j", Float(53), nullable=False, server_default="0"),  # granted to starts of the device that ended
    Column("expected_j", Float(53)),
    Column("sending_j", Float(53)),  # of it, coding and sending
    Column("standing_j", Float(53)),  # what by_budget weighs by
    Column("probability", Float(53), nullable=False),
    Column("factor", Float(53), nullable=False),
    Column("bits", Float(53)),  # NULL: the plan's
    Column("costs", Text, nullable=False),  # JSON: what the device is told
    Column("bytes_up", BigInteger, nullable=False),  # of the accepted report, 0 before
    Column("change", Float(53)),  # of the report, per unit of the normaliser
    Column("deviation", Float(53)),
    Column("learnt", Integer, nullable=False),  # 1: the device's costs were fitted to it
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
    Index("grants_of_device", "device_id"),
    Index("grants_of_device_by_round", "run_id", "device_id", "round"),
    Index("grants_by_time", "unix_s"),
)

# The ledger summed up to a round, so that a round that opens need not sum what lies behind it. Whatever changes a
# figure of a round that is in here marks its device stale, and its orders are summed again.
account_marks = Table(
    "account_marks",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("through", Integer, nullable=False),  # the last round that is in the sums
    Column("since_unix_s", Float(53), nullable=False),  # the midnight from which today_j counts
)

account_sums = Table(
    "account_sums",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("stale", Integer, nullable=False),  # 1: a figure has changed since
    Column("orders", BigInteger, nullable=False),
    Column("granted_j", Float(53), nullable=False),
    Column("spent_j", Float(53), nullable=False),
    Column("uncertain_j", Float(53), nullable=False),
    Column("today_j", Float(53), nullable=False),
    Column("unlimited", BigInteger, nullable=False),
    Column("pending_j", Float(53), nullable=False),
)

# Whom a round speaks for, when only some were asked.
round_plans = Table(
    "round_plans",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("weight", Float(53)),  # NULL: those whose reports come
    Column("work", Float(53)),
    Column("weights", Text, nullable=False),  # JSON: by device
    Column("bias", Text, nullable=False),  # JSON
    ForeignKeyConstraint(["run_id", "round"], ["rounds.run_id", "rounds.round"]),
)

cost_models = Table(
    "cost_models",
    metadata,
    Column("device_id", String(256), primary_key=True),
    Column("bundle_id", String(128), primary_key=True),
    Column("state", Text, nullable=False),  # JSON
)

# Reports that were refused, counted by reason: bounded however often a device tries.
refusals = Table(
    "refusals",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("code", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),  # of the last one
    ForeignKeyConstraint(["run_id", "round", "device_id"], ["orders.run_id", "orders.round", "orders.device_id"]),
)

# Versions of the devices' service that were offered to some of them, with the wheel and its signature, so that a
# coordinator with another state folder can go on with them.
upgrades = Table(
    "upgrades",
    metadata,
    Column("upgrade_id", String(64), primary_key=True),
    Column("sequence", _SEQUENCE, nullable=False, unique=True),
    Column("wheel", String(256), nullable=False),  # the file's name
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("line", String(64), nullable=False),  # along which the signature counts versions
    Column("version", BigInteger, nullable=False),  # of the signature
    Column("ends_unix_s", Float(53), nullable=False),  # of the signature
    Column("data", LargeBinary, nullable=False),  # empty once another was begun after it
    Column("signature", LargeBinary, nullable=False),
    Column("may_fail", Integer, nullable=False),  # devices besides the canaries
    Column("trial_s", Float(53), nullable=False),
    Column("state", String(16), nullable=False),  # on, finished, stopped
    Column("reason", Text, nullable=False),
    Column("stage", Integer, nullable=False),  # the last that was opened; 0: the canaries
    Column("started_by", String(256), nullable=False),
    Column("started_unix_s", Float(53), nullable=False),
    Column("ended_unix_s", Float(53)),
)

upgrade_devices = Table(
    "upgrade_devices",
    metadata,
    Column("upgrade_id", ForeignKey("upgrades.upgrade_id"), primary_key=True),
    Column("device_id", String(256), primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # waiting, offered, checked, trial, kept, failed, revoked
    Column("reason", Text, nullable=False),
    Column("changed_unix_s", Float(53), nullable=False),
)

# What happened to a run, in words: opened, abandoned, devices left out.
events = Table(
    "events",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("round", Integer),
    Column("unix_s", Float(53), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("detail", Text, nullable=False),
)
