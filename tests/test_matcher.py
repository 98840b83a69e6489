"""The trie and the exact look-up, held against the naive matcher, and left empty."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_key import KEYS, PATTERNS, naive

from hubsub._core.literals import Literals
from hubsub._core.matcher import Matcher


@given(st.lists(PATTERNS, unique=True, max_size=30), KEYS)
def test_matching_agrees_with_the_naive_matcher(patterns: list[tuple[str, ...]], key: tuple[str, ...]) -> None:
    matcher: Matcher[tuple[str, ...]] = Matcher()
    for pattern in patterns:
        matcher.add(pattern, pattern)
    assert sorted(matcher.match(key)) == sorted(pattern for pattern in patterns if naive(pattern, key))
    assert dict(matcher.counts()) == dict.fromkeys(patterns, 1)


class MatcherMachine(RuleBasedStateMachine):
    """Adds and removes in any order; a plain set of pairs is the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.matcher: Matcher[int] = Matcher()
        self.pairs: set[tuple[tuple[str, ...], int]] = set()

    def count(self, pattern: tuple[str, ...]) -> int:
        return sum(held == pattern for held, _ in self.pairs)

    @rule(pattern=PATTERNS, subscription=st.integers(0, 3))
    def add(self, pattern: tuple[str, ...], subscription: int) -> None:
        if (pattern, subscription) not in self.pairs:
            self.pairs.add((pattern, subscription))
            assert self.matcher.add(pattern, subscription) == self.count(pattern)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        pattern, subscription = pair = data.draw(st.sampled_from(sorted(self.pairs)))
        self.pairs.remove(pair)
        assert self.matcher.remove(pattern, subscription) == self.count(pattern)

    @rule(key=KEYS)
    def match(self, key: tuple[str, ...]) -> None:
        assert sorted(set(self.matcher.match(key))) == sorted({s for p, s in self.pairs if naive(p, key)})

    @rule(pattern=PATTERNS)
    def overlaps(self, pattern: tuple[str, ...]) -> None:
        from hubsub.key import overlaps

        found = {subscription for held, subscription in self.pairs if overlaps(pattern, held)}
        assert self.matcher.overlaps(pattern) == bool(found)
        assert set(self.matcher.overlapping(pattern)) == found

    @invariant()
    def counts_and_emptiness(self) -> None:
        assert dict(self.matcher.counts()) == {pattern: self.count(pattern) for pattern, _ in self.pairs}
        assert len(self.matcher) == len({pattern for pattern, _ in self.pairs})
        assert self.matcher.is_empty() == (not self.pairs)

    def teardown(self) -> None:
        for pattern, subscription in self.pairs:
            self.matcher.remove(pattern, subscription)
        assert self.matcher.is_empty()


class ManyMachine(MatcherMachine):
    """The same with exact patterns filed by their parts from the first ones on."""

    def __init__(self) -> None:
        super().__init__()
        self.many, Matcher.MANY = Matcher.MANY, 1
        self.unfiled, Literals.MOST_UNFILED = Literals.MOST_UNFILED, 2

    def teardown(self) -> None:
        Matcher.MANY, Literals.MOST_UNFILED = self.many, self.unfiled
        super().teardown()


TestManyMachine = ManyMachine.TestCase
TestManyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestMatcherMachine = MatcherMachine.TestCase
TestMatcherMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_removal_prunes_every_branch_that_it_empties() -> None:
    matcher: Matcher[int] = Matcher()
    matcher.add(("a", "*", "c", "+"), 1)
    matcher.add(("a", "+", "c", "*"), 2)
    matcher.remove(("a", "*", "c", "+"), 1)
    assert matcher.match(("a", "b", "c", "d", "e")) == [2]
    matcher.remove(("a", "+", "c", "*"), 2)
    assert matcher.is_empty()


def test_both_spellings_of_one_part_are_patterns_of_their_own() -> None:
    matcher: Matcher[int] = Matcher()
    matcher.add(("*", "b"), 1)
    matcher.add(("+", "b"), 1)
    matcher.remove(("*", "b"), 1)
    assert matcher.match(("a", "b")) == [1]
    assert dict(matcher.counts()) == {("+", "b"): 1}
    matcher.remove(("+", "b"), 1)
    assert matcher.is_empty()
