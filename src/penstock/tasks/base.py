"""What the tensors mean: a Pydantic request and response around one model's arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from penstock.tensors import Arrays, Signature

if TYPE_CHECKING:
    from penstock.registry.registry import Registry


class TimedResponse(BaseModel):
    """A response that carries the version and the times of its own making; the engine fills them in."""

    model_version: str = ""
    inference_time_ms: float = 0.0
    preprocessing_time_ms: float = 0.0
    postprocessing_time_ms: float = 0.0

    def stamp(self, version: str, pre_ms: float = 0.0, run_ms: float = 0.0, post_ms: float = 0.0) -> None:
        """Fill in where and how fast the answer was made."""
        # Pydantic's own setattr looks every field up again; on the hot path that is as dear as the softmax.
        self.__dict__.update(
            model_version=version,
            inference_time_ms=round(run_ms, 4),
            preprocessing_time_ms=round(pre_ms, 4),
            postprocessing_time_ms=round(post_ms, 4),
        )


class Task(ABC):
    """Turns one request into arrays and the arrays of the answer into a response. Holds no request state.

    A subclass sets `kind` (its name in manifests), `Request` and `Response`, and is found through the
    entry point group `penstock.tasks`.
    """

    kind: ClassVar[str]
    Request: ClassVar[type[BaseModel]]
    Response: ClassVar[type[BaseModel]]
    array_field: ClassVar[str | None] = None
    """The field of `Request` that is one flat array of numbers and may arrive as a float64 ndarray."""
    series_field: ClassVar[str | None] = None
    """The field that is an object of flat arrays of numbers, each of which may arrive as an `array.array("d")`."""
    upload_field: ClassVar[str | None] = None
    """The field of `Request` that takes the bytes of an uploaded file."""
    inline: ClassVar[bool] = False
    """True when it never takes as long as a millisecond: it then runs on the event loop, else in a thread beside it.

    It concerns the methods of the class that says so: a subclass that overrides one of them says so again.
    """
    refuses_nan: ClassVar[bool] = False
    """True when `postprocess` itself raises OutOfRange for outputs that are not finite."""
    example: ClassVar[Any] = None
    """A request as JSON values, for the documentation to show and to try."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        own = vars(cls)
        if "inline" not in own and not own.keys().isdisjoint(("preprocess", "postprocess", "coerce")):
            cls.inline = False

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """`config` is the task part of the manifest, constants included. Raises ModelLoadError when it does not fit."""
        self.config = config
        self.signature = signature

    @abstractmethod
    def preprocess(self, request: Any) -> Arrays:
        """The model's inputs for one request. Raises InvalidInput naming the field."""

    @abstractmethod
    def postprocess(self, outputs: Arrays, request: Any) -> BaseModel:
        """The response, from this request's own rows of the model's outputs."""

    def coerce(self, value: Any) -> BaseModel:
        """A `Request` from what Python code hands in: a request, a mapping of its fields, an array or a file.

        Raises InvalidInput.
        """
        raise NotImplementedError

    def attach(self, registry: Registry, model: str) -> None:  # noqa: B027  most tasks have nothing to keep
        """The model, `name:version`, is about to answer for an engine on this registry: start what lives beside it.

        Called once, in the thread that loads; never for a Predictor or a ModelManager of one's own. A database that is
        down is no reason to raise: what is raised keeps the model from being loaded.
        """

    def close(self) -> None:  # noqa: B027
        """The model was closed: end what `attach` started. Also called where nothing was attached."""
