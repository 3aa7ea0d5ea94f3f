"""The house rules, held against the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from linear_models import linear

import penstock

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "src", *sorted((ROOT / "packages").glob("*/src")))
FILES = sorted(path for source in SOURCES for path in source.rglob("*.py"))

LONGEST_FUNCTION = 60
LONGEST_FILE = 420
MOST_PUBLIC_NAMES = 27
MOST_PARAMETERS = 8
MOST_MODULES = 12
MOST_MODULES_BY_NAME = 16
ROOMS_BY_NAME = ("penstock/cli", "penstock/scan", "penstock/tasks")
"""Rooms that a reader searches by name: one file a command, a scanner, a task."""
HEAVY = ("torch", "onnxruntime", "openvino", "fastapi", "granian", "grpc", "sqlalchemy", "PIL")

OWNERS = {
    "torch": ("penstock/backends/", "penstock/toolchain/", "penstock_digits/", "penstock_hydraulics/learning/"),
    "onnxruntime": ("penstock/backends/", "penstock/toolchain/", "penstock_digits/", "penstock_hydraulics/learning/"),
    "openvino": ("penstock/backends/", "penstock/toolchain/"),
    "nncf": ("penstock/toolchain/recipes/",),
    "torchao": ("penstock/toolchain/recipes/",),
    "fastapi": ("penstock/gateway/",),
    "granian": ("penstock/gateway/",),
    "sqlalchemy": ("penstock/registry/", "penstock_hydraulics/fleet/"),
    "prometheus_client": ("penstock/monitor/",),
    "jwt": ("penstock/gateway/callers/",),
    "typer": ("penstock/cli/", "penstock_hydraulics/cli/"),
}
"""Which rooms may import a package at all."""

INSIDE_FUNCTIONS = ("jwt", "torch", "onnxruntime", "openvino", "nncf", "torchao", "fastapi", "granian")
"""Packages that `penstock` imports where they are used and never while a module is imported."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative(path: Path) -> str:
    return next(path.relative_to(source).as_posix() for source in SOURCES if path.is_relative_to(source))


def imported(node: ast.AST) -> list[str]:
    """The top-level packages an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that is executed while the module is imported: no function bodies, nothing for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from run_at_import(child)


def test_the_source_is_found() -> None:
    names = {relative(path) for path in FILES}
    assert {"penstock/settings.py", "penstock_digits/model.py", "penstock_hydraulics/task.py"} <= names


def test_imports_follow_the_layers() -> None:
    """The contracts of pyproject.toml: layers, and a platform that does not know its customers."""
    code = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_penstock_loads_nothing_heavy() -> None:
    code = f"import sys, penstock; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", OWNERS)
def test_a_package_is_imported_only_in_its_own_directories(package: str) -> None:
    strangers = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        if not relative(path).startswith(OWNERS[package])
        for node in ast.walk(tree_of(path))
        if package in imported(node)
    ]
    assert strangers == []


def test_loading_a_starter_model_imports_no_other_package(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from penstock.gateway.middleware import build_gateway
from penstock.gateway.service import Service
from penstock.settings import Settings

async def main():
    gateway = build_gateway(Service(Settings()))
    await gateway.service.start(["digits"])
    await gateway.close()

asyncio.run(main())
print(*[name for name in sys.modules if name.startswith(("penstock_", "torch", "alembic."))])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def imported_until_ready(*arguments: object) -> set[str]:
    """Every module that `penstock serve` has imported when it is ready."""
    command = [sys.executable, "-X", "importtime", "-m", "penstock", "serve", *map(str, arguments), "--port", "0"]
    names = set()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if line.startswith("import time:"):
                names.add(line.rpartition("|")[2].strip())
            elif '"event":"ready"' in line:
                break
        server.terminate()
        server.stderr.read()
    assert server.returncode == 0
    return names


UNUSED = (
    *("torch", "onnx", "openvino", "sqlalchemy", "alembic", "PIL", "rich", "pygments", "structlog", "attr", "httpx"),
    *(
        "jwt",
        "cryptography",
        "fastapi",
        "starlette",
        "granian",
        "grpc",
        "prometheus_client",
        "backports.zstd",
        "email.mime",
    ),
    *("penstock.tasks.image", "penstock.tasks.text", "penstock.tasks.tabular", "penstock.toolchain.search"),
    *("penstock.gateway.process.supervisor", "penstock.gateway.process.asgi", "penstock.cli.export"),
)
"""What a server of one ONNX model of vectors does not need: importing it would delay the start and take memory."""


def test_a_server_of_a_file_imports_only_what_it_needs(tmp_path: Path) -> None:
    names = imported_until_ready(linear(tmp_path / "linear.onnx"), "--registry", tmp_path / "registry")
    assert {"onnxruntime", "penstock.gateway.process.h1.listener"} <= names
    assert names.isdisjoint(UNUSED)


def test_a_server_of_a_registry_imports_only_what_it_needs(tmp_path: Path) -> None:
    with penstock.Registry(tmp_path / "registry") as registry:
        registry.publish_bundled("digits", prove=False)
    names = imported_until_ready("--registry", tmp_path / "registry")
    assert {"onnxruntime", "sqlite3"} <= names
    assert names.isdisjoint(UNUSED)


def test_the_parent_of_several_servers_does_not_import_what_they_serve_with() -> None:
    unused = (*UNUSED[:-3], "onnxruntime", "uvloop", "httptools", "penstock.engine.engine", "penstock.gateway.gateway")
    code = f"""
import sys, penstock.gateway.process.serving, penstock.gateway.process.supervisor
print(*[name for name in {unused!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    early = [
        f"{relative(path)}:{node.lineno} imports {name}"
        for path in FILES
        if relative(path).startswith("penstock/")
        for node in run_at_import(tree_of(path))
        for name in imported(node)
        if name in INSIDE_FUNCTIONS
    ]
    assert early == []


def test_only_settings_reads_the_environment() -> None:
    readers = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        if relative(path) != "penstock/settings.py"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in ("environ", "environb", "getenv", "getenvb")
    ]
    assert readers == []


def test_functions_are_at_most_as_long_as_the_limit() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_files_are_at_most_as_long_as_the_limit() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def parameters(function: ast.FunctionDef) -> int:
    """Parameters without `self`; `*args` and `**kwargs` count as one each."""
    arguments = function.args
    named = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    return named - 1 + (arguments.vararg is not None) + (arguments.kwarg is not None)


def test_no_constructor_has_more_than_eight_parameters() -> None:
    many = [
        f"{relative(path)}:{function.lineno} {node.name} has {parameters(function)} parameters"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        and function.name == "__init__"
        and parameters(function) > MOST_PARAMETERS
    ]
    assert many == []


def rooms() -> dict[str, set[str]]:
    """The modules in each directory; `__init__`, `__main__` and migrations do not count."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        if path.stem not in ("__init__", "__main__") and "migrations" not in path.parts:
            found.setdefault(path.parent.relative_to(ROOT).as_posix(), set()).add(path.stem)
    return found


def test_no_directory_has_more_modules_than_the_limit() -> None:
    full = {
        room: len(modules)
        for room, modules in rooms().items()
        if len(modules) > (MOST_MODULES_BY_NAME if room.endswith(ROOMS_BY_NAME) else MOST_MODULES)
    }
    assert full == {}


TREE = re.compile(r"^(?P<room>(?:src|packages)/\S+)/ +(?P<text>\S.*): (?P<modules>\w+(?: \w+)*)$", re.MULTILINE)
"""A line of the tree in docs/architecture.md: a directory, what it is for, and its modules."""


def drawn_tree(drawn: dict[str, str]) -> str:
    """The tree of docs/architecture.md as it should be, with the texts that the page has now."""
    width = max(map(len, rooms())) + 3
    return "\n".join(
        f"{room + '/':{width}}{drawn.get(room, 'what it is for')}: {' '.join(sorted(modules))}"
        for room, modules in sorted(rooms().items())
    )


def test_the_documented_tree_is_the_tree_on_disk() -> None:
    lines = list(TREE.finditer((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    drawn = {line["room"]: set(line["modules"].split()) for line in lines}
    texts = {line["room"]: line["text"] for line in lines}
    assert drawn == rooms(), f"docs/architecture.md should draw:\n{drawn_tree(texts)}"


def test_no_error_is_suppressed_silently() -> None:
    silent = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert silent == []


def test_the_public_names_are_few() -> None:
    assert len(set(penstock.__all__)) == len(penstock.__all__) <= MOST_PUBLIC_NAMES


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(penstock, name) is not None
    assert name in dir(penstock)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Penstocks'"):
        penstock.Penstocks  # noqa: B018  reading it is the point
