"""The worker: one model, a few slots, jobs from Redis."""
