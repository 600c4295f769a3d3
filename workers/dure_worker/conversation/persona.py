"""Whom an answer speaks as: the persona that came with its job, or the shipped one of the names in it."""

from dure.job import JobPayload, Persona
from dure.persona import shipped
from dure_worker.korean.endings import Register


def persona_of(payload: JobPayload) -> Persona:
    """Raises PersonaUnknown for a name that this worker does not know."""
    return payload.persona or shipped().persona(payload.style, payload.personality)


def register_of(payload: JobPayload) -> Register | None:
    """What the Korean editor keeps the answer to. None where the client's own system message rules alone."""
    register = persona_of(payload).register
    return register and Register(register)
