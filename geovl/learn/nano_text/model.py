"""The network of nano-text: what a phrase means for every cell, and a decoder that writes it down run by run.

:class:`Fusion` lets the cells of nano's features and the word pieces of a phrase look at each other. :class:`Writer`
is a causal language model over a vocabulary of runs: it reads what it wrote last, looks at the row it is in, and gives
the odds of the next label or count. The tokens are those of R-RLE text
(see :mod:`geovl.segmenters.text_as_mask.grammar`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geovl.segmenters.nano_text.tokens import COUNT, TARGET, TOKENS

CHANNELS = 128
"""Mean and maximum of nano's 64 features."""
TEXT = 128
"""Width of nano's text space."""
WIDTH = 128
HEADS = 4
LONGEST = 24
"""Word pieces of a phrase, at most."""
MOST = 32
"""Rows and columns of the finest grid."""
MEMORY = 64
"""Tokens that the writer looks back at."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the size of the network."""

    blocks: int = 3
    layers: int = 2


def _heads(value: Tensor) -> Tensor:
    """(n, t, WIDTH) to (n, HEADS, t, WIDTH / HEADS)."""
    return value.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention of one sequence to another."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, at: Tensor, to: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from ``at`` (n, q, WIDTH) to ``to`` (n, k, WIDTH); ``mask`` is True where one may look."""
        key, value = self.key_value(to).chunk(2, -1)
        # written out: over so few queries or keys the fused kernels of CPUs are slower, the more so backwards
        odds = _heads(self.query(at)) @ _heads(key).transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        if mask is not None:
            odds = odds.masked_fill(~mask, -1e4)
        found = odds.softmax(-1) @ _heads(value)
        result: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return result


def _feed(factor: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, factor * WIDTH), nn.GELU(), nn.Linear(factor * WIDTH, WIDTH))


class Block(nn.Module):
    """Cells look around, at the words and at themselves; words look at all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.far = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(6))
        self.to_words = Attention()
        self.to_cells = Attention()
        self.cell_feed = _feed(2)
        self.word_feed = _feed(1)

    def forward(self, cells: Tensor, words: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Map cells (n, h, w, WIDTH) and words (n, t, WIDTH) to the same; ``there`` (n, t) is True for real words."""
        flat = cells.flatten(1, 2)
        words = words + self.to_cells(self.norms[0](words), self.norms[1](flat))
        words = words + self.word_feed(self.norms[2](words))
        flat = flat + self.to_words(self.norms[3](flat), self.norms[4](words), there[:, None, None, :])
        cells = self.around(flat.view_as(cells))
        return cells + self.cell_feed(self.norms[5](cells)), words

    def around(self, cells: Tensor) -> Tensor:
        """Mix cells (n, h, w, WIDTH) with those beside them, and with the means of 4 x 4 further off."""
        image = cells.permute(0, 3, 1, 2)
        coarse = self.far(functional.avg_pool2d(image, 4))
        wide = functional.interpolate(coarse, scale_factor=4.0, mode="nearest")
        return (image + self.near(image) + wide).permute(0, 2, 3, 1)


class Fusion(nn.Module):
    """What a phrase means for each cell."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.cell_in = nn.Linear(CHANNELS, WIDTH)
        self.rows = nn.Parameter(torch.randn(MOST, WIDTH) * 0.02)
        self.cols = nn.Parameter(torch.randn(MOST, WIDTH) * 0.02)
        self.word_in = nn.Linear(TEXT, WIDTH)
        self.places = nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.02)
        self.word_norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.word_self = Attention()
        self.word_feed = _feed(2)
        # nano's own comparison of pixels and words, kept as it was trained
        self.embed = nn.Conv2d(CHANNELS // 2, TEXT, 1)
        self.meaning = nn.Linear(WIDTH, TEXT)
        self.role = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.meaning.weight)
        nn.init.zeros_(self.meaning.bias)

    def read(self, words: Tensor, there: Tensor) -> Tensor:
        """Read word pieces (n, t, TEXT) in the context of each other: (n, t, WIDTH)."""
        state = self.word_in(words) + self.places[: words.shape[1]]
        normed = self.word_norms[0](state)
        state = state + self.word_self(normed, normed, there[:, None, None, :])
        result: Tensor = state + self.word_feed(self.word_norms[1](state))
        return result

    def compare(self, features: Tensor, words: Tensor, read: Tensor, there: Tensor) -> Tensor:
        """Tell each cell how like each word it is, and what part the word plays: (n, h, w, WIDTH)."""
        pixel = functional.normalize(self.embed(features[:, : CHANNELS // 2]).float(), dim=1).flatten(2)
        word = functional.normalize((words + self.meaning(read)).float(), dim=-1)  # (n, t, TEXT)
        like = torch.einsum("nch,ntc->nht", pixel, word) * there[:, None].float()  # (n, h w, t)
        told = like.to(read.dtype) @ self.role(read)  # (n, h w, WIDTH)
        return told.unflatten(1, features.shape[-2:])

    def forward(self, features: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: (n, CHANNELS, h, w) of cells, h and w 32 or 16.
            words: (n, t, TEXT) vectors of word pieces.
            there: bool (n, t), False for padding; the first is always there.

        Returns:
            (n, h, w, WIDTH).
        """
        height, width = features.shape[-2:]
        rows, cols = (
            table.unflatten(0, (size, -1)).mean(1) for table, size in ((self.rows, height), (self.cols, width))
        )
        read = self.read(words, there)
        place = rows[:, None] + cols[None]  # (h, w, WIDTH)
        cells = self.cell_in(features.permute(0, 2, 3, 1)) + place + self.compare(features, words, read, there)
        for block in self.blocks:
            cells, read = block(cells, read, there)
        result: Tensor = self.norm(cells)
        return result

    def logits(self, fused: Tensor) -> Tensor:
        """Return the log-odds that each cell of fused (n, h, w, WIDTH) is meant, (n, h, w)."""
        result: Tensor = self.score(fused)[..., 0]
        return result


class Slots:
    """Tokens sorted by the row that they are in, so that each row of cells is read once for all of its tokens.

    Args:
        row: int64 (n, t), of the next cell.
        col: int64 (n, t).
        height: Rows of the grid.
        width: Columns of the grid.
    """

    def __init__(self, row: Tensor, col: Tensor, height: int, width: int) -> None:
        self._height = height
        within = functional.one_hot(row, height).cumsum(1).gather(2, row[..., None])[..., 0] - 1  # (n, t)
        self._most = int(within.max()) + 1
        self._slot = row * self._most + within
        columns = torch.arange(width, device=row.device)
        self.apart = columns - self.place(col[..., None]) + MOST
        """int64 (n, h, m, w): where cells lie from the next one of each token, plus MOST."""

    def place(self, values: Tensor) -> Tensor:
        """Sort values of tokens (n, t, c) into rows: (n, h, m, c), 0 in slots without token."""
        n, _, channels = values.shape
        empty = values.new_zeros(n, self._height * self._most, channels)
        index = self._slot[..., None].expand(-1, -1, channels)
        return empty.scatter(1, index, values).unflatten(1, (self._height, self._most))

    def take(self, rows: Tensor) -> Tensor:
        """Return the tokens (n, t, c) of sorted values (n, h, m, c)."""
        return rows.flatten(1, 2).gather(1, self._slot[..., None].expand(-1, -1, rows.shape[-1]))


class Layer(nn.Module):
    """A layer of the writer: looks back at what was written, then along the row of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.back = Attention()
        self.along = nn.Linear(WIDTH, WIDTH)
        self.row = nn.Linear(WIDTH, 2 * WIDTH)
        # how much a cell counts by where it lies from the next one, behind to ahead
        self.apart = nn.Parameter(torch.zeros(2 * MOST + 1, HEADS))
        self.merge = nn.Linear(WIDTH, WIDTH)
        self.feed = _feed(3)

    def forward(self, state: Tensor, mask: Tensor, slots: Slots, cells: Tensor) -> Tensor:
        """Map a state.

        Args:
            state: (n, t, WIDTH).
            mask: bool (t, t), True where one may look back.
            slots: Which row each token is in.
            cells: (n, h, w, 2 WIDTH): keys and values of the cells.
        """
        normed = self.norms[0](state)
        state = state + self.back(normed, normed, mask)
        state = state + self.look(self.norms[1](state), slots, cells)
        result: Tensor = state + self.feed(self.norms[2](state))
        return result

    def look(self, at: Tensor, slots: Slots, cells: Tensor) -> Tensor:
        """Attend along rows: (n, t, WIDTH)."""
        key, value = (part.unflatten(-1, (HEADS, -1)).transpose(2, 3) for part in cells.chunk(2, -1))
        query = slots.place(self.along(at)).unflatten(-1, (HEADS, -1)).transpose(2, 3)  # (n, h, HEADS, m, d)
        bias = self.apart[slots.apart].permute(0, 1, 4, 2, 3)  # (n, h, HEADS, m, w)
        odds = (query @ key.transpose(-1, -2)) * (WIDTH // HEADS) ** -0.5 + bias.to(key.dtype)
        found = (odds.softmax(-1) @ value).transpose(2, 3).flatten(3)  # (n, h, m, WIDTH)
        result: Tensor = self.merge(slots.take(found))
        return result


def lasting(cells: Tensor, col: Tensor) -> Tensor:
    """Return how likely a run is to have n cells if each cell went on with it by itself.

    Args:
        cells: (..., w) log-odds that a cell of the row is of the run's label.
        col: int64 (...): where the run begins.

    Returns:
        (..., w): of n = 1 to w, ``sum of log p over its cells + log (1 - p) of the cell behind it``; behind the last
        column nothing is asked.
    """
    width = cells.shape[-1]
    nothing = torch.zeros_like(cells[..., :1])
    sums = torch.cat([nothing, functional.logsigmoid(cells).cumsum(-1)], -1)  # (..., w + 1)
    ends = torch.cat([functional.logsigmoid(-cells), nothing], -1)
    stop = (col[..., None] + torch.arange(1, width + 1, device=col.device)).clamp(max=width)
    return sums.gather(-1, stop) - sums.gather(-1, col[..., None].clamp(max=width)) + ends.gather(-1, stop)


class Writer(nn.Module):
    """Odds of the next token, given those before it and the cells.

    The odds of a count have a part that is read off the two cells between which the run would end, as a pointer network
    does (https://arxiv.org/abs/1506.03134, eq. 3), and one that each cell gives by itself (:func:`lasting`): what the
    writer has to learn is where cells must not be taken by themselves.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.here = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(shape.layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, TOKENS)
        self.point = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, WIDTH)  # of the last cell of a run
        self.next = nn.Linear(WIDTH, WIDTH)  # of the cell behind it
        self.border = nn.Parameter(torch.zeros(WIDTH))  # behind the last column
        self.trust = nn.Parameter(torch.ones(2))  # in what cells say by themselves, for labels and for counts

    def prepare(self, fused: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what every step reads of fused (n, h, w, WIDTH).

        Returns:
            Keys and values of each layer, (n, h, w, 2 WIDTH), and the end after each cell, (n, h, w, WIDTH).
        """
        behind = self.next(fused)
        behind = torch.cat([behind[:, :, 1:], self.border.to(fused.dtype).expand_as(behind[:, :, :1])], 2)
        return [layer.row(fused) for layer in self.layers], self.last(fused) + behind

    def by_cells(self, logits: Tensor, token: Tensor, col: Tensor, scores: Tensor) -> Tensor:
        """Add what cells say by themselves to logits (..., TOKENS) of what follows a token.

        Args:
            logits: (..., TOKENS).
            token: int64 (...).
            col: int64 (...), of the next cell.
            scores: (..., w): log-odds of the target for the cells of its row.
        """
        width, first = scores.shape[-1], COUNT + 1
        sign = torch.where(token == TARGET, 1.0, -1.0)[..., None]
        counts = self.trust[1] * lasting(sign * scores, col)
        label = 0.5 * self.trust[0] * scores[..., :1]  # of the first cell of a row; only there a label is free
        zero = torch.zeros_like(label)
        added = torch.cat([zero, -label, label, counts, zero.expand(*zero.shape[:-1], TOKENS - first - width)], -1)
        return logits + added.to(logits.dtype)

    def forward(self, tokens: Tensor, row: Tensor, col: Tensor, fused: Tensor, scores: Tensor) -> Tensor:
        """Return logits (n, t, TOKENS) of what follows each token of whole answers.

        Args:
            tokens: int64 (n, t).
            row: int64 (n, t): of the next cell.
            col: int64 (n, t): of the next cell; w behind the last.
            fused: (n, h, w, WIDTH).
            scores: (n, h, w): log-odds of the target for each cell, see :meth:`Fusion.logits`.
        """
        height, width = fused.shape[1:3]
        place = torch.arange(tokens.shape[1], device=tokens.device)
        back = place[:, None] - place[None]
        mask = (back >= 0) & (back < MEMORY)
        slots = Slots(row, col, height, width)
        keys, ends = self.prepare(fused)
        at = (row * width + col.clamp(max=width - 1))[..., None].expand(-1, -1, WIDTH)
        state = self.tokens(tokens) + self.here(fused.flatten(1, 2).gather(1, at))
        for layer, cells in zip(self.layers, keys, strict=True):
            state = layer(state, mask, slots, cells)
        state = self.norm(state)
        pointed = slots.take(slots.place(self.point(state)) @ ends.transpose(-1, -2)) * WIDTH**-0.5  # (n, t, w)
        # count c ends the run after column col + c - 1; those beyond the row are not allowed anyway
        stop = (col[..., None] + torch.arange(width, device=col.device)).clamp(max=width - 1)  # (n, t, w)
        logits: Tensor = self.out(state)
        first = COUNT + 1
        counts = logits[..., first : first + width] + pointed.gather(2, stop)
        logits = torch.cat([logits[..., :first], counts, logits[..., first + width :]], -1).float()
        rows = scores.float().gather(1, row[..., None].expand(-1, -1, width))  # (n, t, w)
        return self.by_cells(logits, tokens, col, rows)


class NanoText(nn.Module):
    """Fusion and writer."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.fusion = Fusion(shape or Shape())
        self.writer = Writer(shape or Shape())
