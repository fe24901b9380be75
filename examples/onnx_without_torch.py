"""Predict one photo without torch: python onnx_without_torch.py EXPORTED PHOTO OUT.png [EXPRESSION].

EXPORTED is what `vpd export MODEL --to onnx --out EXPORTED` wrote, for a referring model with --text-encoder (which
takes the package `tokenizers`). Writes the data file of `vpd predict`; runs the whole image at once, without windows.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps


def resize(maps, size):  # (c, h, w) -> (c, *size[::-1]), bilinear, not smoothed
    box, pictures = (0, 0, *maps.shape[:0:-1]), map(Image.fromarray, maps)
    return np.stack([one.transform(size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR) for one in pictures])


folder, photo = Path(sys.argv[1]), ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
fit, session, text, maps = facts["fit"], InferenceSession(folder / "model.onnx"), {}, []
if facts["task"] == "refer":
    from tokenizers import Tokenizer

    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(sys.argv[4]).ids])
    text["text_embeds"] = InferenceSession(folder / "text_encoder.onnx").run(None, {"token_ids": ids})[0]
scale = min(fit["size_px"] / min(photo.size), fit["max_long_px"] / max(photo.size))
sizes = {"resize_short": [max(1, int(side * scale + 0.5)) for side in photo.size], "squash": [fit["size_px"]] * 2}
width, height = sizes.get(fit["mode"], photo.size)
fitted = photo.resize((width, height), Image.Resampling.BILINEAR) if fit["antialias"] else photo
pixels = resize(np.asarray(fitted, np.float32).transpose(2, 0, 1), (width, height)).round() / np.float32(127.5) - 1
padding = [(0, 0), *((0, -side % facts["images"]["multiple_px"]) for side in (height, width))]
for step in (1, -1)[: 1 + fit["flip"]]:  # as it is and, where the model wants it, mirrored
    found = session.run(None, {"images": np.pad(pixels[..., ::step], padding)[None], **text})[0][0, :, :height, :width]
    maps.append(resize(found, photo.size)[..., ::step])
if facts["task"] == "depth":
    data = (np.mean(maps, 0)[0] / facts["metres_per_step"]).round().clip(1, 65535).astype(np.uint16)
else:
    data = sum((e := np.exp(m - m.max(0))) / e.sum(0) for m in maps).argmax(0).astype(np.min_scalar_type(len(maps[0])))
Image.fromarray(data * 255 if facts["task"] == "refer" else data).save(sys.argv[3])
