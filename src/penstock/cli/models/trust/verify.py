"""`penstock models verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.models.trust.subject import SubjectArgument, subject
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, working

if TYPE_CHECKING:
    from penstock.artifacts.signatures.signers import Signer, Signers

_Keys = Annotated[
    list[Path] | None,
    typer.Option("--public-key", metavar="FILE", help="Public key (PEM); of several, one has to have signed it."),
]
_Identity = Annotated[
    str | None,
    typer.Option(
        "--identity", metavar="NAME", help="In place of a key: who has to have signed, as its certificate says."
    ),
]
_Issuer = Annotated[str | None, typer.Option("--issuer", metavar="URL", help="Who vouched for the identity.")]
_Trust = Annotated[
    Path | None,
    typer.Option("--trust-config", metavar="FILE", help="What is trusted: trusted_root.json of a Sigstore instance."),
]
_Signature = Annotated[
    Path | None,
    typer.Option("--signature", metavar="FILE", help="The signature.", show_default="model.sig beside the manifest"),
]


def verify(
    ref: SubjectArgument,
    public_key: _Keys = None,
    identity: _Identity = None,
    issuer: _Issuer = None,
    trust_config: _Trust = None,
    signature: _Signature = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Check the signature of a version, and every file against it; exit code 1 unless both are right.

    By a key pair (--public-key), or by an identity that a Sigstore instance has certified (--identity, --issuer and
    --trust-config); nothing is fetched.
    """
    from penstock.artifacts.files import read_plain
    from penstock.artifacts.signatures.bundle import LARGEST

    signers = _signers(public_key or [], identity, issuer, trust_config)
    with open_registry(read_settings(config, registry=registry)) as models:
        artifact = subject(models, ref)
        bundle = artifact.signature_bundle() if signature is None else read_plain(signature.expanduser(), LARGEST)
        signer = signers.check(artifact.ref, bundle, artifact.digests())
        with working(f"verifying {artifact.ref}"):
            artifact.verify()
    if as_json:
        print_json({"ref": artifact.ref, "digest": artifact.digest, "valid": True, **_shown(signer)})
    else:
        typer.echo(f"{artifact.ref} is signed by {signer.name}, and every file is as it was signed")


def _signers(keys: list[Path], identity: str | None, issuer: str | None, trust: Path | None) -> Signers:
    """Raises ConfigError, or BadParameter unless there are keys or a whole identity."""
    from penstock.artifacts.signatures.identities import identity_of
    from penstock.artifacts.signatures.signers import Signers

    found = Signers.of(path.expanduser() for path in keys)
    if (identity, issuer, trust) == (None, None, None) and found is not None:
        return found
    if identity is None or issuer is None or trust is None or found is not None:
        raise typer.BadParameter("give --public-key FILE, or all of --identity, --issuer and --trust-config")
    return Signers((identity_of(identity, identity, issuer, trust.expanduser()),))


def _shown(signer: Signer) -> dict[str, str]:
    from penstock.artifacts.signatures.keys import PublicKey

    if isinstance(signer, PublicKey):
        return {"key": signer.hint}
    return {"identity": signer.identity, "issuer": signer.issuer}
