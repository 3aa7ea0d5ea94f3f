"""Opens a local directory of Hugging Face with transformers: no network, and no code of the directory by default."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.documents import read_json
from penstock.errors import ModelLoadError, UnsupportedFormat, Untrusted, type_and_message
from penstock.libraries import quietly
from penstock.scan.gate import require_allowed
from penstock.scan.scanner import scan_file
from penstock.scan.trust import at_least
from penstock.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
_PYTREE = "torch.utils._pytree"
"""torchao, which transformers imports where it is installed, registers deprecated kinds of constants there."""
ROWS, LENGTH = 3, 8
"""Of the example that a model is exported with; one row is shorter, so that the mask counts."""
MAX_NAMED = 5

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")


@dataclass(frozen=True, eq=False)
class HuggingFaceModel:
    """A model of transformers in evaluation mode, the inputs that it is exported with, and an example of them.

    `lineage` are the class and the kind that its `config.json` names, with its labels.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    example: Mapping[str, Array]
    dynamic: Mapping[str, Mapping[int, str | None]]
    lineage: Mapping[str, Any]


def read_config(directory: Path) -> dict[str, Any]:
    """The content of `config.json`. Raises UnsupportedFormat if it is none of transformers."""
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict):
        raise UnsupportedFormat(f"{directory / CONFIG}: it is no JSON object")
    return config


def open_hugging_face(directory: Path, trust: str = "data", inputs: Sequence[TensorSpec] = ()) -> HuggingFaceModel:
    """The model in a directory: the class that `config.json` names, filled with its weights, all of them.

    `inputs` replace those that the class and the tokenizer name. Raises UnsupportedFormat for a directory that lacks
    something, Untrusted for one with code or pickles of its own unless `trust` covers code, ModelLoadError if the
    weights do not fit.
    """
    config = read_config(directory)
    name = _class_name(directory, config)
    safetensors = _require_weights(directory, trust)
    remote = _own_code(directory, config, trust)
    with _offline() as transformers:
        model = _load(directory, transformers, name, remote=remote, safetensors=safetensors)
        specs = tuple(inputs) or tuple(_inputs(directory, model, _tokenizer_names(directory)))
    lineage = {"class": name, "model_type": config.get("model_type"), "transformers": transformers.__version__}
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and not all(str(label).startswith("LABEL_") for label in labels.values()):
        lineage["labels"] = [str(label) for label in labels.values()]
    dynamic = {spec.name: {axis: _AXES.get(axis) for axis, n in enumerate(spec.shape) if n < 0} for spec in specs}
    return HuggingFaceModel(
        _plain(model, [spec.name for spec in specs]), specs, _example(model, specs), dynamic, lineage
    )


_AXES: dict[int, str | None] = {0: "batch", 1: "length"}


def _class_name(directory: Path, config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    if not isinstance(config.get("model_type"), str) or not isinstance(architectures, list) or not architectures:
        raise UnsupportedFormat(
            f"{directory / CONFIG}: it names no model_type or no architectures; save the model with save_pretrained"
        )
    return str(architectures[0])


def _require_weights(directory: Path, trust: str) -> bool:
    """Scan every file of weights that transformers is to read; True for safetensors, which come before pickles."""
    found = next((files for pattern in _WEIGHTS if (files := sorted(directory.glob(pattern)))), [])
    if not found:
        raise UnsupportedFormat(f"{directory}: neither model.safetensors nor pytorch_model.bin is in it")
    for file in found:
        require_allowed(scan_file(file, "pytorch"), trust)
    index = (
        directory / f"{'model.safetensors' if found[0].suffix == '.safetensors' else 'pytorch_model.bin'}.index.json"
    )
    if index.is_file():
        for part in _parts(directory, index) - {file.name for file in found}:
            require_allowed(scan_file(directory / part, "pytorch"), trust)
    return found[0].suffix == ".safetensors"


def _parts(directory: Path, index: Path) -> set[str]:
    """The files that the index of sharded weights names: they are there, in the directory itself."""
    content = read_json(index)
    parts = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(parts, Mapping):
        raise UnsupportedFormat(f"{index}: it names no files of weights")
    missing = sorted({str(part) for part in parts.values()} - {path.name for path in directory.iterdir()})
    if missing:
        raise UnsupportedFormat(f"{directory}: {missing[0]} is missing; {index.name} names it")
    return {str(part) for part in parts.values()}


def _own_code(directory: Path, config: Mapping[str, Any], trust: str) -> bool:
    """True for a directory whose classes are defined by its own Python files."""
    if not config.get("auto_map"):
        return False
    if not at_least(trust, "code"):
        raise Untrusted(
            f"{directory}: its {CONFIG} names Python code of its own (auto_map), which runs when the model is opened; "
            'trust its source with trust="code"'
        )
    return True


@contextmanager
def _offline() -> Iterator[Any]:
    """transformers, with the network, its messages and its progress bars switched off."""
    try:
        import huggingface_hub.constants as hub
        import transformers
    except ImportError:
        raise UnsupportedFormat(
            "a directory of Hugging Face is opened with transformers, which is not installed; "
            "pip install 'penstock[huggingface]'"
        ) from None
    messages: Any = transformers.utils.logging
    online, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    before, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        with quietly(logger="torchao", level=logging.ERROR), quietly(logger=_PYTREE, level=logging.ERROR):
            yield transformers
    finally:
        hub.HF_HUB_OFFLINE = online
        messages.set_verbosity(before)
        if bars:
            messages.enable_progress_bar()


def _load(directory: Path, transformers: Any, name: str, *, remote: bool, safetensors: bool) -> Any:
    import torch

    found = _class(transformers, name) if not remote else _auto_class(transformers, read_config(directory)["auto_map"])
    if found is None:
        raise UnsupportedFormat(
            f"{directory}: the installed transformers {transformers.__version__} has no class {name}; name the class "
            'of its weights, architecture="module:Class"'
        )
    options = {
        "local_files_only": True,
        "trust_remote_code": remote,
        "dtype": torch.float32,
        "use_safetensors": safetensors,
    }
    try:
        model, info = found.from_pretrained(str(directory), output_loading_info=True, **options)
    except (Exception, SystemExit) as error:  # of the class, its configuration or its files
        raise ModelLoadError(f"{directory}: {name} cannot be opened: {type_and_message(error, 300)}") from None
    _require_filled(directory, name, info)
    for attribute in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(model.config, attribute):
            setattr(model.config, attribute, False)
    return model.eval()


def _class(transformers: Any, name: str) -> Any:
    """The class of a model by its name; transformers has much else by name."""
    found = getattr(transformers, name, None) if name.isidentifier() else None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _auto_class(transformers: Any, auto_map: Mapping[str, Any]) -> Any:
    """The class AutoModelFor… that the directory's own code registers itself with."""
    names = [key for key in auto_map if str(key).startswith("AutoModel")] if isinstance(auto_map, Mapping) else []
    return getattr(transformers, names[0] if names else "AutoModel", None)


def _require_filled(directory: Path, name: str, info: Mapping[str, Any]) -> None:
    """Transformers fills what the file lacks with random numbers; that is refused here."""
    missing = sorted(map(str, info.get("missing_keys", ())))
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys", ()))
    for what, keys in (("lack", missing), ("have another shape of", wrong)):
        if keys:
            more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
            raise ModelLoadError(f"{directory}: the weights {what} {', '.join(keys[:MAX_NAMED])}{more} of {name}")


def _tokenizer_names(directory: Path) -> list[str]:
    """The inputs that the tokenizer makes, where it says so."""
    path = directory / "tokenizer_config.json"
    content = read_json(path) if path.is_file() else {}
    names = content.get("model_input_names") if isinstance(content, Mapping) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _inputs(directory: Path, model: Any, named: Sequence[str]) -> Iterator[TensorSpec]:
    """The inputs of the kinds of model that transformers has most of: texts, and images."""
    main = getattr(model, "main_input_name", "")
    taken = inspect.signature(model.forward).parameters
    if main == "input_ids":
        wanted = {"input_ids", "attention_mask", *named}
        if getattr(model.config, "is_encoder_decoder", False):
            wanted.add("decoder_input_ids")
        yield from (TensorSpec(name, "INT64", (-1, -1)) for name in _TEXT if name in wanted and name in taken)
        return
    size, channels = getattr(model.config, "image_size", None), getattr(model.config, "num_channels", None)
    if main == "pixel_values" and isinstance(channels, int) and isinstance(size, int | list | tuple):
        height, width = (size, size) if isinstance(size, int) else size
        yield TensorSpec("pixel_values", "FP32", (-1, channels, height, width))
        return
    raise UnsupportedFormat(
        f"{directory}: the inputs of {type(model).__name__} are not known here; describe them, such "
        f"as {main or 'x'}:FP32:-1x3x224x224, inputs=[…]"
    )


def _example(model: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Identifiers of the vocabulary, masks whose last row is shorter, and numbers around 0."""
    random = np.random.default_rng(0)
    words = int(getattr(model.config, "vocab_size", None) or 2)
    found: dict[str, Array] = {}
    for spec in specs:
        shape = [n if n >= 0 else (ROWS if axis == 0 else LENGTH) for axis, n in enumerate(spec.shape)]
        if spec.kind in "iu":
            found[spec.name] = _integers(spec, shape, words, random)
        elif spec.kind == "b":
            found[spec.name] = np.ones(shape, bool)
        else:
            found[spec.name] = random.standard_normal(shape).astype(spec.numpy)
    return found


def _integers(spec: TensorSpec, shape: list[int], words: int, random: np.random.Generator) -> Array:
    if "mask" in spec.name:
        mask = np.ones(shape, spec.numpy)
        mask[-1, shape[-1] // 2 :] = 0
        return mask
    if "type" in spec.name:
        return np.zeros(shape, spec.numpy)
    return random.integers(1, max(words, 2), shape).astype(spec.numpy)


def _plain(model: Any, names: Sequence[str]) -> torch.nn.Module:
    """The model as a module with these inputs, in this order, and its tensors as outputs by name."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    Plain.forward = _forward(names)
    Plain.__name__ = Plain.__qualname__ = type(model).__name__
    return Plain().eval()


def _forward(names: Sequence[str]) -> Callable[..., Any]:
    """A method with these parameters: exporters take the names of inputs from the signature of `forward`."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    signature = inspect.Signature(parameters)

    def forward(*values: Any, **named: Any) -> dict[str, Any]:
        import torch

        given = signature.bind(*values, **named).arguments
        outputs = given.pop("self").model(**given, return_dict=True)
        return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}

    setattr(forward, "__signature__", signature)  # noqa: B010  what a type checker knows of functions lacks it
    return forward
