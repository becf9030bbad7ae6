"""Texts in the model thread: requests share a batch, have the texts that they have alone, and may leave."""

import asyncio
import gc
import weakref

import pytest

from attncli.config import SampleConfig
from attncli.generation.batch import RunningSample
from attncli.generation.ending import SampleText
from attncli.generation.engine import generate
from attncli.generation.events import Finished, Text
from attncli.generation.sampling import generators
from attncli.serve import texts as texts_module
from attncli.serve.refusal import Refusal
from attncli.serve.texts import TextRequest
from tests.support.serving import served


@pytest.fixture
def here(in_model_folder):
    with served(in_model_folder, texts=2, texts_waiting=3) as one:
        yield one


def samples_of(model, seeds, prompt="the cat", tokens=12, stop=()):
    ids = model.loaded.prompt(prompt)
    made = []
    for seed in seeds:
        config = SampleConfig(seed=seed, max_new_tokens=tokens, stop=stop)
        text = SampleText(0, model.loaded.tokenizer, config, model.loaded.end_ids, ids)
        made.append(RunningSample(list(ids), text, config, generators(seed, 1)[0]))
    return made


def alone(model, seed, prompt="the cat", tokens=12, stop=()):
    config = SampleConfig(seed=seed, max_new_tokens=tokens, stop=stop)
    loaded = model.loaded
    events = list(generate(model.backend, loaded.tokenizer, [loaded.prompt(prompt)], config, loaded.end_ids))
    return "".join(event.text for event in events if isinstance(event, Text))


class Client:
    """Asks as a route does: adds samples in the model thread, then reads their events."""

    def __init__(self, service):
        self.service = service

    async def run(self, work):
        return await self.service.desk.run(_Stays(), "texts", None, work)

    async def texts(self, seeds, tokens=12, most=None):
        request = TextRequest()
        model = await self.run(lambda: self.service.models.get(None))
        await self.run(lambda: self.service.texts.add(model, request, samples_of(model, seeds, tokens=tokens)))
        found, steps = dict.fromkeys(range(len(seeds)), ""), 0
        async for events in request.events():
            for event in events:
                if isinstance(event, Text):
                    found[event.sample] += event.text
            steps += 1
            if most is not None and steps == most:
                break
        return list(found.values())


class _Stays:
    async def receive(self):
        await asyncio.Event().wait()


def test_requests_beside_each_other_have_the_texts_that_they_have_alone(here):
    async def ask():
        client = Client(here.service)
        return await asyncio.gather(client.texts([1, 2]), client.texts([3]), client.texts([4, 1], tokens=5))

    texts = asyncio.run(ask())
    model = here.service.models.get(None)
    assert texts == [
        [alone(model, 1), alone(model, 2)], [alone(model, 3)], [alone(model, 4, tokens=5), alone(model, 1, tokens=5)],
    ]  # fmt: skip
    assert len({*texts[0], *texts[1], *texts[2]}) == 5


@pytest.mark.parametrize("stop", [(), ("e",)])
def test_a_stream_yields_its_first_token_at_once_and_the_rest_when_it_is_due(here, monkeypatch, stop):
    monkeypatch.setattr(texts_module, "_PAUSE", 1e9)

    async def parts(seed):
        client, request = Client(here.service), TextRequest()
        model = await client.run(lambda: here.service.models.get(None))
        await client.run(lambda: here.service.texts.add(model, request, samples_of(model, [seed], stop=stop)))
        return [[event.text for event in part if isinstance(event, Text)] async for part in request.events()]

    async def ask():
        return await asyncio.gather(*(parts(seed) for seed in (1, 2, 3)))

    model = here.service.models.get(None)
    for seed, found in enumerate(asyncio.run(ask()), 1):
        assert "".join(text for part in found for text in part) == alone(model, seed, stop=stop)
        assert len(found) <= 3  # the first token, what the first due step yields, the end


def test_a_small_cache_is_kept_for_the_next_text_and_a_large_one_is_freed(here, monkeypatch):
    def batches():
        return [texts.batch for texts in here.service.texts._idle.values()]

    async def caches():
        found = []
        for seed in (1, 2):
            await Client(here.service).texts([seed])
            found.append(await Client(here.service).run(batches))
        return found

    first, second = asyncio.run(caches())
    assert len(first) == 1
    assert first == second
    monkeypatch.setattr(texts_module, "_KEPT_BYTES", 0)
    assert asyncio.run(caches()) == [[], []]


def test_a_model_that_is_dropped_does_not_stay_in_memory_for_its_cache(here):
    models = here.service.models
    first = weakref.ref(models.get(None))
    asyncio.run(Client(here.service).texts([1]))
    asyncio.run(Client(here.service).run(lambda: None))  # the last step has ended
    assert first() in here.service.texts._idle
    models._held.clear()
    asyncio.run(Client(here.service).run(lambda: None))  # the thread forgets its last job
    gc.collect()
    assert first() is None
    assert not here.service.texts._idle


def test_a_request_that_is_left_frees_its_places(here):
    async def ask():
        client = Client(here.service)
        left = await client.texts([1, 2], tokens=10_000, most=2)
        after = await client.texts([5])
        return left, after

    left, after = asyncio.run(ask())
    assert all(left)
    assert after == [alone(here.service.models.get(None), 5)]


def test_too_many_samples_are_refused_and_nothing_of_them_runs(here):
    async def ask():
        client = Client(here.service)
        with pytest.raises(Refusal) as refusal:
            await client.texts([1] * 6)
        return refusal.value, await client.texts([1] * 5, tokens=3)

    refusal, texts = asyncio.run(ask())
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "2")
    assert len(set(texts)) == 1


def test_an_error_in_a_step_ends_its_requests_and_no_others(here, monkeypatch):
    async def ask():
        client = Client(here.service)
        model = here.service.models.get(None)
        monkeypatch.setattr(model.backend, "read", lambda *given: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            await client.texts([1])
        monkeypatch.undo()
        return await client.texts([2])

    assert asyncio.run(ask()) == [alone(here.service.models.get(None), 2)]


def test_the_end_of_the_server_ends_its_texts(in_model_folder):
    async def ask(one):
        waiting = asyncio.ensure_future(Client(one.service).texts([1], tokens=10_000))
        await asyncio.sleep(0)
        model = await Client(one.service).run(lambda: one.service.models.get(None))
        assert model
        one.service.thread.end()
        with pytest.raises(Refusal) as refusal:
            await waiting
        return refusal.value.status

    with served(in_model_folder) as one:
        assert asyncio.run(ask(one)) == 503


def test_finished_events_have_the_number_of_the_sample_in_its_request(here):
    async def ask():
        client, request = Client(here.service), TextRequest()
        model = await client.run(lambda: here.service.models.get(None))
        await client.run(lambda: here.service.texts.add(model, request, samples_of(model, [1, 2, 3], tokens=2)))
        return sorted(
            [event.sample async for part in request.events() for event in part if isinstance(event, Finished)]
        )

    assert asyncio.run(ask()) == [0, 1, 2]
