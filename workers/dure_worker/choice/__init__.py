"""Which engine a worker takes where DURE_WORKER_ENGINE is `auto`: rules, then a measurement, which is remembered."""
