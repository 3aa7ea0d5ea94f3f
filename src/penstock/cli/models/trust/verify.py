"""`penstock models verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.models.trust.subject import SubjectArgument, subject
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, working

_Keys = Annotated[
    list[Path],
    typer.Option("--public-key", metavar="FILE", help="Public key (PEM); of several, one has to have signed it."),
]
_Signature = Annotated[
    Path | None,
    typer.Option("--signature", metavar="FILE", help="The signature.", show_default="model.sig beside the manifest"),
]


def verify(
    ref: SubjectArgument,
    public_key: _Keys,
    signature: _Signature = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Check the signature of a version, and every file against it; exit code 1 unless both are right."""
    from penstock.artifacts.files import read_plain
    from penstock.artifacts.signatures.bundle import LARGEST
    from penstock.artifacts.signatures.signers import Signers

    signers = Signers.of(path.expanduser() for path in public_key)
    with open_registry(read_settings(config, registry=registry)) as models:
        artifact = subject(models, ref)
        bundle = artifact.signature_bundle() if signature is None else read_plain(signature.expanduser(), LARGEST)
        assert signers is not None  # the option is required
        key = signers.check(artifact.ref, bundle, artifact.digests())
        with working(f"verifying {artifact.ref}"):
            artifact.verify()
    if as_json:
        print_json({"ref": artifact.ref, "digest": artifact.digest, "valid": True, "key": key.hint})
    else:
        typer.echo(f"{artifact.ref} is signed by {key.name}, and every file is as it was signed")
