"""Wrappers around the calls of listeners."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from hubsub import (
    Call,
    DeadLetter,
    Event,
    Hub,
    InvalidFunction,
    InvalidKey,
    Key,
    Listener,
    ListenerFailure,
    RemoteError,
    Retry,
    Subscriber,
    Wrapping,
)

session: ContextVar[str] = ContextVar("session", default="none")


class Notes(list[Any]):
    """Wrappers and listeners that note what they do, in one list."""

    def wrapper(self, name: str) -> Callable[[Call[Any]], Any]:
        def wrap(call: Call[Any]) -> Any:
            self.append(f"{name} in")
            try:
                return call()
            finally:
                self.append(f"{name} out")

        return wrap

    def async_wrapper(self, name: str) -> Callable[[Call[Any]], Any]:
        async def wrap(call: Call[Any]) -> Any:
            self.append(f"{name} in")
            try:
                return await call()
            finally:
                self.append(f"{name} out")

        return wrap

    def listen(self, key: Key[Any], message: Any) -> None:
        self.append(message)

    async def listen_async(self, key: Key[Any], message: Any) -> None:
        await asyncio.sleep(0)
        self.append(message)

    def taken(self) -> list[Any]:
        taken = list(self)
        self.clear()
        return taken


async def settle(hub: Hub) -> None:
    """Wait until every async listener has handled its queue."""
    await until(lambda: not hub.busy())


async def until(is_so: Callable[[], bool]) -> None:
    """Give the loop its turns until something is so."""
    while not is_so():  # noqa: ASYNC110 - nobody is notified of it
        await asyncio.sleep(0)


def test_the_wrapper_added_first_is_the_outermost() -> None:
    hub, notes = Hub(), Notes()
    hub.add_listener("a", notes.listen)
    hub.wrap("a", notes.wrapper("outer"))
    hub.wrap("*", notes.wrapper("inner"))
    assert hub.publish("a", 1) == 1
    assert notes == ["outer in", "inner in", 1, "inner out", "outer out"]


async def test_async_wrappers_stand_around_async_listeners_in_the_same_order() -> None:
    async with Hub() as hub:
        notes = Notes()
        hub.add_listener("a", notes.listen_async)
        hub.wrap("a", notes.async_wrapper("outer"))
        hub.wrap("*", notes.async_wrapper("inner"))
        hub.publish("a", 1)
        await settle(hub)
        assert notes == ["outer in", "inner in", 1, "inner out", "outer out"]


async def test_a_plain_wrapper_concerns_plain_listeners_and_an_async_one_async_listeners() -> None:
    async with Hub() as hub:
        notes = Notes()
        plain, awaited = hub.wrap("a", notes.wrapper("plain")), hub.wrap("a", notes.async_wrapper("async"))
        assert (plain.is_async, awaited.is_async) == (False, True)
        hub.add_listener("a", notes.listen)
        hub.publish("a", 1)
        assert notes.taken() == ["plain in", 1, "plain out"]
        hub.remove_listener(notes.listen)
        hub.add_listener("a", notes.listen_async)
        hub.publish("a", 2)
        await settle(hub)
        assert notes == ["async in", 2, "async out"]


@pytest.mark.parametrize("before", [True, False])
async def test_it_concerns_listeners_that_were_added_before_and_after(before: bool) -> None:
    async with Hub() as hub:
        notes = Notes()

        def add() -> None:
            hub.add_listener("a", notes.listen)
            hub.add_listener("a", notes.listen_async)

        if before:
            add()
            hub.publish("a", 0)  # its route is made, and the task of the async listener runs
            await settle(hub)
            notes.clear()
        hub.wrap("a", notes.wrapper("plain"))
        hub.wrap("a", notes.async_wrapper("async"))
        if not before:
            add()
        hub.publish("a", 1)
        await settle(hub)
        assert notes == ["plain in", 1, "plain out", "async in", 1, "async out"]


def test_only_messages_that_match_its_patterns_are_wrapped() -> None:
    hub, notes = Hub(), Notes()
    hub.add_listener(("a", "*"), notes.listen)
    hub.add_listener("b", notes.listen)
    hub.wrap([("a", "x"), ("a", "y")], notes.wrapper("w"))
    for key in (("a", "x"), ("a", "z"), ("a", "y")):
        hub.publish(key, key[1])
    hub.publish("b", "b")
    assert notes == ["w in", "x", "w out", "z", "w in", "y", "w out", "b"]


def test_a_listener_that_no_wrapper_concerns_stands_in_routes_itself() -> None:
    hub, notes = Hub(), Notes()
    hub.wrap(("a", "*"), notes.wrapper("w"))
    hub.wrap("b", notes.async_wrapper("w"))
    listener = hub.add_listener("b", notes.listen)
    assert listener.deliver == notes.listen
    concerned = hub.add_listener(("a", "b"), notes.listen)
    assert concerned.deliver != notes.listen


def test_after_its_removal_the_listener_is_called_as_before() -> None:
    hub, notes = Hub(), Notes()
    listener = hub.add_listener("a", notes.listen)
    wrapping = hub.wrap("a", notes.wrapper("w"))
    with hub.wrap("a", notes.wrapper("block")):
        hub.publish("a", 1)
    assert notes.taken() == ["w in", "block in", 1, "block out", "w out"]
    hub.publish("a", 2)
    assert notes.taken() == ["w in", 2, "w out"]
    wrapping.remove()
    wrapping.remove()
    hub.publish("a", 3)
    assert notes == [3]
    assert listener.deliver == notes.listen
    assert wrapping.closed
    assert wrapping.patterns == (("a",),)
    assert repr(wrapping).endswith(" removed>")


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"context": "publisher"}, {"retry": Retry(2, 0)}])
async def test_a_wrapper_that_comes_or_goes_changes_the_next_call_of_a_running_task(options: Any) -> None:
    async with Hub() as hub:
        notes = Notes()
        wrappings: list[Wrapping] = []

        async def listen(key: Key[Any], message: Any) -> None:
            notes.append(message)
            if message == 2:
                wrappings.append(hub.wrap("a", notes.async_wrapper("w")))
            elif message == 4:
                wrappings[0].remove()

        hub.add_listener("a", listen, **options)
        for number in range(1, 7):
            hub.publish("a", number)
        await settle(hub)
        assert notes == [1, 2, "w in", 3, "w out", "w in", 4, "w out", 5, 6]


async def test_a_running_task_learns_of_a_wrapper_even_if_a_publisher_leaves_the_line_meanwhile() -> None:
    async with Hub() as hub:
        notes = Notes()

        async def listen(key: Key[Any], message: Any) -> None:
            notes.append(message)
            if message == 1:
                hub.publish("a", 4)  # it is full again
                await until(lambda: bool(listener.mailbox and listener.mailbox.line))
            elif message == 2:
                hub.wrap("a", notes.async_wrapper("w"))
                waiting.cancel()
                await asyncio.wait([waiting])

        listener = hub.add_listener("a", listen, maxsize=3)
        for number in range(1, 4):
            hub.publish("a", number)
        waiting = asyncio.create_task(hub.publish_wait("a", "never"))
        await settle(hub)
        assert notes == [1, 2, "w in", 3, "w out", "w in", 4, "w out"]


async def test_the_call_shows_key_message_metadata_and_the_listener() -> None:
    async with Hub() as hub:
        seen: list[Any] = []

        def note(call: Call[Any]) -> Any:
            seen.append((call.key, call.message, call.event.meta and call.event.meta.headers, call.listener))
            return call()

        async def note_async(call: Call[Any]) -> Any:
            return await note(call)

        def listen(key: Key[Any], message: Any) -> None: ...

        async def listen_async(event: Event[Any]) -> None:
            seen.append(event.meta and event.meta.headers)

        hub.wrap("a", note)
        hub.wrap("a", note_async)
        plain, later = hub.add_listener("a", listen), hub.add_listener("a", listen_async, event=True)
        hub.publish("a", 1)
        await settle(hub)
        hub.publish_with_headers("a", 2, {"trace": "7"})
        await settle(hub)
        key, headers = Key("a"), {"trace": "7"}
        assert seen == [
            (key, 1, None, plain),
            (key, 1, None, later),
            None,
            (key, 2, headers, plain),
            (key, 2, headers, later),
            headers,
        ]
        assert plain.function is listen


async def test_what_a_wrapper_raises_or_lets_through_is_a_failure_of_the_listener() -> None:
    failures: list[ListenerFailure] = []
    async with Hub(on_error=failures.append) as hub:
        notes = Notes()

        def refuse(call: Call[Any]) -> Any:
            if call.message == "refused":
                raise ValueError("refused")
            return call()

        async def refuse_async(call: Call[Any]) -> Any:
            return await refuse(call)

        def fail(key: Key[Any], message: Any) -> None:
            raise KeyError(message)

        async def fail_async(key: Key[Any], message: Any) -> None:
            raise KeyError(message)

        hub.wrap("a", refuse)
        hub.wrap("a", refuse_async)
        plain, later = hub.add_listener("a", fail), hub.add_listener("a", fail_async)
        hub.add_listener("a", notes.listen)  # the failure hurts only itself
        for message in ("refused", "let through"):
            assert hub.publish("a", message) == 3
            await settle(hub)
        assert [(each.listener, type(each.error)) for each in failures] == [
            (plain, ValueError),
            (hub.subscriptions()[2], ValueError),
            (later, ValueError),
            (plain, KeyError),
            (later, KeyError),
        ]
        assert notes == ["let through"]
        assert (plain.failed, later.failed) == (2, 2)


async def test_a_wrapper_that_catches_an_error_makes_the_call_a_success() -> None:
    async with Hub() as hub:

        def catch(call: Call[Any]) -> None:
            try:
                call()
            except KeyError:
                pass

        def fail(key: Key[Any], message: Any) -> None:
            raise KeyError(message)

        hub.wrap("a", catch)
        listener = hub.add_listener("a", fail)
        assert await hub.publish_confirmed("a", 1) == 1
        assert listener.failed == 0


async def test_every_attempt_of_a_retried_listener_is_wrapped() -> None:
    async with Hub() as hub:
        notes = Notes()
        letters: list[DeadLetter] = []
        hub.add_listener(("Hub", "deadLetter", "a"), lambda key, letter: letters.append(letter))

        async def fail(key: Key[Any], message: Any) -> None:
            notes.append("fails")
            raise ValueError

        hub.wrap("a", notes.async_wrapper("w"))
        hub.add_listener("a", fail, retry=Retry(2, 0))
        hub.publish("a", 1)
        await settle(hub)
        assert notes == ["w in", "fails", "w out"] * 2
        assert [letter.attempts for letter in letters] == [2]


def test_a_message_that_where_refuses_is_not_wrapped_and_once_is_used_up_by_one_wrapped_call() -> None:
    hub, notes = Hub(), Notes()
    hub.wrap("a", notes.wrapper("w"))
    listener = hub.add_listener("a", notes.listen, where=lambda key, message: message > 1, once=True)
    for number in (1, 2, 3):
        hub.publish("a", number)
    assert notes == ["w in", 2, "w out"]
    assert listener.closed


async def test_up_to_concurrency_wrapped_calls_run_at_the_same_time() -> None:
    async with Hub() as hub:
        notes, go = Notes(), asyncio.Event()

        async def listen(key: Key[Any], message: Any) -> None:
            await go.wait()

        hub.wrap("a", notes.async_wrapper("w"))
        hub.add_listener("a", listen, concurrency=2)
        for number in range(3):
            hub.publish("a", number)
        await until(lambda: len(notes) >= 2)
        assert notes == ["w in", "w in"]
        go.set()
        await settle(hub)
        assert notes.count("w out") == 3


async def test_a_wrapper_around_a_responder_sees_and_returns_the_reply() -> None:
    async with Hub() as hub:

        def plain(call: Call[Any]) -> Any:
            return f"<{call()}>"

        async def awaited(call: Call[Any]) -> Any:
            return f"[{await call()}]"

        hub.respond("plain", lambda key, message: message)

        async def answer(key: Key[Any], message: Any) -> Any:
            if message is None:
                raise ValueError("no answer")
            return message

        hub.respond("async", answer)
        assert (await hub.request("plain", 1), await hub.request("async", 2)) == (1, 2)
        wrappings = [hub.wrap("+", plain), hub.wrap("+", awaited)]
        assert (await hub.request("plain", 1), await hub.request("async", 2)) == ("<1>", "[2]")
        with pytest.raises(RemoteError, match="no answer"):
            await hub.request("async", None)
        for wrapping in wrappings:
            wrapping.remove()
        assert (await hub.request("plain", 1), await hub.request("async", 2)) == (1, 2)


async def test_a_confirmed_message_is_finished_when_the_wrapper_has_returned() -> None:
    async with Hub() as hub:
        notes, go = Notes(), asyncio.Event()

        async def linger(call: Call[Any]) -> None:
            await call()
            await go.wait()
            notes.append("committed")

        hub.wrap("a", linger)
        hub.add_listener("a", notes.listen_async)
        confirmed = asyncio.create_task(hub.publish_confirmed("a", 1))
        await until(lambda: notes == [1])
        assert not confirmed.done()
        go.set()
        assert await confirmed == 1
        assert notes == [1, "committed"]


async def test_variables_that_a_wrapper_sets_are_seen_by_the_listener() -> None:
    async with Hub() as hub:
        seen: list[str] = []

        async def open_session(call: Call[Any]) -> Any:
            token = session.set(f"session of {call.message}")
            try:
                return await call()
            finally:
                session.reset(token)

        async def listen(key: Key[Any], message: Any) -> None:
            await asyncio.sleep(0)
            seen.append(session.get())

        hub.wrap("a", open_session)
        hub.add_listener("a", listen)
        hub.add_listener("a", listen, context="publisher")
        session.set("publisher's")
        hub.publish("a", 1)
        await settle(hub)
        assert seen == ["session of 1", "session of 1"]
        assert session.get() == "publisher's"


async def test_a_wrapper_runs_in_the_context_in_which_the_listener_does() -> None:
    async with Hub() as hub:
        seen: list[str] = []

        async def note(call: Call[Any]) -> Any:
            seen.append(session.get())
            return await call()

        hub.wrap("a", note)
        hub.add_listener("a", Notes().listen_async, context="publisher")
        session.set("publisher's")
        hub.publish("a", 1)
        await settle(hub)
        assert seen == ["publisher's"]


async def test_removing_a_listener_cancels_its_wrapped_call() -> None:
    async with Hub() as hub:
        notes, begun = Notes(), asyncio.Event()

        async def listen(key: Key[Any], message: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        hub.wrap("a", notes.async_wrapper("w"))
        listener = hub.add_listener("a", listen)
        hub.publish("a", 1)
        await begun.wait()
        await listener.remove()
        assert notes == ["w in", "w out"]
        assert listener.failed == 0


def test_retained_messages_that_a_listener_begins_with_are_wrapped() -> None:
    hub, notes = Hub(), Notes()
    hub.retain("a")
    hub.publish("a", 1)
    hub.wrap("a", notes.wrapper("w"))
    hub.add_listener("a", notes.listen, history=1)
    hub.publish("a", 2)
    assert notes == ["w in", 1, "w out", "w in", 2, "w out"]


def test_a_wrapper_that_is_added_while_a_listener_begins_with_its_history_concerns_what_comes_next() -> None:
    hub, notes = Hub(), Notes()
    hub.retain("a", 2)
    hub.publish("a", 1)
    hub.publish("a", 2)

    def listen(key: Key[Any], message: Any) -> None:
        notes.append(message)
        if message == 1:
            hub.wrap("a", notes.wrapper("w"))
            hub.publish("a", 3)

    hub.add_listener("a", listen, history=2)
    hub.publish("a", 4)
    assert notes == [1, "w in", 2, "w out", "w in", 3, "w out", "w in", 4, "w out"]


def test_a_pattern_that_a_subscriber_adds_later_is_wrapped() -> None:
    hub, notes = Hub(), Notes()
    subscriber = Subscriber(hub, "s")
    hub.wrap("b", notes.wrapper("w"))
    subscriber.add_listener("a", notes.listen)
    subscriber.add_listener("b", notes.listen)
    hub.publish("a", 1)
    hub.publish("b", 2)
    assert notes == [1, "w in", 2, "w out"]


def test_many_listeners_of_one_key_are_wrapped_and_unwrapped() -> None:
    hub, notes = Hub(), Notes()
    number = 600  # so many that their route is kept, and changed

    def listener_of(index: int) -> Callable[[Key[Any], Any], None]:
        return lambda key, message: notes.append(index)

    for index in range(number):
        hub.add_listener("a", listener_of(index))
    hub.publish("a", 0)
    assert notes.taken() == list(range(number))
    with hub.wrap("a", lambda call: (notes.append("w"), call())[1]):
        hub.publish("a", 0)
        assert notes.taken() == [each for index in range(number) for each in ("w", index)]
    hub.publish("a", 0)
    assert notes.taken() == list(range(number))


def test_a_listener_that_begins_with_a_history_beside_very_many_gets_what_comes_later() -> None:
    hub, notes = Hub(), Notes()
    for _ in range(600):
        hub.add_listener("a", lambda key, message: None)
    hub.retain("a")
    hub.publish("a", 1)
    listener = hub.add_listener("a", notes.listen, history=1)
    hub.publish("a", 2)
    assert notes == [1, 2]
    assert listener.failed == 0


async def test_an_awaitable_that_a_plain_listener_returns_is_a_failure_inside_a_wrapper_too() -> None:
    failures: list[ListenerFailure] = []
    async with Hub(on_error=failures.append) as hub:
        notes = Notes()
        hub.wrap("a", notes.wrapper("w"))
        hub.add_listener("a", lambda key, message: asyncio.sleep(0))
        hub.publish("a", 1)
        hub.publish("a", 2)
        assert len(failures) == 2


def test_a_wrapper_may_remove_itself_and_what_it_wraps() -> None:
    hub, notes = Hub(), Notes()

    def once(call: Call[Any]) -> Any:
        wrapping.remove()
        listener: Listener = call.listener
        listener.remove()
        return call()

    wrapping = hub.wrap("a", once)
    hub.add_listener("a", notes.listen)
    hub.publish("a", 1)
    hub.publish("a", 2)
    assert notes == [1]


async def test_wrappers_stay_when_the_hub_is_closed_and_started_again() -> None:
    hub, notes = Hub(), Notes()
    async with hub:
        hub.add_listener("a", notes.listen_async)
        hub.wrap("a", notes.async_wrapper("w"))
    async with hub:
        hub.publish("a", 1)
        await settle(hub)
    assert notes == ["w in", 1, "w out"]


def test_very_many_keys_are_wrapped_and_few_are_remembered() -> None:
    hub, notes = Hub(), Notes()
    hub.wrap("+", notes.wrapper("w"))
    hub.add_listener("+", notes.listen)
    hub._wrappings.MOST_KEYS = 10  # type: ignore[misc]
    for number in range(25):
        hub.publish(str(number), number)
    assert notes.count("w in") == 25
    assert len(hub._wrappings._by_key[False]) <= 10


@pytest.mark.parametrize("function", [None, lambda: None, lambda call, more: None])
def test_what_is_no_function_of_a_call_is_refused(function: Any) -> None:
    with pytest.raises(InvalidFunction, match="a wrapper must be a function of call"):
        Hub().wrap("a", function)
    with pytest.raises(InvalidKey):
        Hub().wrap((), lambda call: call())


def test_a_generator_function_is_refused_as_a_wrapper() -> None:
    def generator(call: Call[Any]) -> Any:
        yield

    with pytest.raises(InvalidFunction, match="generator"):
        Hub().wrap("a", generator)


def test_an_explanation_names_the_wrappers_and_those_that_wrap_nobody() -> None:
    hub, notes = Hub(), Notes()

    def timed(call: Call[Any]) -> Any:
        return call()

    async def timed_async(call: Call[Any]) -> Any:
        return await call()

    hub.wrap("+", timed)
    hub.wrap("b", timed)
    hub.add_listener("a", notes.listen_async)
    explanation = hub.explain("a")
    assert [each.function for each in explanation.wrappings] == [timed]
    assert "timed on ('+',), around plain listeners" in str(explanation)
    [hint] = explanation.hints
    assert hint.endswith("timed is a plain function, which wraps no async listener; for those, wrap an async one too")
    wrapping = hub.wrap("a", timed_async)
    explanation = hub.explain("a")
    assert [each.function for each in explanation.wrappings] == [timed, timed_async]
    assert explanation.hints == ()
    wrapping.remove()
    hub.add_listener("a", notes.listen)
    assert hub.explain("a").hints == ()
