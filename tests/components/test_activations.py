from __future__ import annotations

import copy

import torch

from components.activations import checkpointed


def test_running_statistics_of_transformers_blocks_count_once() -> None:
    """SwiftFormer's blocks hold batch normalisation, and transformers itself computes them again."""
    from transformers import SwiftFormerConfig, SwiftFormerForImageClassification

    config = SwiftFormerConfig(depths=[1, 1], embed_dims=[8, 8], downsamples=[True, True], num_labels=4)
    torch.manual_seed(0)
    plain = SwiftFormerForImageClassification(config).train()
    saving = copy.deepcopy(plain)
    calls: list[str] = []
    for name, module in (("plain", plain), ("saving", saving)):
        norm = module.swiftformer.encoder.network[0].blocks[0].local_representation.norm
        norm.register_forward_hook(lambda layer, given, out, name=name: calls.append(name))
    images = torch.randn(4, 3, 64, 64)
    plain(pixel_values=images).logits.sum().backward()
    with checkpointed(saving):
        saving(pixel_values=images).logits.sum().backward()
    assert calls == ["plain", "saving", "saving"]
    for (key, one), other in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=key)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)
