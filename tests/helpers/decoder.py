"""Small pools of tokens to train on."""

import torch

from saot.decoder import TokenPool, token_pool
from saot.recipes import DecoderRecipe

SMALL = DecoderRecipe(hidden=16, blocks=1, steps=60, batch=32, dropout=0.1, learning_rate=1e-2)


def pictures(count: int = 4, tokens: int = 30, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pictures whose token class shows in its features; class 2 is rare, token 0 of each is ignored."""
    generator = torch.Generator().manual_seed(seed)
    features, labels = [], []
    for _ in range(count):
        label = torch.randint(0, 2, (tokens,), generator=generator)
        label[3] = 2
        noise = 0.3 * torch.randn(tokens, 6, generator=generator)
        features.append(torch.nn.functional.normalize(torch.eye(6)[label] + noise, dim=-1))
        label[0] = 255
        labels.append(label.to(torch.uint8))
    return features, labels


def pool_of(features: list[torch.Tensor], labels: list[torch.Tensor]) -> TokenPool:
    return token_pool(labels, 3, lambda picture, tokens: features[picture][tokens].half(), 6)
