"""Draw pictures for benchmarks."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, count: int, width: int, height: int, quality: int) -> None:
    """Write JPEGs of random detail; like a photograph's, its amplitude falls as 1 / frequency."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    for number in range(count):
        shape = (3, *frequency.shape)
        waves = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        planes = np.fft.irfft2(waves / frequency, s=(height, width))
        # The colours of a photograph are correlated: most of its detail is brightness.
        planes = planes[:1] + 0.3 * planes
        planes = 128 + 45 * planes / planes.std()
        image = Image.fromarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        (folder / f"{number:04d}.jpg").write_bytes(buffer.getvalue())
