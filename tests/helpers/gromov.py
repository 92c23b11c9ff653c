"""Geometries, and the Gromov term from its definition."""

import torch
from helpers.transport import DOUBLE

from saot.transport import DistanceGeometry, PointGeometry


def geometries(kind, n=7, m=5, d=3, scale=1.0):
    """Both geometries and their matrices of distances."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for one, size in zip(kind.split("-"), (n, m), strict=True):
        if one == "points":
            points = scale * torch.randn(size, d, dtype=DOUBLE, generator=generator)
            made.append((PointGeometry(points), torch.cdist(points, points).square()))
        else:
            half = scale * torch.rand(size, size, dtype=DOUBLE, generator=generator)
            made.append((DistanceGeometry(half + half.T), half + half.T))
    (source, ds), (target, dt) = made
    return source, target, ds, dt


def brute_value(plan, ds, dt):
    """Q as printed, over the four indices."""
    loss = (ds[:, :, None, None] - dt[None, None]).square()
    return torch.einsum("ikjl,ij,kl->", loss, plan, plan)


def brute_gradient(plan, ds, dt):
    """Eq. (13) as printed, with its factor 2."""
    loss = (ds[:, :, None, None] - dt[None, None]).square()
    return 2 * torch.einsum("ikjl,kl->ij", loss, plan)
