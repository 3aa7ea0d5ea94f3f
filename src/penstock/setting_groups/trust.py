"""Settings of trust: what signs models, and from where they may come."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from penstock.option_types import Float, Size, TextList
from penstock.options import EngineOptions, option

_DIRECTORY = re.compile(r"(https?|s3|gs)://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~!$'()*+;=:@/-]*)?")


def _directories(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError without the value, which may hold a password."""
    for number, address in enumerate(value, start=1):
        if not _DIRECTORY.fullmatch(address) or ".." in address:
            raise ValueError(
                f"should hold addresses such as https://models.example.org/team/ or s3://bucket; entry {number} is none"
            )
    return value


class TrustSettings(EngineOptions):
    """Settings of commands that sign and fetch models."""

    signing_passphrase: str | None = option(
        None, "Passphrase of an encrypted private key that signs models; without it, it is asked for.", secret=True
    )
    remote_registries: Annotated[TextList, AfterValidator(_directories)] = option(
        (), "Addresses (https, s3, gs; comma list) below which models may be fetched from; without any, none may."
    )
    remote_private: bool = option(
        False, "Let models be fetched from private and loopback addresses as well; link-local ones are always refused."
    )
    remote_max_bytes: Size = option(10 * 2**30, "Maximum size of a model that is fetched.", ge=1)
    remote_timeout_s: Float = option(600.0, "Maximum time in which a model is fetched.", gt=0)
