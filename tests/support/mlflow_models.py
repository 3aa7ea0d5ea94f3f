"""Real MLflow, without its warnings at import and without telemetry."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Mlp


@pytest.fixture(scope="session")
def mlflow() -> Iterator[Any]:
    """The package, with its flavors onnx and pytorch."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DO_NOT_TRACK", "true")
        patch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
        warnings.simplefilter("ignore")
        import mlflow.onnx
        import mlflow.pyfunc
        import mlflow.pytorch

        yield mlflow


def quietly(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call MLflow, whose own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **keywords)


@pytest.fixture(scope="session")
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp(4, 3).eval()


@pytest.fixture(scope="session")
def mlflow_directories(mlflow: Any, mlp: Mlp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories that MLflow wrote of one model: `pt2`, `pickle`, `torchscript` and `onnx`."""
    import onnx
    from linear_models import linear
    from mlflow.models import infer_signature

    root = tmp_path_factory.mktemp("mlflow")
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).numpy()
    signature = infer_signature(rows, mlp(torch.from_numpy(rows)).detach().numpy())
    common = {"signature": signature, "pip_requirements": ["torch"], "input_example": rows}
    save = mlflow.pytorch.save_model
    quietly(save, mlp, root / "pt2", serialization_format="pt2", **common)
    quietly(save, mlp, root / "pickle", serialization_format="pickle", **common)
    script = quietly(torch.jit.trace, mlp, torch.from_numpy(rows))
    quietly(save, script, root / "torchscript", serialization_format="pickle", **common)
    model = onnx.load(linear(root / "linear.onnx"))
    named = infer_signature({"x": rows}, {"logits": rows[:, :3]})
    quietly(mlflow.onnx.save_model, model, root / "onnx", signature=named, pip_requirements=["onnx"],
            input_example={"x": rows})  # fmt: skip
    return root


__all__ = ["mlflow", "mlflow_directories", "mlp", "quietly"]
