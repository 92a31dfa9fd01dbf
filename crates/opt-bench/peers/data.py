"""Crops and flips images in plain PyTorch: the peer of `bench data`. Follows protocol.py."""

import platform
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

SIZE, PADDING = 32, 4


class PerSample(Dataset):
    """Varies one image at a time, as torchvision's RandomCrop and RandomHorizontalFlip do on tensors."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = F.pad(self.images[i], [PADDING] * 4)
        top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
        image = image[:, top : top + SIZE, left : left + SIZE]
        if torch.rand(1) < 0.5:
            image = image.flip(-1)
        return image, self.labels[i]


def per_sample(images, padded, labels, batch):
    """A DataLoader in this process: one core, as ours."""
    yield from DataLoader(PerSample(images, labels), batch, shuffle=True, num_workers=0)


def by_windows(images, padded, labels, batch):
    """Whole batches: every window of every image as a view, from which one indexing takes the drawn ones."""
    windows = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1)
    for order in torch.randperm(len(images)).split(batch):
        n = len(order)
        top, left = torch.randint(0, 2 * PADDING + 1, (2, n))
        out = windows[order, :, top, left]
        mirrored = torch.rand(n) < 0.5
        yield torch.where(mirrored.view(n, 1, 1, 1), out.flip(-1), out), labels[order]


def by_shifts(images, padded, labels, batch):
    """Whole batches: for every shift, the images that drew it."""
    for order in torch.randperm(len(images)).split(batch):
        n = len(order)
        top, left = torch.randint(0, 2 * PADDING + 1, (2, n))
        chosen = padded[order]
        rows = torch.empty(n, 3, SIZE, SIZE + 2 * PADDING, dtype=images.dtype)
        out = torch.empty(n, 3, SIZE, SIZE, dtype=images.dtype)
        for shift in range(2 * PADDING + 1):
            at = (top == shift).nonzero().flatten()
            rows[at] = chosen[at, :, shift : shift + SIZE]
        for shift in range(2 * PADDING + 1):
            at = (left == shift).nonzero().flatten()
            out[at] = rows[at, :, :, shift : shift + SIZE]
        at = (torch.rand(n) < 0.5).nonzero().flatten()
        out[at] = out[at].flip(-1)
        yield out, labels[order]


# The first is what a user writes without looking further.
MODES = {
    "image by image, DataLoader without workers": per_sample,
    "whole batches, windows indexed": by_windows,
    "whole batches, shift by shift": by_shifts,
}

streams = {}


def hello(images):
    global data
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, SIZE, SIZE), dtype=torch.uint8)
    data = pixels, F.pad(pixels, [PADDING] * 4), torch.randint(0, 10, (images,))
    return {
        "version": f"PyTorch {torch.__version__} on Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "modes": list(MODES),
    }


def endless(mode, batch):
    while True:
        yield from MODES[mode](*data, batch)


def run(mode, batches, batch):
    """Seconds of `batches` batches; what is prepared once is prepared before."""
    if mode not in streams:
        streams[mode] = endless(mode, batch)
        next(streams[mode])
    started = time.perf_counter()
    for _ in range(batches):
        next(streams[mode])
    return time.perf_counter() - started


serve({f.__name__: f for f in (hello, run)})
