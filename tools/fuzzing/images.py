"""Boundaries of pixels: raster files and DICOM files."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from fuzzing.boundary import Boundary, expect
from fuzzing.mutations import mutate_bytes
from fuzzing.texts import no_files, put
from mdf_detectron.data.dicom import read_dicom_tags
from mdf_detectron.data.readers import read_pixels, read_size


def _pixels(shape: tuple[int, ...] = (24, 32), top: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def raster_files() -> list[tuple[str, bytes]]:
    """List (suffix, content) of sound raster files of every kind."""
    gray, color = Image.fromarray(_pixels()), Image.fromarray(_pixels((24, 32, 3)))
    deep = Image.fromarray(_pixels(top=65535, dtype=np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    return [
        (".png", encoded(gray, "PNG")), (".png", encoded(deep, "PNG")), (".png", encoded(color, "PNG")),
        (".png", encoded(gray.convert("P"), "PNG")), (".png", encoded(color.convert("RGBA"), "PNG")),
        (".jpg", encoded(gray, "JPEG")), (".jpg", encoded(color, "JPEG", exif=exif)),
        (".jpg", encoded(color.convert("CMYK"), "JPEG")), (".tif", encoded(gray, "TIFF")),
        (".tif", encoded(deep, "TIFF")), (".tif", encoded(color, "TIFF", compression="tiff_lzw")),
        (".tif", encoded(gray, "TIFF", compression="tiff_deflate")), (".bmp", encoded(gray, "BMP")),
        (".tif", encoded(Image.fromarray(_pixels(top=1000, dtype=np.float32)), "TIFF")),
        (".gif", encoded(gray, "GIF")), (".jp2", encoded(gray, "JPEG2000")), (".webp", encoded(color, "WEBP")),
        (".pgm", encoded(gray, "PPM")),
    ]  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int, depth: int = 8, color: int = 0, content: bytes = b"") -> bytes:
    """Write a PNG whose header says its size, whatever its content is."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _with_chunk(kind: bytes, unpacked: int, count: int = 1) -> bytes:
    """Write a sound PNG with compressed text or a color profile that unpacks to so many bytes."""
    sound = encoded(Image.fromarray(_pixels()), "PNG")
    return sound[:33] + _chunk(kind, b"k\0\0" + zlib.compress(bytes(unpacked))) * count + sound[33:]


def _raster_attacks() -> list[Callable[[Path, Any], Path]]:
    bmp = struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    files: list[tuple[str, Callable[[], bytes]]] = [
        ("huge.png", lambda: png_bomb(2**31 - 1, 2**31 - 1)), ("huge.png", lambda: png_bomb(100_000, 100_000, 16, 6)),
        ("large.png", lambda: png_bomb(20_000, 10_000, content=zlib.compress(bytes(20_001 * 10_000)))),
        ("deep.png", lambda: png_bomb(8000, 8000, 16, 6)), ("zero.png", lambda: png_bomb(0, 0)),
        ("line.png", lambda: png_bomb(2**31 - 1, 1)), ("text.png", lambda: _with_chunk(b"zTXt", 64 << 20, 4)),
        ("profile.png", lambda: _with_chunk(b"iCCP", 256 << 20)), ("empty.png", lambda: b""),
        ("short.png", lambda: b"\x89PNG\r\n\x1a\n"), ("text.jpg", lambda: b"no image"),
        ("gif.gif", lambda: b"GIF89a\xff\xff\xff\xff\xf0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"),
        ("bmp.bmp", lambda: b"BM" + bmp), ("ppm.ppm", lambda: b"P6 999999999 999999999 255\n"),
        ("eps.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch executed) (w) file\n"),
        ("eps.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch executed) (w) file\n"),
        ("svg.png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"),
        ("tiff.tif", lambda: b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 256, 4, 1, 2**32 - 1) + b"\x08\0\0\0"),
    ]  # fmt: skip
    return [lambda folder, state, n=n, c=c: put(folder, n, c()) for n, c in files]


def _raster_make(rng: random.Random, folder: Path, state: Any) -> Path:
    suffix, content = rng.choice(state)
    return put(folder, f"image{suffix}", mutate_bytes(rng, content))


def _image_check(path: Path, state: Any) -> None:
    pixels, done = read_pixels(path, 8)
    width, height = read_size(path)
    expect(pixels.dtype == np.uint8 and pixels.shape[:2] == (height, width), f"{pixels.shape} of {width} × {height}")
    expect(pixels.ndim == 2 or pixels.shape[2] == 3, f"shape {pixels.shape}")
    expect((done.width, done.height) == (width, height), "provenance")
    expect(bool(np.isfinite([done.low, done.high]).all()), "range")
    deep, _ = read_pixels(path, 16)
    expect(deep.dtype == np.uint16 and deep.shape == pixels.shape, "16 bits")


IMAGE = Boundary("image", lambda folder: raster_files(), _raster_make, _image_check,
                 [*no_files("image.png"), *no_files("image"), *_raster_attacks()])  # fmt: skip


# --- DICOM


def dicom(pixels: np.ndarray, bits: int, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """Write a CR image as the content of a DICOM file."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    data.Modality, data.PatientID, data.PatientAge, data.PatientSex = "CR", "P1", "062Y", "F"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    data.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    if syntax == JPEGBaseline8Bit:
        data.PixelData = encapsulate([encoded(Image.fromarray(pixels), "JPEG")])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = syntax
    elif syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        data.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        data.compress(syntax)
    buffer = io.BytesIO()
    little = {"little_endian": syntax != ExplicitVRBigEndian, "implicit_vr": syntax == ImplicitVRLittleEndian}
    pydicom.dcmwrite(
        buffer, data, enforce_file_format=True, **(little if not data.file_meta.TransferSyntaxUID.is_compressed else {})
    )
    return buffer.getvalue()


def dicom_files() -> list[bytes]:
    """List sound DICOM files of several transfer syntaxes, with windows, tables and padding."""
    twelve, eight = _pixels(top=4095, dtype=np.uint16), _pixels()
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "US", list(range(256)))
    return [
        dicom(twelve, 12), dicom(twelve, 12, WindowCenter=2000, WindowWidth=3000),
        dicom(eight, 8, VOILUTSequence=[item]), dicom(eight, 8, ModalityLUTSequence=[item]),
        dicom(twelve, 12, PixelPaddingValue=0, PixelPaddingRangeLimit=10, PhotometricInterpretation="MONOCHROME1"),
        dicom(twelve, 12, RescaleSlope="2.5", RescaleIntercept="-1024"), dicom(_pixels((24, 32, 3)), 8),
        dicom(twelve, 12, ImplicitVRLittleEndian), dicom(eight, 8, JPEGBaseline8Bit), dicom(twelve, 12, RLELossless),
        dicom(twelve, 12, JPEGLSLossless), dicom(_pixels((64, 64), 4095, np.uint16), 12, JPEG2000Lossless),
    ]  # fmt: skip


def _dicom_make(rng: random.Random, folder: Path, state: list[bytes]) -> Path:
    content = rng.choice(state)
    if rng.random() < 0.4:
        content = _with_odd_tag(rng, content)
    else:
        content = mutate_bytes(rng, content)
    return put(folder, rng.choice(("image.dcm", "image")), content)


_TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
         "PhotometricInterpretation", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept",
         "NumberOfFrames",
         "PixelPaddingValue", "PixelPaddingRangeLimit", "PlanarConfiguration", "PatientAge", "PatientOrientation",
         "PixelSpacing", "LossyImageCompression", "VOILUTFunction", "PixelAspectRatio")  # fmt: skip


def _with_odd_tag(rng: random.Random, content: bytes) -> bytes:
    """Write a file again with a tag that says something else; where DICOM cannot write it, the file is broken."""
    data = pydicom.dcmread(io.BytesIO(content))
    keyword = rng.choice(_TAGS)
    value = rng.choice([0, 1, 2, 7, 16, 64, 65535, "", "x", "1e400", "nan", "-1", "0", [1, 2], ["1", "x"],
    "PALETTE COLOR",
                        "MONOCHROME1", "YBR_FULL", "SIGMOID", "inf", "1" * 60, None])  # fmt: skip
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        setattr(data, keyword, value)
        buffer = io.BytesIO()
        data.save_as(buffer)
        return buffer.getvalue()
    except Exception:  # pydicom refuses to write most of them: nothing to test then but the broken file
        return mutate_bytes(rng, content)


def _dicom_check(path: Path, state: Any) -> None:
    tags = read_dicom_tags(path, ["PatientID", "PatientAge", "Modality"]) if path.suffix == ".dcm" else {}
    expect(all(value is None or isinstance(value, str) for value in tags.values()), f"tags {tags}")
    _image_check(path, state)


def _dicom_attacks() -> list[Callable[[Path, Any], Path]]:
    sequence = b"\x08\0\x05\0SQ\0\0\xff\xff\xff\xff"  # of unknown length, in itself again
    huge = dicom(_pixels(), 8, Rows=65535, Columns=65535)
    files = [
        huge, dicom(_pixels(), 8, Rows=0), dicom(_pixels(), 8, NumberOfFrames=2**31 - 1), b"\0" * 128 + b"DICM",
        b"\0" * 128 + b"DICM" + b"\xff" * 200, b"", b"\0" * 10**6, b"DICM" * 10,
        b"\0" * 128 + b"DICM" + sequence + (b"\xfe\xff\0\xe0\xff\xff\xff\xff" + sequence) * 3000,
        dicom(_pixels(), 8, RescaleSlope="1e308", RescaleIntercept="1e308"),
    ]  # fmt: skip
    deflated = dicom(_pixels(), 8).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0")
    meta = deflated[: deflated.index(b"1.2.840.10008.1.2.1.99") + 24]

    def deflate_bomb(folder: Path, state: Any) -> Path:
        compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(192)) + compressor.flush()
        return put(folder, "image.dcm", meta + packed)

    return [*(lambda folder, state, c=c: put(folder, "image.dcm", c) for c in files), deflate_bomb]


DICOM = Boundary("dicom", lambda folder: dicom_files(), _dicom_make, _dicom_check,
                 [*no_files("image.dcm"), *_dicom_attacks()])  # fmt: skip
