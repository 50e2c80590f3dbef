"""Writes bert.safetensors: transformers' BertModel without pooler, under masks whose zeros are at the end and elsewhere.

    pip install torch==2.11.0 safetensors transformers==5.23.0 && python bert.py
"""

import torch
from torch import nn
from transformers import BertConfig, BertModel

import golden

CONFIG = BertConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
                    max_position_embeddings=24, attn_implementation="eager")


def run(model, inputs):
    ids, types, padded, holes = (inputs[name] for name in ["input_ids", "token_type_ids", "attention_mask", "holes"])
    hidden = model(input_ids=ids, attention_mask=padded).last_hidden_state
    mask = padded[:, :, None].to(hidden.dtype)
    return {
        "hidden": hidden,
        "typed": model(input_ids=ids, attention_mask=padded, token_type_ids=types).last_hidden_state,
        "holes": model(input_ids=ids, attention_mask=holes).last_hidden_state,
        "embedding": nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)),
    }


torch.manual_seed(0)
model = BertModel(CONFIG, add_pooling_layer=False).eval()
for name, parameter in model.named_parameters():
    norm = "LayerNorm" in name
    nn.init.normal_(parameter, mean=1.0 if norm and name.endswith("weight") else 0.0, std=0.2)
inputs = {
    "input_ids": torch.randint(0, 53, (2, 17), dtype=torch.int32),
    "token_type_ids": torch.randint(0, 2, (2, 17), dtype=torch.int32),
    "attention_mask": (torch.arange(17)[None, :] < torch.tensor([[17], [6]])).int(),
    "holes": torch.randint(0, 2, (2, 17), dtype=torch.int32),
}
golden.save(__file__, model, inputs, run)
