"""The wheels of the platform and of this package: what each contains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

PACKAGE = Path(__file__).parents[1]
PLATFORM = PACKAGE.parents[1]


def built(project: Path, out: Path) -> ZipFile:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, text=True, timeout=120)
    (wheel,) = out.glob("*.whl")
    return ZipFile(wheel)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    with built(PACKAGE, tmp_path_factory.mktemp("hydraulics")) as found:
        yield found


def metadata(wheel: ZipFile, name: str) -> str:
    (path,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_the_wheel_of_the_platform_has_no_hydraulics(tmp_path: Path) -> None:
    with built(PLATFORM, tmp_path) as wheel:
        names = wheel.namelist()
        assert "penstock/__init__.py" in names
        assert [name for name in names if "hydraulic" in name] == []
        assert "hydraulic" not in metadata(wheel, "entry_points.txt")


def test_the_wheel_has_every_file_of_the_package(wheel: ZipFile) -> None:
    source = PACKAGE / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == wanted
    assert "penstock_hydraulics/py.typed" in packed
    assert "penstock_hydraulics/artifacts/hydraulics/v1.0/card.md" in packed
    assert "penstock_hydraulics/artifacts/hydraulics/v1.0/variants/onnx-fp32/model.onnx" in packed
    assert "penstock_hydraulics/fleet/migrations/versions/0001_fleet.py" in packed


def test_the_wheel_has_its_entry_points_and_its_licence(wheel: ZipFile) -> None:
    text = metadata(wheel, "entry_points.txt")
    for line in (
        "penstock-hydraulics = penstock_hydraulics.cli.main:main",
        "hydraulic-diagnostics = penstock_hydraulics.task:HydraulicDiagnostics",
        "hydraulic-diagnostics = penstock_hydraulics.routes:ROUTES",
        "hydraulics = penstock_hydraulics:artifacts",
    ):
        assert line in text
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_serving_needs_a_range_of_penstock_and_no_training_package(wheel: ZipFile) -> None:
    required = Parser().parsestr(metadata(wheel, "METADATA")).get_all("Requires-Dist") or []
    needed = [each for each in required if "extra ==" not in each]
    (platform,) = (each for each in needed if each.startswith("penstock"))
    assert ">=" in platform
    assert "<" in platform
    assert not [each for each in needed if each.startswith(("torch", "scikit-learn", "onnx"))]
