import csv
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported: two threads wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
WORDS = [f"w{i}" for i in range(90)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIMULATED = {"name": "chip", "backend": "roofline", "options": {"gflops": 0.1}}  # where latency is not what is tested


def needs_data(name: str) -> Path:
    """Return a path of the shared data, or skip the test."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the data folder beside the project")
    return path


torch.set_num_threads(1)  # for fixtures that outlive a test, too: sums over threads are not exact


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def tiny_config(**changes: object) -> BertConfig:
    settings = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        **changes,
    }
    return BertConfig(**settings)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT without a head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    BertModel(tiny_config()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT classifier of two labels (random weights), and its tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    BertForSequenceClassification(tiny_config(num_labels=2)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_rows(path: Path, n: int, seed: int) -> Path:
    """Write texts of random words, labelled by whether more come from the first half of the words."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(n):
            picks = rng.integers(0, len(WORDS), rng.integers(3, 12))
            writer.writerow([" ".join(WORDS[i] for i in picks), int(np.mean(picks < len(WORDS) // 2) > 0.5)])
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv file with 400 texts and two labels."""
    return write_rows(tmp_path_factory.mktemp("data") / "train.csv", 400, 0)


@pytest.fixture
def tiny_recipe(tiny_base: Path, tiny_data: Path) -> dict[str, object]:
    """A recipe whose whole search takes seconds, as nested mappings."""
    return {
        "name": "tiny",
        "teacher": {"model": str(tiny_base), "finetune": {"epochs": 1}},
        "data": {"source": str(tiny_data), "validation_share": 0.2},
        "search": {"trials": 6, "profile_shapes": 4, "train": {"epochs": 0.5}},
        "finalize": {"finalists": 2, "seeds": 2, "starts": 1, "train": {"epochs": 0.5}},
        "tracking": {"mlflow": False},
        "cluster": {"executor": "inprocess"},
    }
