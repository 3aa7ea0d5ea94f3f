"""One version in four forms: each machine takes the fastest that passes the golden samples, and says why.

Writes a small network as ONNX, TorchScript, a torch.export program and plain weights into one artifact, publishes it
with trust in its code, and measures every form here. Needs penstock[train].

    python examples/every_format.py [REGISTRY]
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from penstock import (
    Golden,
    ModelManager,
    Registry,
    Signature,
    TaskEntry,
    TensorSpec,
    VariantSource,
    write_artifact,
)


def write_forms(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> list[VariantSource]:
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (example,), str(folder / "m.onnx"), input_names=["x"], output_names=["y"],
        dynamic_shapes=batch, external_data=False, verbose=False,
    )  # fmt: skip
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=batch), folder / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and many models still come as TorchScript
        torch.jit.save(torch.jit.trace(model, example), folder / "m.ts")
    save_file(model.state_dict(), folder / "m.safetensors")
    weights = VariantSource(
        "pytorch", "fp32", folder / "m.safetensors",
        architecture="torch.nn:Linear", architecture_args={"in_features": 64, "out_features": 8},
    )  # fmt: skip
    files = (("onnx", "m.onnx"), ("torchscript", "m.ts"), ("pt2", "m.pt2"))
    return [*(VariantSource(format, "fp32", folder / name) for format, name in files), weights]


def main(registry_path: str = "registry") -> None:
    torch.manual_seed(0)
    model, samples = torch.nn.Linear(64, 8).eval(), torch.randn(16, 64)
    with torch.inference_mode():
        reference = model(samples).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = write_artifact(
            Path(scratch) / "artifact",
            name="forms",
            version="1.0.0",
            task=TaskEntry(kind="tensor"),
            signature=Signature((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, 8)),)),
            variants=write_forms(model, samples[:2], Path(scratch)),
            golden=Golden({"x": samples.numpy()}, {"y": reference}, atol=1e-5),
            card="",
        )
        registry = Registry(registry_path)
        registry.publish(artifact.path, trust="code")  # its digest is pinned; the artifact itself cannot say so
    for result in ModelManager(registry).selection_results("forms", measure=True):
        print(f"{'takes' if result.taken else 'leaves'} {result.variant}: {result.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
