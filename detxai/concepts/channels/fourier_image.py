"""Images as spectra with decorrelated colours, and random small movements: what activation maximisation optimises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# square root of the covariance of colours in ImageNet, as Lucid (Apache-2.0) publishes it
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
START = 0.01  # standard deviation of the spectrum's first coefficients: an image all but grey


def first_spectrum(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, 3, size, size // 2 + 1, 2): random coefficients of n all but grey images."""
    return START * torch.randn(n, 3, size, size // 2 + 1, 2, generator=generator)


def image_from_spectrum(spectrum: Tensor, size: int, *, decorrelated: bool = True) -> Tensor:
    """(n, 3, size, size) in (0, 1) from ``spectrum``, whose coefficients are of equal weight in a natural image.

    Each frequency is divided by itself, as natural images have it; then colours are mixed as natural images mix them;
    then a sigmoid.

    Args:
        spectrum: (n, 3, size, size // 2 + 1, 2), real and imaginary parts.
        size: of the image.
        decorrelated: whether the three planes are uncorrelated colours; False: red, green and blue.

    Source: Olah et al., 2017, Feature visualization (Distill), "the enemy of feature visualization".
    """
    down, across = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = (down[:, None].square() + across.square()).sqrt().clamp(min=1 / size).to(spectrum.device)
    scaled = torch.view_as_complex(spectrum.contiguous()) * (size / frequency)
    planes = torch.fft.irfft2(scaled, s=(size, size)) / 4
    if decorrelated:
        mixing = torch.tensor(COLOURS, device=spectrum.device)
        mixing = mixing / mixing.norm(dim=0).amax()
        planes = torch.einsum("rc,nchw->nrhw", mixing, planes)
    return planes.sigmoid()


def moved(images: Tensor, generator: torch.Generator, *, jitter: float, scale: float, rotation: float) -> Tensor:
    """The images (n, 3, H, W), each shifted, scaled and rotated by chance; beyond its edge an image is mirrored.

    Args:
        images: of any values.
        generator: of the chance, on the CPU.
        jitter: largest shift, as a share of the side.
        scale: largest relative change of size.
        rotation: largest angle, degrees.
    """
    drawn = (torch.rand(4, len(images), generator=generator) * 2 - 1).to(images)
    angle = drawn[0] * math.radians(rotation)
    size = 1 + drawn[1] * scale
    rows = [
        torch.stack([angle.cos() * size, -angle.sin() * size, 2 * jitter * drawn[2]], 1),
        torch.stack([angle.sin() * size, angle.cos() * size, 2 * jitter * drawn[3]], 1),
    ]
    places = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, places, padding_mode="reflection", align_corners=False)
