"""Writes vit_<naming>.safetensors: Vision Transformers of 16 elements, 2 heads and 2 blocks, as each library builds them.

    pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.31 transformers==5.23.0 safetensors && python vit.py

Images are [B, H, W, C]. `features` and `logits` are of images at the trained size, `resized` of the features at
another, `probabilities` what tokens 0 and 7 attend to in the second block.
"""

import pathlib
import tempfile

import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import golden

WIDTH, HEADS, DEPTH, HIDDEN, PATCH, SIZE, CLASSES = 16, 2, 2, 24, 4, 16, 40
QUERIES = [0, 7]


class Golden(nn.Module):
    """A library's model, with the tensors that its files have."""

    def __init__(self, model, tensors):
        super().__init__()
        self.model = model
        self.tensors = tensors

    def state_dict(self):
        return self.tensors(self.model)


def published(model):
    """The tensors of a model of transformers under the names of its files, which its modules no longer have."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def save(naming, model, run, tensors=lambda model: model.state_dict()):
    for name, tensor in model.named_parameters():
        gain = 1.0 if "norm" in name and name.endswith("weight") or "ln" in name and name.endswith("weight") else 0.0
        nn.init.normal_(tensor, mean=gain, std=0.25)
    # The budget is PyTorch's largest error: of logits, two images would be two samples of a class token's.
    inputs = {"image": torch.randn(6, SIZE, SIZE, 3), "other": torch.randn(6, 20, 24, 3)}
    path = pathlib.Path(__file__).with_name(f"vit_{naming}.py")
    golden.save(path, Golden(model.eval(), tensors), inputs, lambda golden, inputs: run(golden.model, *map(
        lambda image: image.permute(0, 3, 1, 2), (inputs["image"], inputs["other"]))))


def of_torchvision(model, image, _):
    tokens = model._process_input(image)
    features = model.encoder(torch.cat([model.class_token.expand(len(tokens), -1, -1), tokens], 1))
    return {"features": features, "logits": model(image)}


def of_timm(model, image, other):
    return {
        "features": model.forward_features(image),
        "logits": model(image),
        "resized": model.forward_features(other),
    }


def of_vit(model, image, other):
    out = model.vit(image, output_attentions=True)
    return {
        "features": out.last_hidden_state,
        "logits": model(image).logits,
        "resized": model.vit(other, interpolate_pos_encoding=True).last_hidden_state,
        "probabilities": out.attentions[1][:, :, QUERIES],
    }


def of_dinov2(model, image, other):
    out = model(image, output_attentions=True)
    return {
        "features": out.last_hidden_state,
        "resized": model(other).last_hidden_state,
        "probabilities": out.attentions[1][:, :, QUERIES],
    }


class Own(VisionTransformer):
    """DINOv2's own model is timm's but for the fit of positions, and registers that have none."""

    def _pos_embed(self, x):
        _, height, width, _ = x.shape
        x = x.flatten(1, 2)
        grid = SIZE // PATCH
        patches = self.pos_embed[:, 1:].reshape(1, grid, grid, WIDTH).permute(0, 3, 1, 2)
        if (height, width) != (grid, grid):
            factors = ((height + 0.1) / grid, (width + 0.1) / grid)
            patches = nn.functional.interpolate(patches, scale_factor=factors, mode="bicubic")
        positions = torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], 1)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + positions


def own(model):
    return model.state_dict() | {"mask_token": torch.zeros(1, WIDTH)}


torch.manual_seed(0)
assert (timm.__version__, transformers.__version__) == ("1.0.31", "5.23.0"), "pinned"
sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": HIDDEN / WIDTH}
sizes |= {"img_size": SIZE, "patch_size": PATCH, "dynamic_img_size": True}
hugging_face = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": SIZE}
hugging_face |= {"patch_size": PATCH, "attn_implementation": "eager", "num_labels": CLASSES}

save("torchvision", torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=CLASSES),
     of_torchvision)
save("timm", VisionTransformer(num_classes=CLASSES, **sizes), of_timm)
timm_dinov2 = VisionTransformer(num_classes=0, init_values=1.0, reg_tokens=3, no_embed_class=True, **sizes)
save("timm_dinov2", timm_dinov2, lambda model, *images: {
    name: tensor for name, tensor in of_timm(model, *images).items() if name != "logits"})
save("dinov2", Own(num_classes=0, init_values=1.0, **sizes),
     lambda model, image, other: {"features": model.forward_features(image), "resized": model.forward_features(other)},
     own)
vit = transformers.ViTConfig(intermediate_size=HIDDEN, **hugging_face)
save("hugging_face", transformers.ViTForImageClassification(vit), of_vit, published)
dinov2 = {"mlp_ratio": 2, **hugging_face}
save("hugging_face_dinov2", transformers.Dinov2Model(transformers.Dinov2Config(**dinov2)), of_dinov2, published)
registers = transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **dinov2)
save("hugging_face_registers", transformers.Dinov2WithRegistersModel(registers), of_dinov2, published)
