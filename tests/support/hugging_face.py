"""Local directories of Hugging Face with tiny random models; nothing is fetched."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

VOCABULARY = 40


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory of save_pretrained with a classifier of one layer, and the model itself."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        config = DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32,
            id2label={0: "bad", 1: "good", 2: "neither"}, label2id={"bad": 0, "good": 1, "neither": 2},
        )  # fmt: skip
        torch.manual_seed(0)
        model = DistilBertForSequenceClassification(config).eval()
        directory = tmp_path_factory.mktemp("hub") / "distilbert"
        model.save_pretrained(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_input_names": ["input_ids", "attention_mask"]}))
    return directory, model
