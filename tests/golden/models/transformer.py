"""Writes transformer.safetensors: torch.nn.Transformer with a causal target mask, all four options on the same weights.

    pip install torch==2.11.0 safetensors && python transformer.py
"""

import torch
from torch import nn

import golden

WIDTH, HEADS, FEEDFORWARD = 32, 2, 40


def transformer(norm_first, activation):
    # Without dropout, training mode computes what eval mode does, and takes no fused path of another rounding.
    return nn.Transformer(WIDTH, HEADS, 2, 2, FEEDFORWARD, dropout=0.0, activation=activation, batch_first=True,
                          norm_first=norm_first)


def run(model, inputs):
    src, tgt = inputs["src"], inputs["tgt"]
    causal = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1], dtype=src.dtype)
    hidden = torch.arange(src.shape[1])[None, :] >= inputs["lengths"][:, None]
    results = {}
    for norm_first in [False, True]:
        for activation in ["relu", "gelu"]:
            variant = transformer(norm_first, activation).to(src.dtype)
            variant.load_state_dict(model.state_dict())
            name = f"{'pre' if norm_first else 'post'}_{activation}"
            results[name] = variant(src, tgt, tgt_mask=causal)
    results["encoded"] = model.encoder(src)
    # -inf like the other mask: two kinds together are deprecated.
    masked = torch.zeros(hidden.shape, dtype=src.dtype).masked_fill(hidden, float("-inf"))
    results["masked"] = model(src, tgt, tgt_mask=causal, src_key_padding_mask=masked, memory_key_padding_mask=masked)
    return results


torch.manual_seed(0)
model = transformer(False, "relu")
for name, parameter in model.named_parameters():
    if parameter.dim() == 1:
        nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
inputs = {
    "src": torch.randn(2, 19, WIDTH),
    "tgt": torch.randn(2, 11, WIDTH),
    "lengths": torch.tensor([19, 7], dtype=torch.int32),
}
golden.save(__file__, model, inputs, run)
