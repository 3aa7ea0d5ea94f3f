"""Requests and responses of the built-in tasks, for the documentation."""

from __future__ import annotations

from pydantic import BaseModel

from penstock.tasks.image import ImageClassification
from penstock.tasks.tabular import TabularTask
from penstock.tasks.tensor import TensorTask
from penstock.tasks.text import TextClassification
from penstock.tasks.vector import VectorClassification

VECTOR_REQUESTS: tuple[type[BaseModel], ...] = (VectorClassification.Request,)
VECTOR_RESPONSES: tuple[type[BaseModel], ...] = (VectorClassification.Response,)
REQUESTS: tuple[type[BaseModel], ...] = (
    VectorClassification.Request,
    ImageClassification.Request,
    TensorTask.Request,
    TextClassification.Request,
    TabularTask.Request,
)
RESPONSES: tuple[type[BaseModel], ...] = (
    VectorClassification.Response,
    ImageClassification.Response,
    TensorTask.Response,
    TextClassification.Response,
    TabularTask.Response,
)
