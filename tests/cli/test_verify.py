from __future__ import annotations

from penstock.cli.options import open_registry, read_settings


def test_a_right_version_is_ok(penstock, published):
    done = penstock("verify", published)
    assert done.code == 0
    assert "linear:v1.0" in done.out
    assert "onnx-fp32" in done.out
    assert "ok" in done.out


def test_json_is_that_of_the_contract(penstock, published):
    done = penstock("verify", "linear:v2.0", "--json")
    assert done.code == 0
    assert done.err == ""
    document = done.json()
    assert document["ref"] == "linear:v2.0"
    (one,) = document["variants"]
    assert one["name"] == "onnx-fp32"
    assert (one["ok"], one["why"], one["batch_invariant"]) == (True, "", True)
    assert one["max_abs"] == 0.0
    assert set(one) == {"name", "max_abs", "max_rel", "cosine", "top1", "batch_invariant", "ok", "why"}


def test_an_altered_variant_fails(penstock, published, tmp_path):
    path = next((tmp_path / "registry" / "linear" / "v1.0").rglob("*.onnx"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    done = penstock("verify", published, "--json")
    assert done.code == 1
    assert done.json()["variants"][0]["ok"] is False
    assert str(path) in done.json()["variants"][0]["why"]


def test_a_version_that_no_variant_of_can_be_run_fails(penstock, tmp_path):
    import torch_forms
    import zoo

    torch_forms.write_script(zoo.MLP, tmp_path / "m.ts")
    imported = penstock("models", "import", "m.ts", "--input", "x:FP32:-1x12", "--trust", "code")
    assert imported.code == 0, imported.err
    with open_registry(read_settings()) as registry:
        registry.trust(registry.get("m").digest, "data")
    done = penstock("verify", "m")
    assert done.code == 1
    assert "not run" in done.out
    assert "--trust code" in done.out
    assert "no variant was shown to be right" in done.err


def test_an_unknown_reference_is_one_sentence(penstock, published):
    done = penstock("verify", "nothing")
    assert done.code == 1
    assert done.err.startswith("penstock: there is no model 'nothing'")
