"""Queues: messages for workloads to hand each other."""

import msgspec

from leptonai.control.actions.named import create_named, delete_named, find_named, list_named
from leptonai.control.api.routing import DONE, Answer, Call, Route
from leptonai.control.api.views import metadata_of
from leptonai.core.access import Action
from leptonai.core.records import MessageQueue
from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec.values import MAX_MESSAGE_BYTES, Queue, QueueLength, QueueMessage


async def list_queues(call: Call) -> list[Queue]:
    found = await list_named(call.world, call.principal, call.workspace, MessageQueue)
    return [_view(each) for each in found]


async def create(call: Call) -> Queue:
    asked: Queue = await call.json()
    made = await create_named(call.world, call.principal, call.workspace, MessageQueue, asked.name)
    return _view(made)


async def delete(call: Call) -> Answer:
    name = call.path["name"]
    gone = await delete_named(call.world, call.principal, call.workspace, MessageQueue, name)
    await call.world.store.messages.forget(call.workspace, gone.id)
    return DONE


async def length(call: Call) -> QueueLength:
    queue = await _queue(call, Action.READ)
    return QueueLength(length=await call.world.store.messages.length(call.workspace, queue.id))


async def receive(call: Call) -> list[QueueMessage]:
    queue = await _queue(call, Action.USE)
    now_ms = call.world.clock.now_ms()
    message = await call.world.store.messages.receive(call.workspace, queue.id, now_ms)
    return [] if message is None else [QueueMessage(message=message)]


async def send(call: Call) -> Answer:
    queue = await _queue(call, Action.USE)
    asked = _message(await call.small_body())
    if len(asked.message.encode(errors="replace")) > MAX_MESSAGE_BYTES:
        raise TooLarge(
            f"the message has more than {MAX_MESSAGE_BYTES} bytes",
            hint="Keep what is large as an object or in storage, and send its name.",
        )
    if "\0" in asked.message:
        raise InvalidRequest("the message holds a NUL character", hint="Encode bytes as base64.")
    now_ms = call.world.clock.now_ms()
    await call.world.store.messages.send(call.workspace, queue.id, asked.message, now_ms)
    return DONE


def _message(raw: bytes) -> QueueMessage:
    """Not by `Call.json`: a message may be longer than any text that is part of a record."""
    try:
        return msgspec.json.decode(raw, type=QueueMessage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body: {error}", hint='Send {"message": "…"}, and the text as UTF-8.'
        ) from None


async def _queue(call: Call, action: Action) -> MessageQueue:
    name = call.path["name"]
    return await find_named(call.world, call.principal, call.workspace, MessageQueue, name, action)


def _view(queue: MessageQueue) -> Queue:
    return Queue(name=queue.name, metadata=metadata_of(queue))


ROUTES = (
    Route(
        method="GET",
        path="/queue",
        handler=list_queues,
        summary="List queues",
        answer=list[Queue],
    ),
    Route(
        method="POST",
        path="/queue",
        handler=create,
        summary="Create a queue",
        body=Queue,
        answer=Queue,
    ),
    Route(
        method="DELETE",
        path="/queue/{name}",
        handler=delete,
        summary="Remove a queue with all its messages",
    ),
    Route(
        method="GET",
        path="/queue/{name}/length",
        handler=length,
        summary="How many messages wait",
        answer=QueueLength,
    ),
    Route(
        method="GET",
        path="/queue/{name}/messages",
        handler=receive,
        summary="Take the first message: each goes to one receiver at most",
        answer=list[QueueMessage],
    ),
    Route(
        method="POST",
        path="/queue/{name}/messages",
        handler=send,
        summary="Put a message at the end; one that was sent within five minutes is not sent again",
        body=QueueMessage,
        audited=False,
    ),
)
