"""Settings of trust: what signs models, and from where they may come."""

from __future__ import annotations

from penstock.options import EngineOptions, option


class TrustSettings(EngineOptions):
    """Settings of commands that sign and fetch models."""

    signing_passphrase: str | None = option(
        None, "Passphrase of an encrypted private key that signs models; without it, it is asked for.", secret=True
    )
