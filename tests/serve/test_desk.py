"""A request that nobody wants any more is cancelled: superseded, left, too slow, or at the end of the server."""

import asyncio
import threading

import pytest
import torch

from attncli.serve.desk import Desk, Order
from attncli.serve.limits import Limits
from attncli.serve.refusal import Refusal
from attncli.serve.worker import Cancelled, Job, ModelThread
from tests.support.models import ENCODER_DECODERS, tiny_model
from tests.support.serving import Gate


class Asking:
    """A request whose client leaves when `leaves` is set."""

    def __init__(self):
        self.leaves = asyncio.Event()

    async def receive(self):
        await self.leaves.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
def thread():
    one = ModelThread(8)
    yield one
    one._ended = True
    with one._changed:
        one._changed.notify()
    one._thread.join(60)
    assert not one._thread.is_alive()


async def status_of(answer):
    with pytest.raises(Refusal) as refusal:
        await answer
    return refusal.value.status


async def begun(gate):
    assert await asyncio.to_thread(gate.begun.wait, 60)


def test_a_newer_request_cancels_the_older_one_of_its_client_and_kind(thread):
    async def ask():
        desk, gate, ran = Desk(thread, Limits()), Gate(), []
        first = asyncio.ensure_future(desk.run(Asking(), "page", None, gate))
        await begun(gate)

        def work(name):
            return lambda: ran.append(name) or name

        def run(kind, client, number):
            name = f"{kind} {client} {number}"
            return asyncio.ensure_future(desk.run(Asking(), kind, Order(client, number), work(name)))

        older, other_kind, other_client = run("page", "a", 1), run("cut", "a", 1), run("page", "b", 1)
        await asyncio.sleep(0)
        newer = run("page", "a", 2)
        assert await status_of(older) == 409
        assert await status_of(run("page", "a", 1)) == 409
        assert await status_of(run("page", "a", 2)) == 409
        gate.opened.set()
        assert await asyncio.gather(first, other_kind, other_client, newer) == [
            "through the gate", "cut a 1", "page b 1", "page a 2",
        ]  # fmt: skip
        assert ran == ["cut a 1", "page b 1", "page a 2"]
        assert await run("page", "a", 3) == "page a 3"
        assert all(job is None for _, job in desk._last.values())  # no answer is kept

    asyncio.run(ask())


NETWORKS = {"decoder": {}, "encoder-decoder": ENCODER_DECODERS["m2m100"]}


def passes(network, ids):
    with torch.inference_mode():
        source = network.read_source(ids) if network.encoder is not None else None
        return network.hidden(ids, source=source)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_running_job_is_cancelled_between_two_layers(kind, thread):
    network, ids = tiny_model(**NETWORKS[kind]), torch.arange(12)[None]
    expected = passes(network, ids)
    thread.watch(network)
    ended, layers = [], []

    async def ask():
        desk, inside, go_on = Desk(thread, Limits()), threading.Event(), threading.Event()

        def wait(*_):
            layers.append(1)
            if len(layers) == 2:
                inside.set()
                assert go_on.wait(60)

        hooks = [block.register_forward_hook(wait) for block in network.blocks]

        def work():
            try:
                return passes(network, ids)
            except Exception:
                ended.append("caught")
            finally:
                ended.append("ended")

        older = asyncio.ensure_future(desk.run(Asking(), "page", Order("a", 1), work))
        assert await asyncio.to_thread(inside.wait, 60)
        newer = asyncio.ensure_future(desk.run(Asking(), "page", Order("a", 2), lambda: "newer"))
        assert await status_of(older) == 409  # at once, while its layer still runs
        assert ended == []
        go_on.set()
        assert await newer == "newer"
        for hook in hooks:
            hook.remove()
        assert torch.equal(await desk.run(Asking(), "page", Order("a", 3), lambda: passes(network, ids)), expected)

    asyncio.run(ask())
    assert ended == ["ended"]
    assert len(layers) == 2


def test_a_client_that_leaves_cancels_its_request(thread):
    async def ask():
        desk, gate, leaving, ran = Desk(thread, Limits()), Gate(), Asking(), []

        def work():
            gate()
            thread.check()
            ran.append(1)

        running = asyncio.ensure_future(desk.run(leaving, "page", None, work))
        await begun(gate)
        waiting = asyncio.ensure_future(desk.run(leaving, "page", None, lambda: ran.append(2)))
        await asyncio.sleep(0)
        leaving.leaves.set()
        assert [await status_of(running), await status_of(waiting)] == [499, 499]
        gate.opened.set()
        assert await desk.run(Asking(), "page", None, lambda: "next") == "next"
        assert ran == []

    asyncio.run(ask())


def test_a_cancelled_task_cancels_its_job(thread):
    async def ask():
        desk, gate, ran = Desk(thread, Limits()), Gate(), []
        first = asyncio.ensure_future(desk.run(Asking(), "page", None, gate))
        await begun(gate)
        task = asyncio.ensure_future(desk.run(Asking(), "page", None, lambda: ran.append(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        assert await first == "through the gate"
        assert await desk.run(Asking(), "page", None, lambda: ran) == []

    asyncio.run(ask())


@pytest.mark.parametrize("problem", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_whatever_leaves_a_job_is_an_exception_and_the_thread_goes_on(problem, thread):
    async def ask():
        desk = Desk(thread, Limits())

        def work():
            raise problem

        with pytest.raises(problem if problem is ValueError else RuntimeError):
            await desk.run(Asking(), "page", None, work)
        assert await desk.run(Asking(), "page", None, lambda: 1) == 1

    asyncio.run(ask())


def test_what_is_prepared_comes_first_and_its_error_is_of_no_request(thread):
    async def ask():
        desk, done = Desk(thread, Limits()), []
        desk.prepare(lambda: done.append(1))
        desk.prepare(lambda: done[5])
        assert await desk.run(Asking(), "page", None, lambda: done) == [1]

    asyncio.run(ask())


def test_at_the_end_all_jobs_are_refused_and_the_thread_ends(thread):
    async def ask():
        desk, gate, ran = Desk(thread, Limits()), Gate(), []
        running = asyncio.ensure_future(desk.run(Asking(), "page", None, gate))
        await begun(gate)
        waiting = asyncio.ensure_future(desk.run(Asking(), "page", None, lambda: ran.append(1)))
        await asyncio.sleep(0)
        thread.end()
        assert [await status_of(running), await status_of(waiting)] == [503, 503]
        assert await status_of(desk.run(Asking(), "page", Order("a", 1), lambda: ran.append(2))) == 503
        assert desk._last == {("a", "page"): (1, None)}  # no work is kept
        gate.opened.set()
        await asyncio.to_thread(thread._thread.join, 60)
        assert ran == []

    asyncio.run(ask())


def test_only_the_model_thread_is_ended_by_check(thread):
    async def ask():
        gate = Gate()
        job = Job(gate)
        thread.submit(job)
        await begun(gate)
        job.cancel(Refusal(409, "No."))
        thread.check()  # another thread, such as one that loads a model for a test
        gate.opened.set()

    asyncio.run(ask())
    assert not issubclass(Cancelled, Exception)


def test_an_order_has_a_client_and_a_number():
    assert Order.of(None, None) is None
    assert Order.of("a", 3) == Order("a", 3)
    for client, number in ((None, 1), ("a", None), ("", 1), ("a" * 65, 1)):
        with pytest.raises(Refusal) as refusal:
            Order.of(client, number)
        assert refusal.value.status == 400


def test_few_clients_are_remembered(thread):
    async def ask():
        desk = Desk(thread, Limits())
        for number in range(1100):
            await desk.run(Asking(), "page", Order(str(number), 0), lambda: None)
        assert len(desk._last) <= 1024

    asyncio.run(ask())
