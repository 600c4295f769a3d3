"""Every Redis key of the job protocol: pattern, type, meaning, expiry.

| key                    | type   | holds                                       | expires                          |
|------------------------|--------|---------------------------------------------|----------------------------------|
| job:{id}               | hash   | the job, the single truth about it          | 24 h after its final state (*)   |
| job:{id}:ev            | stream | its events, read by gateways                | 1 h after its final state        |
| jobs:queued            | zset   | ids by time of queueing (ms)                | never; members leave             |
| jobs:running           | zset   | ids by end of lease (ms)                    | never; members leave             |
| jobs:quarantined       | zset   | ids of jobs that ended their workers, by ms | never; members leave after 7 d   |
| schema:oldest          | string | oldest job schema that may take part        | never                            |
| idem:{tenant}:{key}    | string | "<job id> <sha256 of the request>"          | 24 h                             |
| conv:{tenant}:{id}     | list   | turns of a conversation, JSON, oldest first | 7 days after its last answer     |
| worker:{name}          | hash   | a live worker: model, slots, context, …     | 15 s, renewed every 5 s          |
| workers                | zset   | worker names by last sign of life (ms)      | never; gateways drop the old     |
| celery.{model}         | list   | wake-up hints for any worker of that model  | never (kombu owns it)            |
| w.{name}               | list   | wake-up hints for one worker                | never (kombu owns it)            |
| unacked, unacked_index | hash…  | hints taken and not yet acknowledged        | never (kombu owns them)          |

(*) 7 days for a quarantined job.

kombu adds a separator and a number to a queue's key for each priority below the highest; `queue_keys` knows them.
"""

JOBS_QUEUED = "jobs:queued"
JOBS_RUNNING = "jobs:running"
JOBS_QUARANTINED = "jobs:quarantined"
SCHEMA_OLDEST = "schema:oldest"
WORKERS = "workers"

# 0 is served first. The same in every process, and few: each step is one more key in every BRPOP.
PRIORITY_URGENT = 0  # jobs that had begun and lost their worker: somebody has seen half an answer
PRIORITY_NORMAL = 6
PRIORITY_STEPS = (PRIORITY_URGENT, PRIORITY_NORMAL)
_KOMBU_PRIORITY_SEPARATOR = "\x06\x16"

KEEP_JOB_S = 24 * 3600
KEEP_EVENTS_S = 3600
KEEP_QUARANTINED_S = 7 * 24 * 3600  # long enough for somebody to look
KEEP_IDEMPOTENCY_S = 24 * 3600
KEEP_CONVERSATION_S = 7 * 24 * 3600
WORKER_TTL_S = 15

# There is one tenant until keys of access exist.
DEFAULT_TENANT = "default"


def job(job_id: str) -> str:
    return f"job:{job_id}"


def events(job_id: str) -> str:
    return f"job:{job_id}:ev"


def idempotency(tenant: str, key: str) -> str:
    return f"idem:{tenant}:{key}"


def conversation(tenant: str, conversation_id: str) -> str:
    return f"conv:{tenant}:{conversation_id}"


def worker(name: str) -> str:
    return f"worker:{name}"


def model_queue(model: str) -> str:
    return f"celery.{model}"


def worker_queue(name: str) -> str:
    return f"w.{name}"


def queue_keys(queue: str) -> list[str]:
    """Lists in which kombu keeps the messages of one queue, highest priority first."""
    return [queue if step == 0 else f"{queue}{_KOMBU_PRIORITY_SEPARATOR}{step}" for step in PRIORITY_STEPS]
