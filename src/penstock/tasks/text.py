"""Text classification: one or more texts in, one class and its confidence for each out.

The model takes the text itself (a BYTES input): tokenizer and vocabulary are part of its graph.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StrictStr

from penstock.errors import FieldError, InvalidInput, ModelLoadError
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.classification import ClassScores, OutputKind, one_output
from penstock.tasks.validation_errors import MAX_ERRORS, parse_config, parse_request
from penstock.tensors import Arrays, Signature

MAX_TEXTS = 128


class TextRequest(BaseModel):
    """One or more texts to classify."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="A text, or a list of texts.", examples=["I like it", ["I like it", "I do not"]]
    )
    model_version: str | None = Field(
        default=None, description="The model version; the default is that of the reference."
    )


class _TextClasses(BaseModel):
    predictions: list[int] = Field(description="The likeliest class of each text.")
    labels: list[str] = Field(description="The name of that class.")
    confidence_scores: list[float] = Field(description="The probability of that class, 0 to 1.")


class TextResponse(TimedResponse, _TextClasses):
    """The class of every text. (The order of the bases puts predictions first in the JSON.)"""


class TextConfig(BaseModel):
    """The task section of a manifest: the preprocessing of texts and the meaning of the output.

    `scores` names the output with the class scores, if the model has several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strip: bool = False
    lowercase: bool = False
    normalize: Literal["NFC", "NFKC"] | None = None
    max_chars: PositiveInt = 10_000
    scores: str | None = None
    output: OutputKind = "auto"
    labels: tuple[str, ...] | None = None


class TextClassification(Task):
    """Texts to classes; one BYTES input [batch] or [batch, 1]."""

    kind: ClassVar[str] = "text-classification"
    needs_rows: ClassVar[bool] = True
    Request: ClassVar[type[BaseModel]] = TextRequest
    Response: ClassVar[type[BaseModel]] = TextResponse
    passes_arrays: ClassVar[bool] = True
    inline: ClassVar[bool] = True
    refuses_nan: ClassVar[bool] = True

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError if the settings or the signature do not fit."""
        super().__init__(config, signature)
        self.settings = settings = parse_config(TextConfig, self.kind, config)
        self._name, self._column = _text_input(signature)
        self.scores = ClassScores(one_output(signature, settings.scores), settings.output, settings.labels, "text")

    def preprocess(self, request: Any) -> Arrays:
        """The texts as the model's input. Raises InvalidInput naming each invalid text."""
        given = request.text
        alone = isinstance(given, str)
        texts = [self._prepared(text) for text in ([given] if alone else given)]
        faults = [(index, fault) for index, text in enumerate(texts) if (fault := self._fault(text)) is not None]
        if faults:
            errors = tuple(FieldError("text" if alone else f"text[{n}]", fault) for n, fault in faults[:MAX_ERRORS])
            raise InvalidInput(f"{errors[0].field}: {errors[0].message}", errors=errors)
        array = np.array(texts, dtype=object)
        return {self._name: array[:, np.newaxis] if self._column else array}

    def postprocess(self, outputs: Arrays, request: Any) -> TextResponse:  # noqa: ARG002
        """The likeliest class of each text; the engine adds version and times."""
        predictions, confidences = self.scores.best(outputs)
        labels = [self.scores.label(index) for index in predictions]
        return TextResponse(predictions=predictions, labels=labels, confidence_scores=confidences)

    def coerce(self, value: Any) -> TextRequest:
        """Convert a request, a mapping of its fields, a text, or any iterable of texts.

        An iterable may hold more texts than a request over HTTP. Raises InvalidInput.
        """
        if isinstance(value, TextRequest):
            return value
        if isinstance(value, Mapping):
            return parse_request(TextRequest, value)
        texts: Any = [value] if isinstance(value, str) else value
        if isinstance(texts, bytes | os.PathLike) or not isinstance(texts, Iterable):
            raise InvalidInput("text: give a text, a list of texts, or a mapping of fields", field="text")
        texts = list(texts)
        wrong = next((n for n, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None or not texts:
            field, fix = ("text", "give at least 1 text") if wrong is None else (f"text[{wrong}]", "should be a text")
            raise InvalidInput(f"{field}: {fix}", field=field)
        return TextRequest.model_construct(text=value if isinstance(value, str) else texts, model_version=None)

    def _prepared(self, text: str) -> str:
        settings = self.settings
        if len(text) > settings.max_chars:  # it will be refused: do not spend time on normalising it
            return text
        if settings.normalize is not None:
            text = unicodedata.normalize(settings.normalize, text)
        text = text.lower() if settings.lowercase else text
        return text.strip() if settings.strip else text

    def _fault(self, text: str) -> str | None:
        if len(text) > self.settings.max_chars:
            return f"the text has {len(text)} characters, the model takes {self.settings.max_chars} at most"
        if not text or text.isspace():
            return "the text is empty"
        if "\0" in text:
            return "the text holds a NUL character"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "the text has an unpaired surrogate, which is not valid Unicode"
        return None


def _text_input(signature: Signature) -> tuple[str, bool]:
    """The name of the only input; True if its shape is [batch, 1]."""
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise ModelLoadError(f"text classification takes a model with one input, this one has {names}")
    spec = signature.inputs[0]
    if spec.dtype != "BYTES" or len(spec.shape) not in (1, 2) or spec.shape[1:] not in ((), (1,), (-1,)):
        raise ModelLoadError(
            f"text classification takes an input of BYTES [batch] or [batch, 1]; {spec.name!r} is"
            f" {spec.dtype} {list(spec.shape)}"
        )
    return spec.name, len(spec.shape) == 2
