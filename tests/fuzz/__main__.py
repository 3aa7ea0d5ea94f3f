"""`python tests/fuzz [TARGET …] [--count N] [--seed S]`: the long form, for each target or for some.

With atheris (`pip install 'penstock[fuzz]'`) its coverage guides the changes, one target a process; without it they are
drawn at random. A finding is written to `tests/fuzz/corpus/TARGET/`, and ends the run; from then on it is replayed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

try:
    import atheris
except ImportError:
    atheris = None
else:
    with atheris.instrument_imports(include=["penstock", "pickletools", "yaml"], enable_loader_override=False):
        import targets  # noqa: F401  first imported here, so that its parsers report what they reach

from targets import CORPUS, LONGEST, TARGETS, inputs, mutated


def kept(name: str, data: bytes) -> Path:
    """The file of a finding."""
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def checked(name: str, data: bytes) -> None:
    """Run a target once. Raises what it raises, after the input is written down."""
    try:
        TARGETS[name].run(data)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            print(f"{name}: {error!r}; replay with {kept(name, data)}", file=sys.stderr)
        raise


def at_random(name: str, count: int, seed: int) -> None:
    """Without coverage."""
    chance, pool = random.Random(seed), inputs(name)
    for index in range(count):
        checked(name, mutated(chance, pool))
        if index % 100_000 == 99_999:
            print(f"{name}: {index + 1:,}", flush=True)


def guided(name: str, count: int, seed: int) -> None:
    """With atheris, which ends the process."""
    pool, chance = inputs(name), random.Random(seed)

    def mutate(data: bytes, most: int, _: int) -> bytes:
        own = mutated(chance, [data, *pool]) if chance.random() < 0.5 else atheris.Mutate(data, len(data) + 40)
        return bytes(own[:most])

    arguments = [sys.argv[0], f"-runs={count}", f"-seed={seed}", f"-max_len={LONGEST}", "-timeout=60"]
    arguments.append(tempfile.mkdtemp(prefix="penstock-fuzz-"))  # for what reaches something new
    arguments += [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    atheris.Setup(arguments, lambda data: checked(name, data), custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if len(arguments.targets) == 1:
        run = at_random if arguments.plain or atheris is None else guided
        run(arguments.targets[0], arguments.count, arguments.seed)
        return
    for name in arguments.targets:
        options = [f"--count={arguments.count}", f"--seed={arguments.seed}", *(["--plain"] if arguments.plain else [])]
        print(f"{name}: {arguments.count:,} inputs", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).parent), name, *options], check=True)


if __name__ == "__main__":
    main()
