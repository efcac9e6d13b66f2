"""A transformer's tokens as feature maps, and back."""

from __future__ import annotations

import math

from torch import Tensor


def tokens_to_maps(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (B, h * w, C), row by row, as maps (B, C, h, w).

    Args:
        tokens: one for each place of a grid.
        size: (h, w) of the grid.

    Raises:
        ValueError: there are more or fewer tokens than places.

    >>> tokens_to_maps(torch.arange(6.0).reshape(1, 6, 1), (2, 3))[0, 0]
    tensor([[0., 1., 2.],
            [3., 4., 5.]])
    """
    height, width = size
    if tokens.ndim != 3 or tokens.shape[1] != height * width:
        raise ValueError(f"tokens must have shape (B, {height} x {width}, C), got {tuple(tokens.shape)}")
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def maps_to_tokens(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as tokens (B, h * w, C), row by row: what ``tokens_to_maps`` undoes.

    Raises:
        ValueError: ``maps`` have another shape.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps must have shape (B, C, h, w), got {tuple(maps.shape)}")
    return maps.flatten(2).transpose(1, 2)


def tokens_reshape_transform(
    output: Tensor, *, size: tuple[int, int] | None = None, n_before: int = 0, n_after: int = 0
) -> Tensor:
    """A transformer layer's tokens as (B, C, H, W), without class, detection and other tokens that have no place.

    Args:
        output: (B, N, C); a tensor of feature maps comes back as it is.
        size: (H, W) of the grid of places; None: a square.
        n_before: tokens before the first place, such as the class token.
        n_after: tokens behind the last, such as YOLOS' detection tokens.

    Raises:
        ValueError: ``output`` is no such tensor, or its places do not fill a grid of this size.

    >>> tokens_reshape_transform(torch.zeros(2, 1 + 9 + 5, 8), n_before=1, n_after=5).shape
    torch.Size([2, 8, 3, 3])
    """
    if output.ndim == 4:
        return output
    if output.ndim != 3:
        raise ValueError(f"output must have shape (B, N, C), got {tuple(output.shape)}")
    places = output[:, n_before : output.shape[1] - n_after]
    if size is None:
        side = math.isqrt(places.shape[1])
        size = (side, side)
        if side * side != places.shape[1]:
            raise ValueError(f"size must be given: {places.shape[1]} tokens make no square")
    return tokens_to_maps(places, size)
