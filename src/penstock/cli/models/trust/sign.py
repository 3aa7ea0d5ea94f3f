"""`penstock models sign`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.models.trust.subject import SubjectArgument, is_directory, subject
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, working
from penstock.errors import ConfigError, not_written

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.artifacts.signatures.keys import Passphrase
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

_Key = Annotated[
    Path, typer.Option("--private-key", metavar="FILE", help="Private key (PEM) on P-256, P-384 or P-521.")
]
_Out = Annotated[
    Path | None,
    typer.Option("--signature", metavar="OUT", help="Write it there.", show_default="model.sig beside the manifest"),
]


def sign(
    ref: SubjectArgument,
    private_key: _Key,
    signature: _Out = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Sign a version with a private key, in the OpenSSF model-signing format; every file is verified first.

    The signature replaces an earlier one. It is not part of the digest: whatever is pinned or routed stays so.
    """
    from penstock.artifacts.signatures.signers import signed_by

    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models:
        artifact = subject(models, ref)
        key, bundle = signed_by(private_key.expanduser(), _passphrase(settings), artifact.ref, artifact.digests())
        with working(f"verifying {artifact.ref}"):
            artifact.verify()
        path = _write(models, ref, artifact, signature, bundle)
    if as_json:
        print_json({"ref": artifact.ref, "digest": artifact.digest, "signature": path, "key": key.hint})
    else:
        typer.echo(f"signed {artifact.ref} with {private_key.name} (public key sha256 {key.hint[:16]}…): {path}")


def _write(models: Registry, ref: str, artifact: Artifact, out: Path | None, bundle: bytes) -> Path:
    from penstock.artifacts.artifact import SIGNATURE
    from penstock.artifacts.files import replace_file

    if out is None and not is_directory(ref):
        return models.add_signature(artifact.ref, bundle)
    path = artifact.path / SIGNATURE if out is None else out.expanduser()
    try:
        replace_file(path, bundle, artifact.path.parent if out is None else path.parent)
    except OSError as error:
        raise ConfigError(not_written(error, path)) from None
    return path


def _passphrase(settings: Settings) -> Passphrase:
    """From the settings, else from a person."""

    def ask() -> str | None:
        if settings.signing_passphrase is not None or not sys.stdin.isatty():
            return settings.signing_passphrase
        answer: str = typer.prompt("Passphrase", hide_input=True, err=True)
        return answer

    return ask
