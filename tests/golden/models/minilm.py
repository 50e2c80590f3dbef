"""Writes minilm.json: embeddings by transformers' BertModel with the weights that `cargo xtask weights` leaves, in double
precision.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers && python minilm.py ../../../target/weights/minilm
"""

import json
import pathlib
import sys

import tokenizers
import torch
from transformers import BertModel

TEXTS = [
    "A cat sleeps on the warm windowsill.",
    "A kitten naps in the sun.",
    "The central bank raised interest rates by a quarter of a percentage point, to 4.5 %.",
    "Wie spät ist es? 何時ですか。",
    "",
    "One word and another, again and again; " * 80,
]

folder = pathlib.Path(sys.argv[1])
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(512)
model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()


def embedding(text, dtype):
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        hidden = model.to(dtype)(input_ids=ids).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(1))[0].double()


exact = [embedding(text, torch.double) for text in TEXTS]
single = [embedding(text, torch.float) for text in TEXTS]
apart = max((a - b).abs().max() for a, b in zip(exact, single))
print(f"PyTorch's own f32 result is up to {apart:.1e} from these")
items = [{"text": text, "embedding": [round(value, 9) for value in row.tolist()]} for text, row in zip(TEXTS, exact)]
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(items) + "\n")
