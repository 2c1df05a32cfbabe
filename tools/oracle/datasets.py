"""Small files of every format that ddpm-gpu reads, written by Pillow, pickle, NumPy and tarfile: tests/golden/data/.

images/       pictures, and expected.safetensors: what Pillow reads in each, [H, W, C] (uint16 for 16 bits)
formats/      the same of further formats, and of pictures that were taken with the camera held otherwise
cifar-*/      CIFAR-10's layout, 2 images a batch: the binary version, and pickles of Python 2 and of several protocols
arrays/       .npy and .npz, 3 images of 4 x 5 pixels
shards/       two WebDataset shards with labels in .cls; names.tar has labels in .json

Pixels of cifar, arrays follow formulas that the tests repeat. Needs Pillow, NumPy and safetensors.
"""

import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "data"


def fresh(name):
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder


def smooth(height, width, channels):
    """A picture without sharp edges, which lossy formats keep."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    return (40 + 120 * (x / width) + 60 * (y / height) * (c + 1) / channels).astype(np.uint8)


def images():
    folder = fresh("images")
    noise = np.random.default_rng(5).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    grey = Image.fromarray(noise[..., 0])
    palette = rgb.quantize(11)
    transparent = rgba.quantize(9)
    photo = Image.fromarray(smooth(19, 26, 3))
    rotated = Image.Exif()
    rotated[0x0112] = 6

    grey.save(folder / "grey.png")
    grey.convert("1").save(folder / "one-bit.png")
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1873).save(folder / "grey-16.png")
    Image.fromarray(noise[..., :2], "LA").save(folder / "grey-alpha.png")
    rgb.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    palette.save(folder / "palette.png")
    transparent.save(folder / "palette-alpha.png")
    photo.save(folder / "plain.jpg", quality=95, subsampling=0)
    photo.save(folder / "subsampled.jpg", quality=90, subsampling=2)
    photo.save(folder / "progressive.jpeg", quality=95, subsampling=0, progressive=True)
    photo.save(folder / "rotated.jpg", quality=95, subsampling=0, exif=rotated)
    photo.convert("L").save(folder / "grey.jpg", quality=95)
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    rgb.save(folder / "lossless.webp", lossless=True)
    rgba.save(folder / "alpha.webp", lossless=True, exact=True)
    photo.save(folder / "lossy.webp", quality=95)
    rgb.save(folder / "misnamed.png", format="webp", lossless=True)

    save_expected(folder)


def formats():
    folder = fresh("formats")
    noise = np.random.default_rng(6).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    grey = Image.fromarray(noise[..., 0])
    grey_16 = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1873)
    photo = Image.fromarray(smooth(19, 26, 3))

    photo.save(folder / "photo.jfif", format="jpeg", quality=95, subsampling=0)
    photo.save(folder / "photo.jpe", format="jpeg", quality=95, subsampling=0)
    rgb.save(folder / "rgb.bmp")
    rgb.quantize(11).save(folder / "palette.dib", format="bmp")
    rgb.quantize(11).save(folder / "palette.gif")
    rgb.quantize(11).save(folder / "animated.gif", save_all=True, append_images=[rgb.rotate(180).quantize(11)])
    rgb.save(folder / "rgb.tiff")
    rgba.save(folder / "deflate.tif", compression="tiff_adobe_deflate")
    grey_16.save(folder / "grey-16.tif", compression="tiff_lzw")
    rgb.save(folder / "rgb.ppm")
    grey.save(folder / "grey.pgm")
    grey.convert("1").save(folder / "one-bit.pbm")
    for orientation in range(1, 9):
        rotated = Image.Exif()
        rotated[0x0112] = orientation
        rgb.save(folder / f"rotated-{orientation}.png", exif=rotated)
    grey_16.save(folder / "rotated-16.png", exif=rotated)
    rgb.save(folder / "rotated.webp", lossless=True, exif=rotated)
    rgb.save(folder / "rotated.tif", exif=rotated)
    save_expected(folder)


def save_expected(folder):
    expected = {}
    for path in sorted(folder.iterdir()):
        image = ImageOps.exif_transpose(Image.open(path))
        modes = {"1": "L", "CMYK": "RGB", "P": "RGBA" if "transparency" in image.info else "RGB"}
        if image.mode in modes:
            image = image.convert(modes[image.mode])
        pixels = np.array(image)
        expected[path.name] = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))
    save_file(expected, folder / "expected.safetensors")


def cifar_pixels(batch, images):
    """[N, 3, 32, 32]"""
    n, c, y, x = np.mgrid[0:images, 0:3, 0:32, 0:32]
    return ((97 * batch + 40 * n + 11 * c + 5 * y + 2 * x) % 256).astype(np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, in which the published batches are pickled."""

    def save_bytes(self, obj):
        short = len(obj) < 256
        self.write((b"U" + bytes([len(obj)]) if short else b"T" + struct.pack("<i", len(obj))) + obj)
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}


def cifar():
    binary, python = fresh("cifar-binary"), fresh("cifar-python")
    names = [(f"data_batch_{b}", b) for b in range(1, 6)] + [("test_batch", 6)]
    for name, batch in names:
        pixels = cifar_pixels(batch, 2)
        labels = [batch % 10, (batch + 3) % 10]
        records = [bytes([label]) + image.tobytes() for label, image in zip(labels, pixels)]
        (binary / f"{name}.bin").write_bytes(b"".join(records))
        entry = {
            b"batch_label": name.encode(),
            b"labels": labels,
            b"data": pixels.reshape(2, -1),
            b"filenames": [b"a.png", b"b.png"],
        }
        with open(python / name, "wb") as file:
            if batch in (1, 6):
                Python2Pickler(file, 2).dump(entry)
            else:
                pickle.dump({key.decode(): value for key, value in entry.items()}, file, protocol=batch)
    (python / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane"]}))
    (binary / "batches.meta.txt").write_text("airplane\n")


def arrays():
    folder = fresh("arrays")
    n, y, x, c = np.mgrid[0:3, 0:4, 0:5, 0:3]
    images = (70 * n + 13 * y + 5 * x + 2 * c).astype(np.uint8)
    labels = np.array([2, 0, 1])
    np.savez(folder / "plain.npz", images=images, labels=labels)
    np.savez_compressed(folder / "keras.npz", x_train=images[..., 0], y_train=labels[:, None].astype(np.uint8),
                        x_test=images[:1, ..., 0], y_test=labels[:1].astype(np.uint8))
    np.savez(folder / "no-images.npz", weights=images)
    np.savez(folder / "few-labels.npz", images=images, labels=labels[:2])
    np.save(folder / "channels-first.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    np.save(folder / "floats.npy", images.astype(np.float32) / 255)
    np.save(folder / "signed.npy", images.astype(np.float64) / 127.5 - 1)
    np.save(folder / "sixteen.npy", images.astype(np.uint16) * 257)
    np.save(folder / "fortran.npy", np.asfortranarray(images))
    np.save(folder / "integers.npy", images.astype(np.int64))
    np.save(folder / "vectors.npy", images.reshape(3, -1))


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def encoded(value, format, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, format, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


def shards():
    folder = fresh("shards")
    long = "a/very/long/path/" + "x" * 120
    with tarfile.open(folder / "train-0.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "s0.png", encoded(10, "PNG"))
        add(tar, "s0.cls", b"1")
        add(tar, "s1.cls", b"0\n")
        add(tar, "s1.JPG", encoded(20, "JPEG", (9, 6)))
        add(tar, f"{long}.webp", encoded(30, "WEBP"))
        add(tar, f"{long}.cls", b"2")
    with tarfile.open(folder / "train-1.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "README", b"not a sample")
        add(tar, "s0.txt", b"a caption")
        add(tar, "s0.input.png", encoded(40, "PNG"))
        add(tar, "s0.cls", b"1")
    names = fresh("shards-json")
    with tarfile.open(names / "names.tar", "w") as tar:
        for key, value, name in [("a", 50, "dog"), ("b", 60, "cat"), ("c", 70, "dog")]:
            add(tar, f"{key}.png", encoded(value, "PNG"))
            add(tar, f"{key}.json", json.dumps({"label": name, "caption": "a pet"}).encode())


if __name__ == "__main__":
    images()
    formats()
    cifar()
    arrays()
    shards()
    total = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{ROOT}: {total / 1024:.0f} KiB")
