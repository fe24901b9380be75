"""Predict one photo without torch: python onnx_without_torch.py EXPORTED PHOTO OUT.png [EXPRESSION] [--provider cuda].

EXPORTED is what `vpd export MODEL --to onnx --out EXPORTED` wrote, for a referring model with --text-encoder (which
takes the package `tokenizers`). Writes the data file of `vpd predict`; runs the whole image at once, without windows.
--provider is who computes: cpu; or cuda or tensorrt, which want the package `onnxruntime-gpu` and were never tried.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, get_available_providers
from PIL import Image, ImageOps, PngImagePlugin

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
REMEDY = (
    "pip uninstall onnxruntime; pip install onnxruntime-gpu, and the CUDA, cuDNN and TensorRT that it was built for"
)
BITS, WHITE_IS_ZERO, KIND, SIGNED, ORIENTATION = 258, 262, 339, (2,), 274  # tags of TIFF files and EXIF


def read(path):  # RGB as `vpd predict` sees it: upright, on white, grey of more than 8 bits scaled (float16: not read)
    PngImagePlugin.MAX_TEXT_CHUNK = 2**26
    photo = Image.open(path)
    photo.load()
    tags = getattr(photo, "tag_v2", {})
    if photo.mode.startswith("I") or photo.mode == "F" or (photo.mode == "L" and tags.get(KIND) == SIGNED):
        rgb = Image.fromarray(grey(np.asarray(photo), tags)).convert("RGB")
    elif photo.mode in ("RGBA", "LA", "PA") or "transparency" in photo.info:
        rgb = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA")).convert("RGB")
    else:
        rgb = photo.convert("RGB")
    rgb.getexif()[ORIENTATION] = photo.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(rgb)


def grey(values, tags):  # -> uint8: white is the largest number of the type, or the first usual one that fits
    bits, is_signed = tags.get(BITS, (0,))[0], tags.get(KIND) == SIGNED
    if values.dtype != np.float32 and (bits == 32 or is_signed):  # as the file has them; Pillow has fewer types
        values = values.astype(f"{'i' if is_signed else 'u'}{bits // 8}")
    kind, top = values.dtype.kind, float(np.max(values, where=np.isfinite(values), initial=0))
    white = next((white for white in (1.0, 255.0, 65535.0)[2 * (kind != "f") :] if top <= 2 * white), top)
    if kind != "f" and values.dtype.itemsize < 4:
        white = 4095.0 if bits == 12 else float(np.iinfo(values.dtype).max)
    if values.dtype != np.uint16:
        values = np.nan_to_num(values.astype(np.float32), nan=0, posinf=0, neginf=0)
    levels = np.clip(np.rint(values * (255.0 / white)), 0, 255).astype(np.uint8)
    return 255 - levels if tags.get(WHITE_IS_ZERO) == 0 else levels


def resize(maps, size):  # (c, h, w) -> (c, *size[::-1]), bilinear, not smoothed
    box, pictures = (0, 0, *maps.shape[:0:-1]), map(Image.fromarray, maps)
    return np.stack([one.transform(size, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR) for one in pictures])


def start(path, provider):  # a session of that provider alone, but for what only the CPU can do
    name, there = PROVIDERS[provider], get_available_providers()
    options = {"cuda": {"use_tf32": "0"}, "tensorrt": {"trt_engine_cache_enable": "1"}}.get(provider, {})
    if provider == "tensorrt":  # an engine takes minutes to build, and is kept beside the model
        options["trt_engine_cache_path"] = str(path.parent)
    if name not in there:
        sys.exit(f"--provider {provider}: onnxruntime has no {name} here, only {', '.join(there)}. {REMEDY}")
    session = InferenceSession(path, providers=[(name, options), *["CPUExecutionProvider"] * (provider != "cpu")])
    if session.get_providers()[0] != name:  # its libraries did not load; onnxruntime has said so, and would go on
        sys.exit(f"--provider {provider}: {name} did not start. {REMEDY}")
    return session


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for word in ("exported", "photo", "out"):
        parser.add_argument(word, type=Path)
    parser.add_argument("expression", nargs="?")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu")
    given = parser.parse_args()
    folder, photo = given.exported, read(given.photo)
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    fit, session, text, maps = facts["fit"], start(folder / "model.onnx", given.provider), {}, []
    if facts["task"] == "refer":
        if given.expression is None:
            parser.error("this model looks for what an expression says: give one after OUT.png")
        from tokenizers import Tokenizer

        ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(given.expression).ids])
        text["text_embeds"] = start(folder / "text_encoder.onnx", given.provider).run(None, {"token_ids": ids})[0]
    scale = min(fit["size_px"] / min(photo.size), fit["max_long_px"] / max(photo.size))
    sizes = {"resize_short": [max(1, int(side * scale + 0.5)) for side in photo.size], "squash": [fit["size_px"]] * 2}
    width, height = sizes.get(fit["mode"], photo.size)
    fitted = photo.resize((width, height), Image.Resampling.BILINEAR) if fit["antialias"] else photo
    pixels = resize(np.asarray(fitted, np.float32).transpose(2, 0, 1), (width, height)).round() / np.float32(127.5) - 1
    padding = [(0, 0), *((0, -side % facts["images"]["multiple_px"]) for side in (height, width))]
    for step in (1, -1)[: 1 + fit["flip"]]:  # as it is and, where the model wants it, mirrored
        images = np.pad(pixels[..., ::step], padding)[None]
        found = session.run(None, {"images": images, **text})[0][0, :, :height, :width]
        maps.append(resize(found, photo.size)[..., ::step])
    if facts["task"] == "depth":
        data = (np.mean(maps, 0)[0] / facts["metres_per_step"]).round().clip(1, 65535).astype(np.uint16)
    else:
        data = np.mean([(e := np.exp(part - part.max(0))) / e.sum(0) for part in maps], 0).argmax(0)
        data = data.astype(np.uint8 if len(maps[0]) <= 255 else np.uint16)
    Image.fromarray(data * 255 if facts["task"] == "refer" else data).save(given.out)


if __name__ == "__main__":
    main()
