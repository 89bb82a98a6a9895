"""How a model is served: which passes a way of generating text takes, and how often.

A profile turns what is asked (`Serving`: prompt, tokens, contexts, sequences) into stages. A stage
is passes of one model, and how often they run, which is a mean where chance decides. What they cost
is not known here, see `sim.cost.profiles`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, NamedTuple

from evolute.hw.spec.base import require
from evolute.sim.workload.operations import CacheFormat, Pass, cache_bytes
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape

MEASURED: Final = "measured"
"""In place of an acceptance: it is measured by running both models over a text."""

SAME, NONE = "same", "none"
"""In place of a second model's name: the model itself, or no second model."""


@dataclass(frozen=True)
class ProfileStage:
    """Passes of one model, run in order."""

    name: str
    passes: tuple[Pass, ...]
    times: float = 1.0
    """How often all of them run, in the mean."""
    in_one: bool = True
    """Whether a core takes one program for a pass, as in decoding, or one for each block."""
    model: str | None = None
    """The name of another model that runs them; None for the model that is asked."""
    blocks: tuple[int, ...] | None = None
    """The blocks that run, in order; None for all of the model, once."""
    resident_share: float = 0.0
    """Of the blocks that run, the share whose weights are on the chip from before."""
    ratio: float | None = None
    """How long they take, as a share of the passes of the model that is asked; None where they are
    priced themselves."""


class CacheRoom(NamedTuple):
    """What the cache of keys and values may take, and what it takes."""

    shape: ModelShape
    cache: CacheFormat
    free_bytes: int | None = None
    """What the named memory has beside weights and embedding; None where nothing bounds it."""

    def held(self, tokens: int) -> int:
        """Bytes of one sequence's cache."""
        return cache_bytes(self.shape, tokens, self.cache)


class Solving(NamedTuple):
    """How many samples or rollouts a question takes, and the chance that one of them solves it."""

    attempts: int
    chance: float


@dataclass(frozen=True)
class Coverage:
    """The share of questions that k attempts solve: exp(a k^b), an exponentiated power law (Brown
    et al., arXiv 2407.21787, section 3.1)."""

    a: float
    b: float

    def __post_init__(self) -> None:
        require(math.isfinite(self.a) and self.a < 0, "a", "below 0", self.a)
        require(math.isfinite(self.b) and self.b <= 0, "b", "at most 0", self.b)

    def solving(self, attempts: int) -> Solving:
        return Solving(attempts, math.exp(self.a * attempts**self.b))


def _coverage(a: float | None, b: float | None) -> Coverage | None:
    require((a is None) == (b is None), "a and b", "given together", "one of them")
    return None if a is None or b is None else Coverage(a, b)


Facts = dict[str, float | int | bool | None]
"""What a profile knows of itself beside its stages, by the names that records have."""


class Plan(NamedTuple):
    """What a profile asks for."""

    stages: tuple[ProfileStage, ...]
    tokens: int
    """Tokens that all stages together give to the user, of all sequences."""
    facts: Facts
    solving: Solving | None = None


@dataclass(frozen=True)
class Prefill:
    """A prompt in chunks of `chunk` tokens, each of which sees those before it in the cache; all
    at once where none is given. Only the last token of the prompt has logits."""

    name: ClassVar[str] = "prefill"
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None:
            require(self.chunk >= 1, "chunk", "at least 1", self.chunk)

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        del room
        prompt = serving.prefill_tokens
        chunk = min(prompt, self.chunk or prompt)
        starts = range(0, prompt, chunk)
        whole = (*(min(chunk, prompt - start) for start in starts),)
        passes = [
            Pass(rows, start, serving.batch, int(start + rows == prompt))
            for start, rows in zip(starts, whole, strict=True)
        ]
        stages = (ProfileStage("chunks", tuple(passes[:-1]), in_one=False),) if passes[:-1] else ()
        last = ProfileStage("last chunk", tuple(passes[-1:]), in_one=False)
        return Plan((*stages, last), serving.batch * prompt, {"chunks": len(passes)})


@dataclass(frozen=True)
class Decode:
    """Tokens one by one, of all sequences at once."""

    name: ClassVar[str] = "decode"

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        del room
        return Plan(
            (ProfileStage("decode", serving.decode),), serving.batch * len(serving.decode), {}
        )


@dataclass(frozen=True, kw_only=True)
class Speculative:
    """A small model guesses, and the model verifies all guesses in one pass (Leviathan et al.,
    arXiv 2211.17192, section 3). Guesses are a chain of `gamma` tokens, or a tree that has `width`
    children of every node, level by level.

    `acceptance` is the chance that a guess is right if those before it are; of a tree, that one of
    a node's children is. One value is of all levels. `accepted` states the mean number of right
    guesses in its place. The guesses come from a model `draft`, or take `cost` of the time of a
    token of the model itself, each.

    A pass verifies the node that is known to be right and all guesses: it has that many rows, and
    each of them needs the head. Tokens that a pass gives are the right guesses and one more.
    """

    name: ClassVar[str] = "speculative"
    gamma: int | None = None
    width: tuple[int, ...] = ()
    acceptance: tuple[float, ...] | Literal["measured"] = ()
    accepted: float | None = None
    draft: str | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        one = (self.gamma is None) != (not self.width)
        require(one, "gamma and width", "given in one form, a chain or a tree", self._form)
        if self.gamma is not None:
            require(0 <= self.gamma <= 1 << 10, "gamma", "in 0..1024", self.gamma)
        for width in self.width:
            require(1 <= width <= 1 << 10, "width", "in 1..1024 at every level", width)
        require(self.nodes <= 1 << 12, "width", "of at most 4096 nodes", self.nodes)
        if self.acceptance == MEASURED:
            require(not self.width, "acceptance", "stated for a tree", MEASURED)
            require(
                self.draft is not None, "acceptance", "stated unless a draft is named", MEASURED
            )
        else:
            for chance in self.acceptance:
                require(0 <= chance <= 1, "acceptance", "in 0..1, or measured", chance)
            if len(self.acceptance) > 1:
                rule = f"one chance, or one for each of {self.levels} levels"
                require(len(self.acceptance) == self.levels, "acceptance", rule, self.acceptance)
        one = (self.accepted is None) != (not self.acceptance)
        rule = "given in one form"
        if self.levels:
            require(one, "acceptance and accepted", rule, self.accepted or self.acceptance)
        if self.accepted is not None:
            rule = f"in 0..{self.levels}, the number of levels"
            require(0 <= self.accepted <= self.levels, "accepted", rule, self.accepted)
        if self.levels:
            rule = "given in one form: a model, or a share of a token's time"
            one = (self.draft is None) != (self.cost is None)
            require(one, "draft and cost", rule, self.draft or self.cost)
        if self.cost is not None:
            finite = math.isfinite(self.cost) and self.cost >= 0
            require(finite, "cost", "finite and at least 0", self.cost)

    @property
    def _form(self) -> str:
        return "both" if self.width else "neither"

    @property
    def levels(self) -> int:
        return len(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Children of every node, level by level; a chain has one."""
        return self.width or (1,) * (self.gamma or 0)

    @property
    def level_nodes(self) -> tuple[int, ...]:
        """Nodes of every level, that of the root included."""
        return tuple(itertools.accumulate(self.widths, lambda a, b: a * b, initial=1))

    @property
    def nodes(self) -> int:
        """Rows of a verifying pass."""
        return sum(self.level_nodes)

    @property
    def tokens_per_pass(self) -> float:
        """Right guesses in the mean, and one token that the pass adds; of a chain of g guesses that
        are right with a chance a (1 - a^(g + 1)) / (1 - a). Not known before a measurement."""
        if self.accepted is not None or not self.levels:
            return 1 + (self.accepted or 0.0)
        assert self.acceptance != MEASURED, "a measured acceptance is put in first"
        chances = self.acceptance * self.levels if len(self.acceptance) == 1 else self.acceptance
        return 1 + math.fsum(math.prod(chances[: level + 1]) for level in range(self.levels))

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        gain = self.tokens_per_pass
        asked = serving.decode
        needed = len(asked) / gain
        count = math.ceil(needed)
        rows = self.nodes
        starts = [asked[0].cached + math.floor(turn * gain) for turn in range(count)]
        verify = tuple(Pass(rows, start, serving.batch, rows) for start in starts)
        stages = [ProfileStage("verify", verify, needed / count)]
        if self.levels:
            stages.insert(0, self._guessing(serving, starts, needed / count))
        token_bytes = serving.batch * (room.held(2) - room.held(1))  # states hold no tokens
        facts: Facts = {
            "rows": rows,
            "tokens_per_pass": gain,
            "passes": needed,
            "rejected_cache_bytes_per_pass": (rows - gain) * token_bytes,
        }
        if self.width:
            facts["compacted_cache_bytes_per_pass"] = (gain - 1) * token_bytes
        return Plan(tuple(stages), serving.batch * len(asked), facts)

    def _guessing(self, serving: Serving, starts: Sequence[int], times: float) -> ProfileStage:
        """Each level is guessed in one pass over the nodes of the level before."""
        if self.cost is not None:
            passes = [serving.at(start) for start in starts]
            return ProfileStage("guess", tuple(passes), times * self.levels, ratio=self.cost)
        passes = [
            Pass(rows, start + before, serving.batch, rows)
            for start in starts
            for rows, before in zip(
                self.level_nodes[:-1],
                itertools.accumulate(self.level_nodes[:-1], initial=0),
                strict=False,
            )
        ]
        return ProfileStage("guess", tuple(passes), times, model=self.draft)


def _samples_at_once(wanted: int, free: int | None, shared: int, own: int) -> int:
    """How many of `wanted` sequences a cache has room for that each take `own` bytes beside the
    `shared` ones."""
    if free is None or not own:
        return wanted
    fitting = (free - shared) // own
    rule = f"at least {shared + own:,} bytes beside weights and embedding, for one sequence"
    require(fitting >= 1, "memory", rule, f"{max(0, free):,}")
    return min(wanted, fitting)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`k` answers to one prompt, as many at once as fit the memory, and at most `at_once`.

    Answers have as many tokens as are asked for; with `shortest` the numbers of tokens are spread
    evenly from it on. Those that run at once wait for the longest of them: sequences that have
    ended leave the batch, and are not replaced. With `shared` all answers use one cache of the
    prompt, which is made once; else each has one of its own, which is made for it.
    """

    name: ClassVar[str] = "sampling"
    k: int = 1
    at_once: int | None = None
    shortest: int | None = None
    shared: bool = True
    a: float | None = None
    b: float | None = None

    def __post_init__(self) -> None:
        require(1 <= self.k <= 1 << 16, "k", "in 1..65536", self.k)
        for name in ("at_once", "shortest"):
            if (value := getattr(self, name)) is not None:
                require(value >= 1, name, "at least 1", value)
        _coverage(self.a, self.b)

    def lengths(self, longest: int) -> tuple[int, ...]:
        """Tokens of each answer, the longest first."""
        shortest = longest if self.shortest is None else self.shortest
        rule = f"at most {longest}, the tokens that are decoded"
        require(shortest <= longest, "shortest", rule, shortest)
        step = (longest - shortest) / max(1, self.k - 1)
        return tuple(longest - math.floor(number * step + 0.5) for number in range(self.k))

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        _require_one_prompt(serving)
        prompt, longest = serving.prefill_tokens, serving.decode_tokens
        lengths = self.lengths(longest)
        shared, own, apart = (
            room.held(prompt),
            room.held(longest),
            room.held(prompt + longest),
        )
        wanted = min(self.k, self.at_once or self.k)
        taken = (shared, own) if self.shared and self.k > 1 else (0, apart)
        at_once = _samples_at_once(wanted, room.free_bytes, *taken)
        turns = -(-self.k // at_once)
        batches = [lengths[turn::turns] for turn in range(turns)]
        most = len(batches[0])
        prefills = [1] if self.shared else [len(batch) for batch in batches]
        steps = [
            Pass(1, prompt + step, sum(length > step for length in batch))
            for batch in batches
            for step in range(batch[0])
        ]
        facts: Facts = {
            "attempts": self.k,
            "at_once": most,
            "occupancy": sum(lengths) / sum(len(batch) * batch[0] for batch in batches),
            "shared_cache_bytes": shared + most * own if self.k > 1 else apart,
            "separate_cache_bytes": most * apart,
        }
        stages = (
            ProfileStage("prefill", tuple(Pass(prompt, batch=n) for n in prefills), in_one=False),
            ProfileStage("decode", tuple(steps)),
        )
        coverage = _coverage(self.a, self.b)
        return Plan(stages, sum(lengths), facts, coverage and coverage.solving(self.k))


def _require_one_prompt(serving: Serving) -> None:
    require(serving.batch == 1, "batch", "1: the profile makes batches itself", serving.batch)
    rule = "left out: the profile grows the cache from the prompt"
    require(not serving.contexts, "context", rule, list(serving.contexts))


@dataclass(frozen=True, kw_only=True)
class Search:
    """A tree of reasoning steps, as Monte Carlo tree search grows it, whose rollouts a second model
    then checks (rStar, arXiv 2408.06195, section 3; 16 rollouts and a depth of 5 are its own).

    Each of `rollouts` walks from the root to `depth` steps and gives every node on its way
    `branching` children, of `step` tokens each, unless it has them. Rollouts spread as wide as they
    can: at most as many nodes of a level are visited as there are rollouts. Up to `at_once` steps
    of a level are written at once, by itself the children of one node. The checker sees the prompt
    and a trajectory, of which the share `masked` at the end is left for it to write; `checker`
    names it, `same` is a model of equal size, and `none` leaves it out.
    """

    name: ClassVar[str] = "search"
    rollouts: int = 16
    depth: int = 5
    branching: int = 3
    step: int = 64
    at_once: int | None = None
    checker: str = SAME
    masked: float = 0.5
    a: float | None = None
    b: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("rollouts", 1 << 12), ("depth", 64), ("branching", 64)):
            value = getattr(self, name)
            require(1 <= value <= most, name, f"in 1..{most}", value)
        require(1 <= self.step <= 1 << 16, "step", "in 1..65536", self.step)
        if self.at_once is not None:
            require(self.at_once >= 1, "at_once", "at least 1", self.at_once)
        require(0 < self.masked <= 1, "masked", "above 0, and at most 1", self.masked)
        _coverage(self.a, self.b)

    @property
    def visited(self) -> tuple[int, ...]:
        """Nodes of each level that get children, from the root's level on."""
        levels = (self.branching**level for level in range(self.depth))
        return tuple(min(self.rollouts, nodes) for nodes in levels)

    @property
    def nodes(self) -> int:
        """Steps of reasoning that are written."""
        return self.branching * sum(self.visited)

    @property
    def leaves(self) -> int:
        """Nodes without children."""
        return self.nodes - (sum(self.visited) - 1)

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        _require_one_prompt(serving)
        prompt, step = serving.prefill_tokens, self.step
        longest = prompt + self.depth * step
        shared, own = room.held(prompt), room.held(self.depth * step)
        wanted = self.at_once or self.branching
        at_once = _samples_at_once(wanted, room.free_bytes, shared, own)
        passes = [
            Pass(1, prompt + level * step + token, size)
            for level, visited in enumerate(self.visited)
            for size in _sizes(visited * self.branching, at_once)
            for token in range(step)
        ]
        stages = [
            ProfileStage("prefill", (Pass(prompt),), in_one=False),
            ProfileStage("steps", tuple(passes)),
        ]
        if self.checker != NONE:
            stages.extend(self._checking(longest, at_once))
        tree = shared + self.nodes * room.held(step)
        facts: Facts = {
            "attempts": self.rollouts,
            "nodes": self.nodes,
            "leaves": self.leaves,
            "at_once": min(at_once, self.branching * max(self.visited)),
            "shared_cache_bytes": tree,
            "separate_cache_bytes": self.leaves * room.held(longest),
            "tree_fits": None if room.free_bytes is None else tree <= room.free_bytes,
        }
        coverage = _coverage(self.a, self.b)
        solving = coverage and coverage.solving(self.rollouts)
        return Plan(tuple(stages), self.nodes * step, facts, solving)

    def _checking(self, longest: int, at_once: int) -> Iterator[ProfileStage]:
        """One trajectory of each rollout: read what is not masked, and write what is."""
        masked = max(1, math.floor(self.masked * self.depth * self.step))
        model = None if self.checker == SAME else self.checker
        sizes = _sizes(self.rollouts, at_once)
        read = tuple(Pass(longest - masked, batch=size) for size in sizes)
        yield ProfileStage("check: read", read, in_one=False, model=model)
        written = tuple(
            Pass(1, longest - masked + token, size) for size in sizes for token in range(masked)
        )
        yield ProfileStage("check: write", written, model=model)


def _sizes(total: int, most: int) -> list[int]:
    """`total` in parts of `most`, and what is left."""
    return [min(most, total - start) for start in range(0, total, most)]


def _require_single(serving: Serving, why: str) -> None:
    require(serving.batch == 1, "batch", f"1: {why}", serving.batch)


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """Some tokens leave after few of the layers: the share `leave[i]` after `after[i]` of them, the
    others after all. The output head sees every token where it leaves.

    How it is decided who leaves is not part of it, nor are keys and values that the layers which a
    token skips would need of it.
    """

    name: ClassVar[str] = "early-exit"
    after: tuple[int, ...] = ()
    leave: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.after), "after", "at least one number of layers", list(self.after))
        rule = "as many shares as `after` has numbers of layers"
        require(len(self.leave) == len(self.after), "leave", rule, len(self.leave))
        for before, layers in itertools.pairwise((0, *self.after)):
            require(layers > before, "after", "numbers of layers that grow, from 1 on", layers)
        for share in self.leave:
            require(0 <= share <= 1, "leave", "in 0..1", share)
        total = math.fsum(self.leave)
        require(total <= 1 + 1e-12, "leave", "at most 1 in all", total)

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        _require_single(serving, "tokens of a batch would leave at different layers")
        layers = room.shape.layers
        rule = f"below {layers}, the layers of the model"
        require(self.after[-1] < layers, "after", rule, self.after[-1])
        stages = [
            ProfileStage(f"leave after {count}", serving.decode, share, blocks=tuple(range(count)))
            for count, share in zip(self.after, self.leave, strict=True)
            if share
        ]
        rest = max(0.0, 1 - math.fsum(self.leave))
        if rest:
            stages.append(ProfileStage("all layers", serving.decode, rest))
        left = zip(self.after, self.leave, strict=True)
        mean = rest * layers + math.fsum(count * share for count, share in left)
        return Plan(tuple(stages), len(serving.decode), {"layers_per_token": mean})


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """The first of the model's layers in place of all: a block of 1/`depths` of them, which runs
    `depths` times. Its weights are read anew each time unless they fit a buffer of `buffer_kib`.

    `keep` is the share of tokens that run each of the depths (Mixture-of-Recursions, arXiv
    2507.10524, section 2.2): the first is 1, and none is more than the one before. Keys and values
    of all tokens are read at every depth.
    """

    name: ClassVar[str] = "recursion"
    depths: int = 2
    keep: tuple[float, ...] = ()
    buffer_kib: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.depths <= 1 << 12, "depths", "in 1..4096", self.depths)
        require(self.buffer_kib >= 0, "buffer_kib", "0 or more", self.buffer_kib)
        if self.keep:
            rule = f"{self.depths} shares, one for each depth"
            require(len(self.keep) == self.depths, "keep", rule, len(self.keep))
            require(self.keep[0] == 1, "keep", "1 at the first depth", self.keep[0])
        for before, share in itertools.pairwise(self.keep):
            require(0 <= share <= before, "keep", f"in 0..{before:g}, as before it", share)

    def unit(self, layers: int) -> int:
        """Layers that have weights of their own."""
        rule = f"a divisor of {layers}, the layers of the model"
        require(layers % self.depths == 0, "depths", rule, self.depths)
        return layers // self.depths

    def plan(self, serving: Serving, room: CacheRoom) -> Plan:
        if self.keep:
            _require_single(serving, "tokens of a batch would leave at different depths")
        layers = room.shape.layers
        unit = tuple(range(self.unit(layers)))
        keep = (*(self.keep or (1.0,) * self.depths), 0.0)
        stages = []
        for depth in range(1, self.depths + 1):
            share = keep[depth - 1] - keep[depth]
            if share:
                name = f"depth {depth}"
                resident = (depth - 1) / depth
                blocks = unit * depth
                stages.append(
                    ProfileStage(
                        name, serving.decode, share, blocks=blocks, resident_share=resident
                    )
                )
        mean = len(unit) * math.fsum(keep)
        facts: Facts = {"own_layers": len(unit), "layers_per_token": mean}
        return Plan(tuple(stages), serving.batch * len(serving.decode), facts)


Profile = Prefill | Decode | Speculative | Sampling | Search | EarlyExit | Recursion

PROFILES: dict[str, type[Profile]] = {
    profile.name: profile
    for profile in (Prefill, Decode, Speculative, Sampling, Search, EarlyExit, Recursion)
}
"""Every profile by its name."""
