"""Gateways that die."""

from support import Stack, assert_ended_once, new_job, wait_for


def test_a_job_recorded_by_a_gateway_that_died_before_its_hint_is_answered(own_stack: Stack) -> None:
    own_stack.start_worker()
    own_stack.store.submit(new_job("orphan"), max_queued=10)
    own_stack.wait_for_state("orphan", "done")
    assert_ended_once(own_stack.store, "orphan", "done")


def test_a_gateway_killed_in_the_middle_of_a_stream_loses_nothing(own_stack: Stack) -> None:
    own_stack.start_worker(DURE_WORKER_SCRIPTED_TOKEN_S="0.03")
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    own_stack.gateway.kill()
    own_stack.gateway.wait()
    own_stack.gateway = own_stack.start("dure_gateway", "gateway-2")
    wait_for(own_stack.is_up, "the second gateway")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_two_gateways_reconcile_the_same_dead_worker_once(own_stack: Stack) -> None:
    port = str(own_stack.web_port + 1)
    own_stack.start("dure_gateway", "gateway-2", DURE_GATEWAY_PORT=port, DURE_GATEWAY_WEB_PORT=port)
    worker = own_stack.start_worker("first", DURE_WORKER_SCRIPTED_TOKEN_S="0.05")
    job_ids = [own_stack.submit(max_tokens=60) for _ in range(4)]
    for job_id in job_ids:
        own_stack.wait_for_text(job_id)
    worker.kill()
    own_stack.start_worker("second")
    for job_id in job_ids:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")
