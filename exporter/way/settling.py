"""Suppression rounds are a constant of the graph: they grow here until the pictures at hand settle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edgewise.exporter.bundle.goldens import Clip
from edgewise.models.checkpoints.checkpoint import LoadedModel, under_config
from edgewise.models.checkpoints.evaluation import torch_walk
from edgewise.runtime.contract.manifest import Manifest, ProvenanceStep
from edgewise.runtime.results.result import is_settled
from edgewise.runtime.walk.walk import Walk

MOST_DOUBLINGS = 3
"""How often rounds may double; a picture that needs more is counted, and its result says so."""


def settled_model(
    loaded: LoadedModel, draft: Manifest, clips: Iterable[Clip], progress: Callable[[str], None]
) -> tuple[LoadedModel, tuple[ProvenanceStep, ...]]:
    """The model with rounds enough for every clip, and what of it the provenance keeps.

    A clip that does not settle in eight times the rounds of the config makes nothing grow. More rounds never
    change a result that had enough.

    Args:
        loaded: As the checkpoint says.
        draft: Of its bundle.
        clips: What has to settle.
        progress: Told how it went.
    """
    if loaded.entry.with_more_rounds() is None:
        return loaded, ()
    progress("running the training definition until suppression settles")
    forms = [loaded]
    walk = torch_walk(loaded, draft)
    count = unsettled = chosen = 0
    for clip in clips:
        count += 1
        if _settles(walk, clip):
            continue
        for number, form in _larger(forms, chosen):
            larger = torch_walk(form, draft)
            if _settles(larger, clip):
                chosen, walk = number, larger
                break
        else:
            unsettled += 1
    detail = f"{2**chosen} times the rounds of the checkpoint: {count - unsettled} of {count} pictures settle"
    if chosen or unsettled:
        progress(detail)
    return forms[chosen], (ProvenanceStep(step="settle", tool="edgewise", detail=detail),)


def _larger(forms: list[LoadedModel], chosen: int) -> Iterator[tuple[int, LoadedModel]]:
    """The forms with more rounds than the chosen one, made when they are asked for and kept."""
    for number in range(chosen + 1, MOST_DOUBLINGS + 1):
        if number == len(forms):
            entry = forms[-1].entry.with_more_rounds()
            assert entry is not None
            forms.append(under_config(forms[-1], entry))
        yield number, forms[number]


def _settles(walk: Walk, clip: Clip) -> bool:
    walk.reset()
    return all(is_settled(walk(picture.frame, picture.boxes)) for picture in clip)
