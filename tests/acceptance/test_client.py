"""`dure.Client` and `dure.AsyncClient` against a real gateway."""

import asyncio

import httpx
import pytest

from dure import AsyncClient, Client
from dure.errors import ClientError
from support import Stack


def test_chat_stream_submit_and_cancel(scripted_stack: Stack) -> None:
    with Client(scripted_stack.url) as client:
        reply = client.chat("두레가 뭐예요?", style="casual", max_tokens=40)
        assert "두레가 뭐예요?" in reply.reply
        events = list(client.stream("또 물어요", conversation_id=reply.conversation_id, max_tokens=40))
        assert events[-1].reply is not None
        assert events[-1].reply.conversation_id == reply.conversation_id
        job = client.submit("긴 질문", max_tokens=2000, idempotency_key="client-1")
        assert client.submit("긴 질문", max_tokens=2000, idempotency_key="client-1").job_id == job.job_id
        assert client.cancel(job.job_id).job_id == job.job_id
        assert client.job(job.job_id).status in {"running", "cancelled"}
        scripted_stack.wait_for_state(job.job_id, "cancelled")


def test_the_async_client_does_the_same(scripted_stack: Stack) -> None:
    async def talk() -> None:
        async with AsyncClient(scripted_stack.url) as client:
            reply = await client.chat("두레가 뭐예요?", max_tokens=20)
            texts = [
                event.text async for event in client.stream("두레가 뭐예요?", max_tokens=20) if event.type == "token"
            ]
            assert "".join(texts).startswith(reply.reply)
            job = await client.submit("긴 질문", max_tokens=2000)
            await client.cancel(job.job_id)
            assert (await client.job(job.job_id)).status in {"running", "cancelled"}

    asyncio.run(talk())


def test_errors_carry_status_code_and_remedy(scripted_stack: Stack) -> None:
    with Client(scripted_stack.url, language="en") as client:
        with pytest.raises(ClientError, match="Send one of") as caught:
            client.chat("네", style="rude")
        assert (caught.value.status, caught.value.code) == (422, "not_a_choice")
        with pytest.raises(ClientError) as caught:
            list(client.stream("가" * 10_000))
        assert caught.value.code == "context_overflow"


def test_no_gateway_is_a_transport_error() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(httpx.TransportError):
        client.chat("네")
