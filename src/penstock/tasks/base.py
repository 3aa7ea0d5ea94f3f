"""What the tensors mean: a Pydantic request and response around one model's arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from penstock.errors import InvalidInput
from penstock.tasks.validation_errors import parse_fields
from penstock.tensors import Array, Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    from penstock.registry.registry import Registry


class TimedResponse(BaseModel):
    """A response with the model version and the times of the prediction; the engine fills them in."""

    model_version: str = ""
    inference_time_ms: float = 0.0
    preprocessing_time_ms: float = 0.0
    postprocessing_time_ms: float = 0.0

    def stamp(self, version: str, pre_ms: float = 0.0, run_ms: float = 0.0, post_ms: float = 0.0) -> None:
        """Set the model version and the times."""
        # Pydantic's setattr looks up every field again; on the hot path that costs as much as the softmax.
        self.__dict__.update(
            model_version=version,
            inference_time_ms=round(run_ms, 4),
            preprocessing_time_ms=round(pre_ms, 4),
            postprocessing_time_ms=round(post_ms, 4),
        )


_MEANING = ("preprocess", "postprocess", "coerce", "Request", "Response")
"""What a subclass changes to give its requests and responses another meaning."""


class Task(ABC):
    """Converts one request into the model's inputs and its outputs into a response. Holds no request state.

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
    tensors_field: ClassVar[str | None] = None
    """The field that is an object of nested arrays by the model's inputs, each of which may arrive as an ndarray."""
    takes_arrays: ClassVar[bool] = False
    """True if a request may be one array as a whole, which `from_array` takes."""
    upload_field: ClassVar[str | None] = None
    """The field of `Request` that takes the bytes of an uploaded file."""
    passes_arrays: ClassVar[bool] = False
    """True if the lengths of its arrays are the request's own: then those that do not fit the model are the client's
    error (422); otherwise they are a bug of `preprocess` (500)."""
    inline: ClassVar[bool] = False
    """True if its methods always take less than a millisecond: they run on the event loop, otherwise in a thread.

    It applies to the methods of the class that sets it: a subclass that overrides one of them must set it again.
    """
    bundles: ClassVar[bool] = False
    """True if `rows_into` and `answers` serve several requests at once, faster than one by one.

    Like `inline`, a subclass that changes what they stand for must set it again; the same is true of `preprocess_all`.
    """
    needs_rows: ClassVar[bool] = False
    """True if it reads and answers rows: it does not fit a model with a tensor that has no batch axis."""
    refuses_nan: ClassVar[bool] = False
    """True if `postprocess` itself raises OutOfRange for outputs that are not finite."""
    stores: ClassVar[bool] = False
    """True if its predictions store something, such as a history: web pages of other origins may not request them, and
    their JSON needs its content type."""
    example: ClassVar[Any] = None
    """A request as JSON values; the example in the API documentation."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        own = vars(cls)
        if "inline" not in own and not own.keys().isdisjoint(("preprocess", "postprocess", "coerce")):
            cls.inline = False
        if "bundles" not in own and not own.keys().isdisjoint(_MEANING):  # `answers` would not know of it
            cls.bundles = False
        if "preprocess_all" not in own and "preprocess" in own:
            cls.preprocess_all = Task.preprocess_all  # type: ignore[method-assign]

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """`config` is the task section of the manifest, with its constants. Raises ModelLoadError if it is invalid."""
        self.config = config
        self.signature = signature

    @abstractmethod
    def preprocess(self, request: Any) -> Arrays:
        """The model's inputs for one request. Raises InvalidInput naming the field."""

    @abstractmethod
    def postprocess(self, outputs: Arrays, request: Any) -> BaseModel:
        """The response, from this request's rows of the model's outputs."""

    def preprocess_all(self, requests: Sequence[Any]) -> Arrays | None:  # noqa: ARG002
        """The model's inputs for several `Request`s of one row each, in order: the joined results of `preprocess`.

        None, or any exception, if they have to be prepared one by one, which is the default.
        """
        return None

    def rows_into(self, requests: Sequence[Array]) -> Arrays:
        """The model's inputs for several requests of one row each, given as the numbers of their `array_field`.

        For tasks that set `bundles`: equal to the joined results of `preprocess`. Raises InvalidInput if that would.
        """
        raise NotImplementedError

    def answers(self, outputs: Arrays) -> Sequence[bytes]:
        """The responses to requests of one row each, one for each row of the outputs.

        For tasks that set `bundles`: the JSON of what `postprocess` returns, without the fields of `TimedResponse` and
        without the closing brace. Raises what `postprocess` raises.
        """
        raise NotImplementedError

    def coerce(self, value: Any) -> BaseModel:
        """Convert a Python value (a request, a mapping of its fields, an array or a file) into a `Request`.

        Unless a task overrides it, a mapping holds the fields as over HTTP, and any other value is the task's array or
        upload, or the only required field of its `Request`. Raises InvalidInput.
        """
        if isinstance(value, self.Request):
            return value
        if not isinstance(value, Mapping):
            value = {self._only_field(): value}
        return parse_fields(self.Request, value)

    def array_spec(self) -> TensorSpec | None:
        """Datatype and shape of an array that does not say them itself; None if it must."""
        return None

    def from_array(self, array: Array) -> BaseModel:
        """The request that is this array, which may not be written to. Raises InvalidInput."""
        return self.coerce(array)

    def _only_field(self) -> str:
        """The field that a value without a name is meant for. Raises InvalidInput if there are several."""
        if self.upload_field is not None or self.array_field is not None:
            return str(self.upload_field or self.array_field)
        required = [name for name, field in self.Request.model_fields.items() if field.is_required()]
        if len(required) != 1:
            names = ", ".join(self.Request.model_fields) or "none"
            raise InvalidInput(f"body: give a mapping of the fields of the request: {names}", field="body")
        return self.Request.model_fields[required[0]].alias or required[0]

    def attach(self, registry: Registry, model: str) -> None:  # noqa: B027  most tasks have no resources
        """Start the task's background resources, before an engine on this registry serves the model `name:version`.

        Called once, in the thread that loads the model, and only by an engine, not by a Predictor or ModelManager. An
        exception fails the load of the model, so do not raise because a database is down.
        """

    def close(self) -> None:  # noqa: B027
        """Release what `attach` started, after the model was closed. Also called if `attach` was not."""
