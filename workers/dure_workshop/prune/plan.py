"""How many layers and channels a model may keep, and which of the ways is best."""

from dataclasses import dataclass

from dure.errors import SettingsError
from dure_workshop.prune.structure import CHANNELS_OF, Structure


@dataclass(frozen=True)
class Plan:
    """num_dropped layers go; num_channels and num_heads stay in each of the others; num_parameters are left."""

    num_dropped: int
    num_channels: int
    num_heads: int
    num_parameters: int


@dataclass(frozen=True)
class Wanted:
    """What a user named. None: not named.

    layers   that go
    ffn      channels that stay
    heads    query heads that stay
    """

    layers: int | None = None
    ffn: int | None = None
    heads: int | None = None

    def check(self, structure: Structure) -> None:
        """Raises SettingsError for what cannot be."""
        shape = structure.shape
        if self.layers is not None and not 0 < self.layers < shape.layers:
            raise SettingsError(f"--layers {self.layers}: of {shape.layers} layers 1 to {shape.layers - 1} can go")
        if self.ffn is not None and (self.ffn % CHANNELS_OF or not 0 < self.ffn < shape.ffn):
            most = (shape.ffn - 1) // CHANNELS_OF * CHANNELS_OF
            remedy = f"a multiple of {CHANNELS_OF} up to {most}" if most else "--layers, for it is too narrow already"
            raise SettingsError(f"--ffn {self.ffn}: of {shape.ffn} channels choose {remedy}")
        if self.heads is not None and (self.heads % shape.kv_heads or not 0 < self.heads < shape.heads):
            raise SettingsError(
                f"--heads {self.heads}: of {shape.heads} query heads, of which {shape.kv_heads} groups share a key "
                f"head, choose a multiple of {shape.kv_heads} below {shape.heads}"
            )

    def plan(self, structure: Structure) -> Plan:
        """Just that, after `check`."""
        shape = structure.shape
        num_dropped, num_channels, num_heads = self.layers or 0, self.ffn or shape.ffn, self.heads or shape.heads
        left = structure.after(shape.layers - num_dropped, num_channels, num_heads)
        return Plan(num_dropped, num_channels, num_heads, left)


def plans(structure: Structure, most_parameters: int, wanted: Wanted, *, can_drop: bool) -> list[Plan]:
    """From width alone to depth alone, each with the most channels that leave no more than `most_parameters`.

    wanted     what is settled already
    can_drop   whether layers may go
    Raises SettingsError where even the fewest are too many.
    """
    shape = structure.shape
    num_heads = wanted.heads or shape.heads
    if wanted.layers is not None:
        choices = range(wanted.layers, wanted.layers + 1)
    else:
        choices = range(shape.layers if can_drop else 1)
    found: list[Plan] = []
    for num_dropped in choices:
        num_layers = shape.layers - num_dropped
        room = most_parameters - structure.after(num_layers, 0, num_heads)
        fit = room // (num_layers * structure.of_channel)
        widest = wanted.ffn or shape.ffn
        num_channels = widest if fit >= widest else fit // CHANNELS_OF * CHANNELS_OF
        if num_channels > 0 and (wanted.ffn is None or num_channels == wanted.ffn):
            left = structure.after(num_layers, num_channels, num_heads)
            found.append(Plan(num_dropped, num_channels, num_heads, left))
        if num_channels == widest:
            break
    if not found:
        fewest = structure.after(shape.layers - choices[-1], wanted.ffn or CHANNELS_OF, num_heads)
        raise SettingsError(
            f"{most_parameters:,} parameters are too few: {fewest:,} must stay; choose a smaller --ratio, or a smaller "
            "--vocab"
        )
    return found
