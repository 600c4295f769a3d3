import asyncio
import signal

from dure_gateway.services import _end_process


def test_a_gateway_whose_helper_dies_asks_itself_to_stop() -> None:
    """A reconciler that died in silence would leave lost hints lost."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    async def run() -> None:
        async def fail() -> None:
            raise ValueError

        async def wait() -> None:
            await asyncio.Event().wait()

        dies, is_cancelled = asyncio.create_task(fail()), asyncio.create_task(wait())
        for task in (dies, is_cancelled):
            task.add_done_callback(_end_process)
        await asyncio.sleep(0)
        is_cancelled.cancel()
        await asyncio.gather(dies, is_cancelled, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
