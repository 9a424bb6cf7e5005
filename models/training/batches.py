"""Training batches as a pure function of the step, prepared one ahead in a thread.

Which samples (images, or people) a step sees, and how they are varied, follows from (seed, step) alone. A run
that resumes at step k therefore goes on exactly as if it had never stopped, with no loader state to save.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgewise.models.data.augment import Augmentation
from edgewise.models.data.dataset import Dataset
from edgewise.runtime.contract.preprocessing import Preprocess

_ORDER, _VARIATION = 1, 2


@dataclass(frozen=True)
class Batch:
    """uint8 [N, h, w, 3] frames at network size, and the task's targets for each."""

    frames: Tensor
    targets: tuple[Any, ...]


@dataclass(frozen=True)
class BatchSource:
    """Where batches come from; `at(step)` is pure."""

    dataset: Dataset
    spec: Preprocess
    augmentation: Augmentation
    batch: int
    seed: int

    def indices(self, step: int) -> list[int]:
        """Samples of a step: every epoch is a new permutation of the whole dataset."""
        count = self.dataset.sample_count
        places = range(step * self.batch, (step + 1) * self.batch)
        return [int(_permutation(self.seed, place // count, count)[place % count]) for place in places]

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        frames: list[NDArray[np.uint8]] = []
        targets: list[Any] = []
        for slot, index in enumerate(self.indices(step)):
            rng = np.random.default_rng((self.seed, _VARIATION, step, slot))
            frame, target = self.dataset.training_pair(rng, index, self.spec, self.augmentation)
            frames.append(frame)
            targets.append(target)
        return Batch(torch.from_numpy(np.stack(frames)), tuple(targets))

    def run(self, start: int, end: int) -> Iterator[tuple[int, Batch]]:
        """Steps start..end-1 with their batches; the next batch is prepared while one is used."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            following: Future[Batch] | None = pool.submit(self.at, start) if start < end else None
            for step in range(start, end):
                assert following is not None
                batch = following.result()
                following = pool.submit(self.at, step + 1) if step + 1 < end else None
                yield step, batch


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)
