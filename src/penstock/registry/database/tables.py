"""The registry's tables in the current schema. `migrations` leads to the same schema, which a test checks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

from penstock.registry import deployment
from penstock.registry.migrations import VERSION_TABLE

METADATA = MetaData()

ARTIFACTS = Table(
    "penstock_artifacts",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("version", String(100), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("recorded_at", String(20), nullable=False),
)
"""The sha256 of each version's `manifest.json` when it was published."""

ALIASES = Table(
    "penstock_aliases",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("alias", String(100), primary_key=True),
    Column("version", String(100), nullable=False),
    Column("updated_at", String(20), nullable=False),
)

TRUST = Table(
    "penstock_trust",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("tier", String(10), nullable=False),
    Column("reason", String(200), nullable=False),
    Column("recorded_at", String(20), nullable=False),
)
"""The trust tier of artifacts above data, by the digest of their manifest."""

DEPLOYMENT = Table(
    deployment.TABLE,
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("updated_at", String(20), nullable=False),
)
"""One row: the loads and unloads of operators as JSON, whose fields may grow without a migration."""

REVISION = Table(
    "penstock_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, increased by every change; servers poll it."""

ROUTES = Table(
    "penstock_routes",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("record", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", String(200), nullable=False),
)
"""The routes as JSON, each with the revision of its last change. Times are in milliseconds since 1970."""

ROUTES_REVISION = Table(
    "penstock_routes_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, increased by every change of a route. Not that of `penstock_revision`, where a change reads every model."""

AUDIT = Table(
    "penstock_audit",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("who", String(200), nullable=False),
    Column("what", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
)
"""Who changed what, when and why, with the JSON of before and after; written with the change itself."""

FEEDBACK = Table(
    "penstock_feedback",
    METADATA,
    Column("request_id", String(200), primary_key=True),
    Column("item", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("model", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("route", String(100), nullable=False),
    Column("arm", String(100), nullable=False),
    Column("key_digest", String(32)),
    Column("predicted", Integer),
    Column("class_name", String(200)),
    Column("confidence", Float),
    Column("label", Text),
    Column("correct", Integer),
    Column("labelled_at", BigInteger),
    Index("penstock_feedback_at", "at"),
    Index("penstock_feedback_key", "key_digest"),
)
"""Logged predictions that can get a label: JSON of a number or a text. Times are in milliseconds since 1970."""

CANARIES = Table(
    "penstock_canaries",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("route", String(100), nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("before", Text),
    Column("champion", String(100)),
    Column("phase", String(20), nullable=False),
    Column("step", Integer, nullable=False),
    Column("live", Integer, nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("entered_at", Float(53), nullable=False),
    Column("checked_at", Float(53), nullable=False),
    Column("threshold_ms", Text),
    Column("sentence", Text, nullable=False),
    Column("verdicts", Text, nullable=False),
    Column("changes", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
)
"""The canaries; a route has at most one that is live. Times are in seconds since 1970, by the database's clock."""

EVIDENCE = Table(
    "penstock_evidence",
    METADATA,
    Column("canary", String(36), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("arm", String(100), primary_key=True),
    Column("process", String(36), primary_key=True),
    Column("counters", Text, nullable=False),
    Column("updated_at", Float(53), nullable=False),
)
"""What each process has counted: cumulative, so that a repeated or lost write changes nothing."""

DECISIONS = Table(
    "penstock_decisions",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("canary", String(36), nullable=False),
    Column("route", String(100), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("step", Integer, nullable=False),
    Column("action", String(20), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("verdicts", Text, nullable=False),
)
"""What was decided about canaries, and why. Times are in milliseconds since 1970."""

LEASE = Table(
    "penstock_lease",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("holder", String(36), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("until", Float(53), nullable=False),
)
"""For each kind of decision the process that decides, and a number that counts up when another one takes over."""

ALERTS = Table(
    "penstock_alerts",
    METADATA,
    Column("fingerprint", String(16), primary_key=True),
    Column("server", String(200), nullable=False),
    Column("name", String(100), nullable=False),
    Column("state", Text, nullable=False),
    Column("looked_at", Float(53), nullable=False),
)
"""The alerts of each server that are pending or firing, as JSON. Times are in seconds since 1970."""

OUTBOX = Table(
    "penstock_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("server", String(200), nullable=False),
    Column("receiver", String(32), nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("key", String(100), nullable=False),
    Column("payload", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("due_at", Float(53), nullable=False),
    Index("penstock_outbox_message", "receiver", "key", unique=True),
)
"""Messages about alerts that a receiver has not taken yet. A receiver is the hash of its URL, which holds secrets."""

KEYS = Table(
    "penstock_keys",
    METADATA,
    Column("id", String(20), primary_key=True),
    Column("record", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", String(200), nullable=False),
)
"""The API keys as JSON, with the keyed digests of their secrets. Times are in milliseconds since 1970."""

KEYS_REVISION = Table(
    "penstock_keys_revision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, increased by every change of a key; servers poll it."""

KEY_USAGE = Table(
    "penstock_key_usage",
    METADATA,
    Column("key", String(20), primary_key=True),
    Column("period", String(10), primary_key=True),
    Column("ends_at", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Index("penstock_key_usage_period", "period"),
)
"""The requests of keys with a quota in each day or month, which ends at a time in seconds since 1970."""

SCHEMA = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""Alembic's own table, created here for a new database, which saves the import of Alembic."""
