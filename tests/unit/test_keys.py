from dure import keys


def test_no_two_things_share_a_key() -> None:
    made = [
        keys.job("a"),
        keys.events("a"),
        keys.idempotency("default", "a"),
        keys.conversation("default", "a"),
        keys.worker("a"),
        keys.model_queue("a"),
        keys.worker_queue("a"),
        keys.JOBS_QUEUED,
        keys.JOBS_RUNNING,
        keys.WORKERS,
    ]
    assert len(set(made)) == len(made)


def test_tenants_have_keys_of_their_own() -> None:
    assert keys.conversation("마을", "a") != keys.conversation("이웃", "a")
    assert keys.idempotency("마을", "a") != keys.idempotency("이웃", "a")


def test_a_queue_has_one_list_for_each_priority_and_the_highest_has_its_plain_name() -> None:
    lists = keys.queue_keys("celery.모델")
    assert lists[0] == "celery.모델"
    assert len(set(lists)) == len(keys.PRIORITY_STEPS)
    assert lists[1] == "celery.모델\x06\x166"
