"""Writes attention.safetensors: PyTorch's scaled_dot_product_attention and its gradients, in double precision.

    pip install torch==2.11.0 safetensors && python attention.py

Each case n has q_n [B, Nq, H, D], k_n and v_n [B, Nk, Hkv, D], dout_n f32, bias_n [B or 1, H or 1, Nq, Nk] f32 where there
is one, causal_n and softcap_n [1] f32, and the results out_n, dq_n, dk_n, dv_n, dbias_n f64. A soft cap is applied to the
scores by hand, as PyTorch has none; causal masks align to the bottom right, unlike PyTorch's own flag.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention

CASES = [
    # B, H, Hkv, Nq, Nk, D, bias's first extents, causal, soft cap
    (2, 3, 3, 17, 17, 16, None, False, 0.0),
    (1, 4, 2, 5, 33, 8, None, True, 0.0),
    (2, 2, 1, 19, 19, 24, (1, 2), True, 0.0),
    (2, 2, 2, 9, 13, 8, (2, 1), False, 0.0),
    (1, 2, 2, 12, 12, 16, None, False, 1.5),
]


def attend(q, k, v, bias, causal, softcap):
    queries, keys = q.shape[1], k.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = torch.zeros(queries, keys, dtype=torch.double)
    if causal:
        mask.masked_fill_(torch.ones_like(mask).tril(keys - queries) == 0, float("-inf"))
    if bias is not None:
        mask = mask + bias
    if softcap == 0:
        return scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return ((softcap * (scores / softcap).tanh() + mask).softmax(-1) @ v).transpose(1, 2)


def case(batch, heads, kv_heads, queries, keys, dim, bias, causal, softcap, generator):
    random = lambda *shape: torch.randn(*shape, generator=generator)
    q, dout = random(batch, queries, heads, dim), random(batch, queries, heads, dim)
    k, v = random(batch, keys, kv_heads, dim), random(batch, keys, kv_heads, dim)
    tensors = {"q": q, "k": k, "v": v}
    if bias is not None:
        tensors["bias"] = random(*bias, queries, keys)
    leaves = {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}
    out = attend(leaves["q"], leaves["k"], leaves["v"], leaves.get("bias"), causal, softcap)
    out.backward(dout.double())
    results = {f"d{name}": leaf.grad for name, leaf in leaves.items()}
    scalars = {"causal": torch.tensor([float(causal)]), "softcap": torch.tensor([softcap])}
    return tensors | results | scalars | {"dout": dout, "out": out.detach()}


def main():
    assert torch.__version__.startswith("2.11."), "pinned"
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number, scalars in enumerate(CASES):
        for name, tensor in case(*scalars, generator).items():
            tensors[f"{name}_{number}"] = tensor.contiguous()
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
