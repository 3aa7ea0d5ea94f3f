"""One version in four formats: each machine selects the fastest variant that passes the golden samples.

Writes a small network as ONNX, TorchScript, a torch.export program and plain weights into one artifact, publishes it
with trust `code`, measures every variant and prints the reason for each result. Needs penstock[train].

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


def write_variants(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> list[VariantSource]:
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (example,), str(folder / "m.onnx"), input_names=["x"], output_names=["y"],
        dynamic_shapes=batch, external_data=False, verbose=False,
    )  # fmt: skip
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=batch), folder / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but many models are still TorchScript
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
            variants=write_variants(model, samples[:2], Path(scratch)),
            golden=Golden({"x": samples.numpy()}, {"y": reference}, atol=1e-5),
            card="",
        )
        registry = Registry(registry_path)
        registry.publish(artifact.path, trust="code")  # pins its digest; an artifact cannot grant trust to itself
    for result in ModelManager(registry).selection_results("forms", measure=True):
        print(f"{'selected' if result.taken else 'not selected'}: {result.variant}: {result.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
