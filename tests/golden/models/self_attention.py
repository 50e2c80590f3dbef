"""Writes self_attention.safetensors: torch.nn.MultiheadAttention with itself and with another sequence.

    pip install torch==2.11.0 safetensors && python self_attention.py
"""

import torch
from torch import nn

import golden

WIDTH, HEADS = 48, 3


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias, std=0.2)
        nn.init.normal_(self.attention.out_proj.bias, std=0.2)


def run(model, inputs):
    attention, x, memory = model.attention, inputs["x"], inputs["memory"]
    hidden = torch.arange(x.shape[1])[None, :] >= inputs["lengths"][:, None]
    alone, _ = attention(x, x, x)
    masked, weights = attention(x, x, x, key_padding_mask=hidden, average_attn_weights=False)
    return {
        "self": alone,
        "residual": alone + x,
        "masked": masked,
        "probabilities": weights[:, :, inputs["rows"].long()],
        "cross": attention(x, memory, memory)[0],
    }


torch.manual_seed(0)
inputs = {
    "x": torch.randn(2, 19, WIDTH),
    "memory": torch.randn(2, 33, WIDTH),
    "lengths": torch.tensor([19, 11], dtype=torch.int32),
    "rows": torch.tensor([0, 18, 7], dtype=torch.int32),
}
golden.save(__file__, Model(), inputs, run)
