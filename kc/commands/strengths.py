"""Which knob is each method's own strength, and which values of it are tried, in order. Loads in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from kc.config import RunConfig
from kc.errors import KcError
from kc.methods.config import USUAL_EWC_LAMBDA
from kc.types import TaskKind

Value = int | float | str
"""A value of a knob; str where it has one value a task, such as "0.01,0.001"."""


@dataclass(frozen=True)
class Strength:
    """One knob, and the distance of its values: each is the one before times `factor`.

    `odds`: the knob is a share p in (0, 1) and its odds p / (1 - p) are spaced. `whole`: its values are whole numbers.
    `high`: no value above it.
    """

    knob: str
    factor: float = 10.0
    odds: bool = False
    whole: bool = False
    high: float = float("inf")

    def around(self, centre: Value, n: int) -> list[Value]:
        """`centre`, then `n` - 1 values outwards, up and down by turns; a text of several numbers moves as a whole.

        Raises KcError for a centre that factors cannot space (0, below, or a share of 1) and where `n` is too many.
        """
        numbers = [float(part) for part in str(centre).split(",")]
        if min(numbers) <= 0 or (self.odds and max(numbers) >= 1):
            raise KcError(f"{self.knob} {centre}: no grid by factors around it; list its values with --strengths")
        values: list[Value] = [centre]
        for scale in SCALES:
            moved = [self._moved(number, self.factor**scale) for number in numbers]
            value = ",".join(f"{m:g}" for m in moved) if isinstance(centre, str) else moved[0]
            inside = min(moved) > 0 and max(moved) <= self.high and not (self.odds and max(moved) >= 1)
            if inside and value not in values:
                values.append(value)
        if len(values) < n:
            raise KcError(
                f"--budget {n}: {self.knob} has {len(values)} values around {centre}; list them by --strengths"
            )
        return values[:n]

    def _moved(self, number: float, scale: float) -> int | float:
        if self.odds:
            odds = scale * number / (1 - number)
            number, scale = odds / (1 + odds), 1
        return round(number * scale) if self.whole else float(f"{number * scale:.3g}")


SCALES = [sign * step for step in range(1, 11) for sign in (1, -1)]
HALF_DECADE = 10**0.5
_LR = Strength("lr", HALF_DECADE)
# Whose losses have no weight of their own. icarl adds its distillation as it is (algorithm 3 of Rebuffi et al. 2017);
# its exemplars are a budget that all who replay share. lora (Hu et al. 2022) scales by alpha / r, of which section 4.1
# says that with Adam "tuning alpha is roughly the same as tuning the learning rate"; alpha is r here. The rank is a
# size: table 6 finds that "a rank as small as one suffices" on its data. eclipse's logit manipulation has one value a
# task.
_EWC = Strength("ewc_lambda")
OF_IMAGES = {
    **dict.fromkeys(("finetune", "joint", "linear-probe", "replay", "er", "icarl", "lora"), _LR),
    **dict.fromkeys(("mask2former", "mask2former-joint", "mask2former-replay", "eclipse"), _LR),
    "ewc": _EWC,
    "ewc-online": _EWC,
    "si": Strength("si_lambda"),
    "lwf": Strength("lwf_lambda"),
    "der++": Strength("der_alpha", HALF_DECADE),
    "wise-ft": Strength("wise_alpha", 3, odds=True),
    "ilt": Strength("ilt_features"),
    "mib": Strength("mib_kd"),
    "plop": Strength("plop_features"),
    "ssul": Strength("ssul_threshold", 3, odds=True),
    "comformer": Strength("comformer_kd"),
    "knn": Strength("k", 2, whole=True),
    "ranpac": Strength("ranpac_dim", 2, whole=True, high=10_000),  # the paper's width; its memory grows with the square
    "fecam": Strength("fecam_shrink"),
    "tip-adapter": Strength("tip_alpha", HALF_DECADE),
    **dict.fromkeys(("knn-clip", "hybrid", "hybrid-replay"), Strength("fuse_lambda", 3, odds=True)),
    "ret-clip": Strength("fuse_beta", 3, odds=True),
}
"""Method -> its strength. Without one: ncm and zeroshot, which have nothing to set."""
OF_MAPS = OF_IMAGES | {"lwf": Strength("pixel_kd")}


def default_grid(method: str, config: RunConfig, kind: TaskKind, n: int) -> tuple[str, list[Value]] | None:
    """The knob of a method and `n` values of it, first the one that `config` has (its default is the published one).

    None for a method without a strength.
    """
    images = kind == "classification"
    strength = (OF_IMAGES if images else OF_MAPS).get(method)
    if strength is None:
        return None
    centre = getattr(config, strength.knob)
    if centre is None:
        assert strength.knob == "ewc_lambda"
        centre = USUAL_EWC_LAMBDA["images" if images else "maps"]
    return strength.knob, strength.around(centre, n)
