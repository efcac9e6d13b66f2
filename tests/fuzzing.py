"""Damaged inputs of every kind, each made from its number alone, so that any one can be made again."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

N_INPUTS = {"images": 600, "annotations": 500, "predictions": 300, "options": 400, "folders": 200}  # 2,000 in all
IMAGE_FORMATS = ("PNG", "JPEG", "PPM", "GIF", "BMP")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**60, -(2**60), 10**400, 1e308, math.inf, -math.inf, math.nan),
    *("", " ", "x", "\ud800", "a\0b", "x" * 5000, "../../x"),
    *([], [[]], {}, [None], [1, 2, 3, 4], ["a", "b", "c", "d"], [[1, 2, 3]], [[1e9, 0, 1, 1, 2, 2]]),
    *({"counts": [5], "size": [60, 80]}, {"counts": "0", "size": [60, 80]}, {"counts": [4800], "size": [60, 80]}),
    *({"counts": "~~", "size": [1, 1]}, {"size": [10**9, 10**9], "counts": "0"}),
)
KEYS = (
    *("images", "annotations", "categories", "id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name"),
    *("name", "score", "height", "width", "segmentation"),
)


def dice(kind: str, number: int) -> random.Random:
    """The random numbers of one input."""
    return random.Random(f"{kind} {number}")


def image_bytes(number: int) -> tuple[str, bytes]:
    """A damaged image: its file name and content."""
    draw = dice("images", number)
    ending = IMAGE_FORMATS[number % len(IMAGE_FORMATS)]
    height, width = draw.randint(1, 40), draw.randint(1, 40)
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(pixels)
    mode = draw.choice(["RGB", "L", "P", "1"]) if ending in ("PNG", "BMP") else "RGB"
    file = io.BytesIO()
    picture.convert(mode).save(file, ending)
    return f"{number:04d}.{ending.lower()}", damaged(draw, file.getvalue())


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Cut off, bits flipped, a piece overwritten, or a piece taken out."""
    way = draw.choice(["cut", "flip", "overwrite", "take out"])
    at = draw.randrange(len(content) + 1) if draw.random() < 0.5 else draw.randrange(min(len(content), 64) + 1)
    if way == "cut":
        return content[:at]
    if way == "take out":
        return content[:at] + content[at + draw.randint(1, 16) :]
    if way == "overwrite":
        return content[:at] + draw.randbytes(draw.randint(1, 8)) + content[at + 8 :]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 2, 8, 32]) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def json_bytes(kind: str, number: int, content: Any) -> bytes:
    """A JSON file with entries replaced, dropped or doubled; every fifth damaged as bytes instead."""
    draw = dice(kind, number)
    if number % 5 == 0:
        return damaged(draw, json.dumps(content).encode())
    content = json.loads(json.dumps(content))
    for _ in range(draw.choice([1, 1, 2, 3])):
        place = content
        while isinstance(place, (dict, list)) and place and draw.random() < 0.75:
            inner = place[draw.choice(sorted(place))] if isinstance(place, dict) else draw.choice(place)
            if not isinstance(inner, (dict, list)) or not inner:
                break
            place = inner
        if isinstance(place, dict):
            key = draw.choice([*place, *KEYS])
            if draw.random() < 0.25:
                place.pop(key, None)
            else:
                place[key] = draw.choice(VALUES)
        elif draw.random() < 0.8 and place:
            place[draw.randrange(len(place))] = draw.choice([*VALUES, place[-1]])
        else:
            place.append(draw.choice(VALUES))
    return json.dumps(content).encode()


def cut_a_file(number: int, folder: Path) -> Path:
    """Cut one file of a folder off at a random byte; which one."""
    draw = dice("folders", number)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    file = draw.choice(files)
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    return file


WORDS = (
    *("nan", "inf", "-inf", "-1", "-0.5", "0", "1e999", "1e-400", "99999999999999999999", "9" * 5000, "", " ", "many"),
    *("1,2", "0x1F", "1/0", "3/2", "1/99999999999999999999", "layer", "[]", "{", "null", "\u0663", "a=b", "=", "a="),
    *("a.b=1", "x" * 9999, "../..", "NaN", "true", "by-id", "cuda:99999999999999999999", "cpu:x", "meta:0"),
)
SETTING_WORDS = (
    *(
        "nan",
        "Infinity",
        "-1",
        "1e999",
        "1.5",
        "99999999999999999999",
        "[]",
        "[1, 2, 3]",
        "[[1]]",
        "{}",
        "null",
        "true",
    ),
    *("half", '"0.5"', "[" * 2000, "", "\ud800"),
)


def option(number: int, options: list[str], settings: list[str]) -> list[str]:
    """An option with a word that it may not know how to take, or a setting of a method with such a value."""
    draw = dice("options", number)
    if settings and number % 3 == 0:
        return ["--set", f"{draw.choice(settings)}={draw.choice(SETTING_WORDS)}"]
    return [f"{draw.choice(options)}={draw.choice(WORDS)}"]
