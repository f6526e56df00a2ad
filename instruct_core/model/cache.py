"""
Keys and values of texts that grow side by side.

    cache = Cache(model.config, model.head_weight)
    hidden = model(prompts, cache.begin([5, 7]), None, cache)           # (2, 1, C), of prompts (2, 7)
    hidden = model(tokens, cache.grow(cache.lengthen()), None, cache)   # of one more token each, (2, 1)
    cache.keep([1])                                                     # the first text has ended

`begin` and `grow` say what the model's next call takes: the prompts of texts that come in behind those
that are there, or one more token of each; `grow_all` says the latter without a number of the host. Of the
last layer each text's last token alone is computed: nothing else is asked of it. A text's tokens lie in
its row from the row's start, so texts of any length grow together; rows get longer when the longest does.

B: texts of a call, T: tokens of each in it, R: rows, P: tokens that are looked at, H: heads,
G: heads with keys and values, D: numbers of a head
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from instruct_core.model.attention import attend, attend_from_one
from instruct_core.shape import Shape

MORE_ROOM = 64  # tokens that a cache has room for at least, beyond what it must
ALIGNED = 16  # tokens: each number's keys begin a line of a processor's cache, as products like it


class Cache:
    """
    The keys and values, and attention over them.

    Args:
        shape: Of the model whose layers they belong to.
        weight: One of its weights: they are on its device, of its type.
    """

    def __init__(self, shape: Shape, weight: Tensor) -> None:
        self._heads, self._weight = (shape.num_kv_heads, shape.head_dim), weight
        self._num_rows = self._room = 0  # texts and tokens that there is room for
        self._layers = [self._empty() for _ in range(shape.num_layers)]
        self.lengths: list[int] = []  # tokens of each text, those of the next call among them
        # Of the next call: its rows, where its tokens go in them, and those of a row that are looked at.
        self._rows = self._end = slice(0)
        self._every = self._on_device([])  # 0 and so on, one a text. (B,)
        self._places: Tensor | None = None  # (B,); None where all go to the same
        self._last: Tensor | None = None  # tokens of prompts; None if of one length. (B,)
        self._may_see: Tensor | None = None  # keys of a row; None for all. (B, 1, 1, P)

    @property
    def form(self) -> tuple[int, int]:
        """How many rows there are, and tokens that each has room for; the memory stays while both do."""
        return self._num_rows, self._room

    def begin(self, lengths: Sequence[int]) -> Tensor:
        """
        Take in texts; the model's next call has their prompts, filled up at their ends.

        Args:
            lengths: Of the prompts. (B,)

        Returns:
            Positions for that call. (B, T)
        """
        first, longest = len(self.lengths), max(lengths)
        self._have_room(first + len(lengths), longest)
        self.lengths += lengths
        self._rows, self._end = slice(first, len(self.lengths)), slice(0, longest)
        self._every, self._places = self._counted(len(lengths)), None
        self._last = self._on_device(lengths) - 1 if min(lengths) < longest else None
        self._may_see = self._up_to(self._last)
        for x in itertools.chain(*self._layers):
            # Nobody looks there, but it is multiplied by 0: it must be a number.
            x[self._rows, :, longest:] = 0
        return self._counted(longest).expand(len(lengths), -1)

    def lengthen(self) -> list[int]:
        """Have room for one more token of each text; return where each goes. (B,)"""
        places = self.lengths
        self._have_room(len(places), max(places) + 1)
        self.lengths = [place + 1 for place in places]
        return places

    def grow(self, places: Sequence[int]) -> Tensor:
        """Have the model's next call take a token of each text; return `places` on the device. (B, 1)"""
        positions, longest = self._on_device(places), max(places)
        is_even = min(places) == longest
        self._rows = slice(0, len(places))
        self._end = slice(longest if is_even else 0, longest + 1)
        self._every, self._last = self._counted(len(places)), None
        self._places = None if is_even else positions
        self._may_see = self._up_to(self._places)
        return positions[:, None]

    def grow_all(self, places: Tensor) -> Tensor:
        """
        Have the model's next call take a token of each row there is, also of those without a text.

        Args:
            places: On the device; the call does the same whatever they are. (R,)

        Returns:
            Their positions. (R, 1)
        """
        self._rows, self._end = slice(0, self._num_rows), slice(0, self._room)
        self._every, self._last, self._places = self._counted(self._num_rows), None, places
        self._may_see = self._up_to(places)
        return places[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """
        Take a layer's tokens; return what they see.

        Args:
            layer: Its number.
            q: Queries. (B, H, T, D)
            k: Keys. (B, G, T, D)
            v: Values. (B, G, T, D)

        Returns:
            (B, T, H, D); of the last layer (B, 1, H, D).
        """
        keys, values = (rows[self._rows] for rows in self._layers[layer])
        if self._places is None:
            keys[:, :, self._end], values[:, :, self._end] = k, v
        else:
            keys[self._every, :, self._places] = k[:, :, 0]
            values[self._every, :, self._places] = v[:, :, 0]
        q = self.asked(layer, q.transpose(1, 2)).transpose(1, 2)
        if q.shape[2] > 1:
            return attend(q, k, v, None)
        seen = slice(self._end.stop)
        one = attend_from_one if q.device.type == "cpu" else attend
        return one(q, keys[:, :, seen], values[:, :, seen], self._may_see)

    def asked(self, layer: int, x: Tensor) -> Tensor:
        """Return of the last layer's (B, T, ...) each text's last token, (B, 1, ...); of others all."""
        if layer < len(self._layers) - 1:
            return x
        if self._last is None:
            return x[:, -1:]
        return x[self._every, self._last][:, None]

    def keep(self, rows: Sequence[int]) -> None:
        """
        Forget all texts but these, whose rows are the first ones from then on.

        Args:
            rows: What becomes row 0, row 1 and so on: the row itself, or one behind all that stay.
        """
        for new, old in enumerate(rows):
            for x in itertools.chain(*self._layers) if new != old else ():
                x[new] = x[old]
        self.lengths = [self.lengths[row] for row in rows]

    def _empty(self) -> tuple[Tensor, Tensor]:
        """Return room for keys and values, each (rows, G, room, D)."""
        heads, size = self._heads
        shape = (self._num_rows, heads, self._room, size)
        keys, values = self._weight.new_empty(shape), self._weight.new_empty(shape)
        if keys.device.type == "cpu":  # which is quicker where each number's keys lie side by side
            keys = keys.view(self._num_rows, heads, size, self._room).mT
        return keys, values

    def _have_room(self, texts: int, tokens: int) -> None:
        """Have room for so many; rows that are made anew are as many as there are texts, and longer."""
        if texts <= self._num_rows and tokens <= self._room:
            return
        self._num_rows, old_room, before = texts, self._room, len(self.lengths)
        if tokens > self._room:
            room = tokens + max(MORE_ROOM, tokens // 4)
            self._room = -(-room // ALIGNED) * ALIGNED
        for layer, olds in enumerate(self._layers):
            self._layers[layer] = news = self._empty()
            for new, old in zip(news, olds, strict=True):
                new[:before, :, :old_room] = old[:before]
                new[:before, :, old_room:] = 0

    def _up_to(self, places: Tensor | None) -> Tensor | None:
        """Return True for what lies no further than each text's place. (B, 1, 1, P)"""
        if places is None:
            return None
        return (self._counted(self._end.stop) <= places[:, None])[:, None, None]

    def _on_device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._weight.device)

    def _counted(self, count: int) -> Tensor:
        return torch.arange(count, device=self._weight.device)
