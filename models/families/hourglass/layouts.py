"""Published checkpoints of Stacked Hourglass: two forms of one network, trained on MPII.

Here `levels.0` of an hourglass is the outermost, with the highest resolution. One published form counts its
four levels from the innermost, the other puts each inside the `low2` of the one around it.
"""

from __future__ import annotations

from edgewise.models.data.labels import MPII_PEOPLE
from edgewise.models.families.layout import Layout

_DEPTH = 4
_BRANCHES = ("skip", "down", "up")
_INWARDS = r"low2\."
Renames = tuple[tuple[str, str], ...]


def _published_levels() -> Renames:
    """`hg.<stack>.hg.<level from the inside>.<0 skip, 1 down, 2 up, 3 bottom of level 0>`."""
    hourglass = r"^hg\.(\d+)\.hg\."
    branches = (
        (rf"{hourglass}{inner}\.{number}\.", rf"stacks.\1.hourglass.levels.{_DEPTH - 1 - inner}.{branch}.")
        for inner in range(_DEPTH)
        for number, branch in enumerate(_BRANCHES)
    )
    return ((rf"{hourglass}0\.3\.", r"stacks.\1.hourglass.bottom."), *branches)


def _princeton_levels() -> Renames:
    """`hgs.<stack>.0`, once `low2` for each level further in, then `up1`, `low1` or `low3`."""
    hourglass = r"^hgs\.(\d+)\.0\."
    branches = (
        (hourglass + _INWARDS * outer + rf"{name}\.", rf"stacks.\1.hourglass.levels.{outer}.{branch}.0.")
        for outer in range(_DEPTH)
        for name, branch in zip(("up1", "low1", "low3"), _BRANCHES, strict=True)
    )
    return ((hourglass + _INWARDS * _DEPTH, r"stacks.\1.hourglass.bottom.0."), *branches)


PUBLISHED = Layout(
    name="hourglass (MPII, joint weights)",
    renames=(
        (r"^module\.", ""),
        (r"^conv1\.", "stem.0."),
        (r"^bn1\.", "stem.1."),
        (r"^layer1\.0\.", "widen."),
        (r"^layer2\.0\.", "refine."),
        (r"^layer3\.0\.", "widen_again."),
        *_published_levels(),
        (r"^res\.(\d+)\.", r"stacks.\1.residual."),
        (r"^fc\.(\d+)\.", r"stacks.\1.features."),
        (r"^score\.(\d+)\.", r"stacks.\1.heatmaps."),
        (r"^fc_\.(\d+)\.", r"stacks.\1.merge_features."),
        (r"^score_\.(\d+)\.", r"stacks.\1.merge_heatmaps."),
        (r"\.downsample\.0\.", ".projection."),
    ),
    vocabulary=MPII_PEOPLE,
)

PRINCETON = Layout(
    name="hourglass (MPII, the paper's authors)",
    renames=(
        (r"^model\.module\.", ""),
        (r"^pre\.0\.conv\.", "stem.0."),
        (r"^pre\.0\.bn\.", "stem.1."),
        (r"^pre\.1\.", "widen."),
        (r"^pre\.3\.", "refine."),
        (r"^pre\.4\.", "widen_again."),
        *_princeton_levels(),
        (r"^features\.(\d+)\.0\.", r"stacks.\1.residual.0."),
        (r"^features\.(\d+)\.1\.conv\.", r"stacks.\1.features.0."),
        (r"^features\.(\d+)\.1\.bn\.", r"stacks.\1.features.1."),
        (r"^outs\.(\d+)\.conv\.", r"stacks.\1.heatmaps."),
        (r"^merge_features\.(\d+)\.conv\.conv\.", r"stacks.\1.merge_features."),
        (r"^merge_preds\.(\d+)\.conv\.conv\.", r"stacks.\1.merge_heatmaps."),
        (r"\.skip_layer\.conv\.", ".projection."),
        (r"\.(conv[123])\.conv\.", r".\1."),
    ),
    vocabulary=MPII_PEOPLE,
)

LAYOUTS = (PUBLISHED, PRINCETON)
